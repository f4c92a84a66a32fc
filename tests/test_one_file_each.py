"""A part of each kind is one file: copied into fedmeta, all of them work in one run."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PARTS = {
    "tasks/families/ramp.py": """
from dataclasses import replace
from fedmeta.tasks.families.sinusoid import Sinusoid, SinusoidOptions

class RampOptions(SinusoidOptions):
    slope: float = 1.0

class Ramp(Sinusoid):
    Options = RampOptions

    def __init__(self, options, population, seed):
        super().__init__(options, population, seed)
        self.spec = replace(self.spec, objective="absolute_error")
""",
    "tasks/objectives/absolute_error.py": """
from fedmeta.tasks.measure import Measure
from fedmeta.tasks.objective import mean_of_examples
from fedmeta.tasks.objectives.regression import Regression

class AbsoluteError(Regression):
    measures = {"mae": Measure(low=0.0)}

    def measure(self, prediction, examples):
        return {"mae": mean_of_examples((prediction - examples["y"]).abs(), examples)}
""",
    "learning/algorithms/half_maml.py": """
from fedmeta.learning.algorithms.maml import MAML
from fedmeta.learning.inner import InnerOptions

class HalfOptions(InnerOptions):
    share: float = 0.5

class HalfMAML(MAML):
    Options = HalfOptions

    def task_updates(self, state, tasks):
        updates, metrics = super().task_updates(state, tasks)
        return {key: self.options.share * value for key, value in updates.items()}, metrics
""",
    "learning/models/wide.py": """
from fedmeta import options
from fedmeta.learning.models.mlp import MLP

class Wide(MLP):
    class Options(options.Options):
        width: int = 8

    def __init__(self, options, spec, outputs):
        super().__init__(MLP.Options(hidden=[options.width]), spec, outputs)
""",
    "federation/aggregation/shrunk_mean.py": """
from fedmeta import options
from fedmeta.federation.aggregation.mean import Mean

class ShrunkMean(Mean):
    class Options(options.Options):
        shrink: float = 0.9

    def result(self):
        return self.options.shrink * super().result()
""",
    "federation/behaviours/lazy.py": """
from fedmeta import options
from fedmeta.federation.behaviours import Behaviour

class Lazy(Behaviour):
    class Options(options.Options):
        work: float = 0.5

    def reply(self, message, context, call_next):
        return self.stage.change(call_next(message, context), lambda update: self.options.work * update)
""",
    "training/ways/twice.py": """
from fedmeta.training.ways.federated import Federated

class Twice(Federated):
    def train(self, round_):
        super().train(round_)
        return super().train(round_)
""",
    "incentives/rules/fixed_fee.py": """
from fedmeta import options
from fedmeta.incentives.rules import IncentiveRule

class FixedFee(IncentiveRule):
    class Options(options.Options):
        fee: float = 1.0

    def scores(self, game, rng):
        return [self.own.fee] * len(game.players)
""",
    "report/sections/weather.py": """
from fedmeta.report.page import Section
from fedmeta.report.sections import ReportSection

class Weather(ReportSection):
    order = 35

    @staticmethod
    def of_run(run):
        return Section("weather", "Weather", text="Fine")
""",
    "cli/commands/greet.py": """
import typer

def greet() -> None:
    typer.echo("hello")
""",
}
RUN = """
import json, sys
import fedmeta
from fedmeta.config import Config
from fedmeta.options import parse_options
from fedmeta.report.writing import write_report
from pathlib import Path

common = dict(task="ramp", data={"slope": 2.0}, algorithm="half_maml", model="wide", rounds=2, clients=6,
    test_clients=2, cohort=3, workers=1, evaluation={"tasks": 2, "steps": [0, 1]},
    learner={"inner_lr": 0.01, "share": 0.25}, network={"width": 5})
federated = parse_options(Config, common | dict(
    aggregation={"rule": "shrunk-mean", "shrink": 0.5},
    behaviours=[{"kind": "lazy", "clients": [1], "work": 0.1}],
    incentives={"rule": "fixed-fee", "fixed_fee": {"fee": 3.0}}))
one = fedmeta.run(federated, out=Path("one"))
two = fedmeta.run(parse_options(Config, common | {"training": "twice"}), out=Path("two"))
write_report([one.run], out=Path("report.html"))
print(json.dumps({
    "code": fedmeta.__file__,
    "status": [one.status, two.status],
    "config": fedmeta.RunFolder.open(one.run).config.model_dump(mode="json"),
    "scores": sorted({row["score"] for row in fedmeta.RunFolder.open(one.run).clients()}),
}))
"""


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a copy of fedmeta that has one file more for each kind of part."""
    root = Path(__file__).resolve().parents[1]
    house = tmp_path_factory.mktemp("house")
    shutil.copytree(root / "fedmeta", house / "fedmeta", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(root / "simulations", house / "simulations")
    for name, text in PARTS.items():
        assert not (house / "fedmeta" / name).exists()
        (house / "fedmeta" / name).write_text(text)
    return house


def in_house(house: Path, *arguments: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(house)}
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=house,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_part_of_each_kind_is_one_file_with_its_settings_in_it(house: Path) -> None:
    said = json.loads(in_house(house, "-c", RUN).splitlines()[-1])
    assert Path(said["code"]).is_relative_to(house)
    assert said["status"] == ["finished", "finished"]
    config = said["config"]
    assert (config["data"]["slope"], config["learner"]["share"], config["network"]) == (
        2.0,
        0.25,
        {"width": 5},
    )
    assert (config["aggregation"]["shrink"], config["incentives"]["fixed_fee"]) == (0.5, {"fee": 3.0})
    assert config["behaviours"] == [{"kind": "lazy", "clients": [1], "work": 0.1}]
    assert said["scores"] == [3.0]
    assert "Weather" in (house / "report.html").read_text()


@pytest.mark.slow
def test_new_parts_are_listed_with_their_settings_and_a_new_command_runs(house: Path) -> None:
    assert in_house(house, "-m", "fedmeta", "greet") == "hello\n"
    listed = in_house(house, "-m", "fedmeta", "list", "parts", "--json")
    for name in (
        "ramp",
        "absolute_error",
        "half_maml",
        "wide",
        "shrunk-mean",
        "lazy",
        "twice",
        "fixed-fee",
    ):
        assert f'"name": "{name}"' in listed
    algorithms = json.loads(in_house(house, "-m", "fedmeta", "list", "algorithms", "--json"))
    (half,) = [one for one in algorithms["algorithms"] if one["name"] == "half_maml"]
    assert (half["paper"], half["second_order"]) == ("", True)
    keys = in_house(house, "-m", "fedmeta", "list", "keys", "--json")
    assert "aggregation.shrink" in keys
    assert "incentives.fixed_fee.fee" in keys
