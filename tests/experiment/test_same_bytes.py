"""Runs that must not change by a bit while the code around them is moved.

``same_bytes.json`` holds a digest for each of these configs. A change that is meant to change results
records them again, and says so: ``python -m tests.experiment.test_same_bytes`` writes the file.

The math libraries choose other kernels on some processors, whatever they are told. Where even the commit
that recorded the digests does not reproduce them, record its digests in a second checkout, and copy that
file here to compare with.
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

RECORDED = Path(__file__).with_name("same_bytes.json")
FEW = {
    "kernels": "eager",
    "checkpoint_every": 2,
    "evaluation": {"tasks": 4, "steps": [0, 1, 3], "every": 2},
    "workers": 1,
}
# Written out here, and not shared with other tests: a recorded config must not change with theirs.
SINUSOID = FEW | {
    "task": "sinusoid",
    "algorithm": "maml",
    "model": "mlp",
    "rounds": 6,
    "clients": 9,
    "test_clients": 2,
    "validation_clients": 1,
    "cohort": 4,
    "tasks_per_client": 2,
    "data": {"shots": 5, "queries": 5},
    "network": {"hidden": [8, 8]},
    "server": {"schedule": "cosine"},
}
DIGITS = SINUSOID | {"task": "digits", "data": {"ways": 5, "shots": 1, "queries": 4}, "rounds": 4}
BEHAVIOURS = [
    {"kind": "zero-update", "clients": [1]},
    {"kind": "poison", "clients": [2]},
    {"kind": "disguised-copy", "clients": [3], "of": 0},
    {"kind": "noisy-data", "clients": [4]},
    {"kind": "little-data", "clients": [5]},
]
FAULTS = {"rates": {"late": 0.2, "nan": 0.1, "vanish": 0.1, "twice": 0.1, "crash-during": 0.1}}

CASES: dict[str, dict[str, Any]] = {
    "sinusoid, MAML": SINUSOID,
    "sinusoid, local steps, a norm limit": SINUSOID
    | {"algorithm": "reptile", "local_steps": 2, "server": {"optimizer": "SGD", "clip_norm": 0.5}},
    "sinusoid, centralized": SINUSOID | {"training": "centralized"},
    "sinusoid, local": SINUSOID | {"training": "local"},
    "digits, FOMAML, robust": DIGITS
    | {"algorithm": "fomaml", "cohort": 6, "aggregation": {"rule": "trimmed-mean"}},
    "digits, Meta-SGD, two workers": DIGITS | {"algorithm": "meta_sgd", "workers": 2},
    "digits, prototypes": DIGITS | {"algorithm": "protonet", "evaluation": {"tasks": 4, "steps": [0]}},
    "digits, FedAvg": DIGITS
    | {"algorithm": "fedavg", "local_steps": 3, "data": DIGITS["data"] | {"labels": "global"}},
    "digits, pretrained": DIGITS
    | {"algorithm": "pretrained", "data": DIGITS["data"] | {"labels": "global"}},
    "shakespeare, LSTM": SINUSOID
    | {
        "task": "shakespeare",
        "model": "lstm",
        "rounds": 2,
        "data": {"length": 10, "shots": 4, "queries": 4},
        "network": {"hidden": 8},
    },
    "omniglot, Conv4": SINUSOID
    | {
        "task": "omniglot",
        "model": "conv4",
        "rounds": 2,
        "data": {"partition": "iid", "validation_characters": 0.2},
        "network": {"width": 4},
    },
    "behaviours, paid by Shapley values": DIGITS
    | {"behaviours": BEHAVIOURS, "cohort": 6, "incentives": {"rule": "shapley", "tasks": 4}},
    "faults": SINUSOID | {"rounds": 12, "cohort": 5, "oversample": 1, "quorum": 2, "faults": FAULTS},
    "stakes on the embedded chain": DIGITS
    | {
        "behaviours": [{"kind": "poison", "clients": [2], "factor": 1e6}],
        "chain": {"provider": "embedded", "staking": {"enabled": True, "slash_after": 1}},
        "incentives": {"rule": "tasks"},
    },
    "Ray": SINUSOID | {"engine": "ray", "rounds": 3},
}


def run(config: Mapping[str, Any], folder: Path) -> dict[str, str]:
    """Run a config; return digests of its final state, its metrics, its clients and its test."""
    import fedmeta

    return digests(fedmeta.run(fedmeta.Config(**config), out=folder / "run").run)


def resumed(folder: Path) -> dict[str, str]:
    """Run half of the first case under a constant rate, resume it, and return its digests."""
    import fedmeta

    constant = {"server": {"schedule": "constant"}}
    half = fedmeta.run(fedmeta.Config(**SINUSOID | constant | {"rounds": 3}), out=folder / "run")
    return digests(fedmeta.resume(half.run, {"rounds": 6}).run)


RECORDED_WORDS = {"The federation as configured.": "The federation as the config has it."}
"""Sentences of today, and those of when the digests were recorded."""


def compared(folder: Path) -> dict[str, str]:
    """Compare two arms of the first case; return digests of the comparison's record and of a run."""
    import fedmeta

    execution = fedmeta.Execution(out=folder / "compared")
    config = fedmeta.Config(**SINUSOID | {"rounds": 3})
    fedmeta.compare(config, arms=["centralized", "federated"], seeds=2, execution=execution)
    said = json.loads((folder / "compared" / "compare.json").read_text())
    for arm in said["arms"]:
        arm["what"] = RECORDED_WORDS.get(arm["what"], arm["what"])
        # The key is newer than what is recorded: an arm whose settings were not searched for has none.
        assert arm.pop("search") == []
    runs = sorted((folder / "compared").glob("*/config.toml"))
    return {"compare.json": of_values(said["arms"])} | digests(runs[0].parent)


SPECIAL: dict[str, Callable[[Path], dict[str, str]]] = {"resumed": resumed, "compared": compared}


def digests(path: Path) -> dict[str, str]:
    """Return digests of what a run computed, as its typed readers return it, times aside.

    The codes of refusals are newer than what is recorded, which has their sentences.
    """
    from safetensors.torch import load_file

    from fedmeta import RunFolder

    folder = RunFolder.open(path)
    newest = max(folder.checkpoints.rounds())
    state = hashlib.sha256()
    for name, value in sorted(load_file(path / f"checkpoints/round-{newest:06d}.safetensors").items()):
        state.update(f"{name} {value.dtype} {tuple(value.shape)} ".encode())
        state.update(value.numpy().tobytes())
    return {
        "state": state.hexdigest(),
        "metrics": of_values(folder.metrics()),
        "clients": of_values(
            [{k: v for k, v in row.items() if k != "code"} for row in folder.clients()]
        ),
        "test": of_values(folder.test()),
    }


def of_values(value: Any) -> str:
    """Return the digest of plain values, without durations."""
    return hashlib.sha256(json.dumps(timeless(value), sort_keys=True).encode()).hexdigest()


def timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: timeless(one) for key, one in value.items() if "seconds" not in key and key != "run"
        }
    return [timeless(one) for one in value] if isinstance(value, list) else value


def measured(name: str) -> dict[str, str]:
    """Compute a case in a process whose arithmetic is that of any x86-64 processor."""
    plain = {
        "ATEN_CPU_CAPABILITY": "default",
        "MKL_CBWR": "COMPATIBLE",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "tests.experiment.test_same_bytes", name]
    done = subprocess.run(command, env=os.environ | plain, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return found


def missing(name: str) -> str | None:
    """Return why a case cannot be run here; None if it can."""
    if name == "Ray":
        from importlib.util import find_spec

        return None if find_spec("ray") else "Ray is not installed"
    needs_data = name.startswith(("omniglot", "shakespeare"))
    return "FEDMETA_DATA is not set" if needs_data and "FEDMETA_DATA" not in os.environ else None


@pytest.mark.slow
@pytest.mark.parametrize("name", [*CASES, *SPECIAL])
def test_a_run_has_the_recorded_bytes(name: str) -> None:
    recorded = json.loads(RECORDED.read_text())
    if recorded["torch"] != torch.__version__.partition("+")[0]:
        pytest.skip(f"recorded with torch {recorded['torch']}")
    if why := missing(name):
        pytest.skip(why)
    assert measured(name) == recorded["digests"][name]


def main() -> None:
    if len(sys.argv) > 1:
        name = sys.argv[1]
        with tempfile.TemporaryDirectory() as place:
            special = SPECIAL.get(name)
            found = special(Path(place)) if special else run(CASES[name], Path(place))
        print(json.dumps(found))
        return
    new = {name: measured(name) for name in [*CASES, *SPECIAL] if not missing(name)}
    text = {"torch": torch.__version__.partition("+")[0], "digests": new}
    RECORDED.write_text(json.dumps(text, indent=1) + "\n")


if __name__ == "__main__":
    main()
