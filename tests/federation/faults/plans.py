"""A small federation under a random fault plan, and the invariants it must keep."""

import random
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from flwr.app import Message

from fedmeta.config import parts
from fedmeta.errors import DivergedError, UntrainedError
from fedmeta.experiment import Config, Listener, RunFolder, planning
from fedmeta.experiment.checkpoint import DamagedCheckpointError
from fedmeta.experiment.execute import execute
from fedmeta.federation import FaultPlan, Snapshot
from fedmeta.federation.cohort import sample_cohort
from fedmeta.federation.faults import KINDS
from tests.experiment.helpers import contents
from tests.federation.helpers import assert_same, run_on_grid

CLIENTS = 10
ROUNDS = 6
TIMEOUT = 600.0

REASONS = {
    "crash-before": "client failed: CrashError: crashed before it trained",
    "crash-during": "client failed: (RuntimeError: )?CrashError: crashed while it trained",
    "crash-after": "client failed: CrashError: crashed after it trained",
    "twice": "2 replies in one round, none counts",
    "old-round": r"reply to round \d+, not \d+",
    "wrong-keys": "'.+' is missing",
    "wrong-shapes": r"'.+' has shape \(.*\), not \(.*\)",
    "wrong-dtypes": "'.+' has dtype float16, not float32",
    "nan": "NaN in '.+'",
    "huge-tasks": "task count 1000000000 is not within 1 and 2",
    "garbage": "'.+' cannot be decoded",
    "no-records": "'arrays' is missing or not of type ArrayRecord",
}
"""Pattern of the gate's reason for each fault; replies with other faults are late or lost."""


class Killed(BaseException):
    """Simulates a killed process: a BaseException, which no handler of a run catches."""


@dataclass(frozen=True)
class Drawn:
    """A random federation, drawn from a seed.

    Attributes:
        config: The federation and its faults.
        killed_after: The second run is killed once it has logged this round.
    """

    config: Config
    killed_after: int


def draw(seed: int) -> Drawn:
    """Draw a federation, its faults, and the round after which its server is killed."""
    rng = random.Random(seed)
    cohort = rng.randint(3, 6)
    kinds = rng.sample(sorted(KINDS), rng.randint(1, len(KINDS)))
    total = rng.uniform(0.05, 0.9)
    weights = [rng.random() for _ in kinds]
    rates = {k: total * w / sum(weights) for k, w in zip(kinds, weights, strict=True)}
    config = Config(
        task="sinusoid",
        algorithm="maml",
        model="mlp",
        rounds=ROUNDS,
        clients=CLIENTS,
        cohort=cohort,
        oversample=rng.choice([0, 0, 1, 2, 4]),
        quorum=rng.randint(1, cohort),
        timeout=TIMEOUT,
        tasks_per_client=2,
        workers=1,
        seed=seed,
        checkpoint_every=rng.randint(1, 3),
        data={"shots": 3, "queries": 3},
        network={"hidden": [4]},
        faults={
            "rates": rates,
            "seconds": rng.choice([60.0, 600.0, 6000.0]),
            "away": rng.randint(1, 3),
            "entries": _entries(rng),
        },  # type: ignore[arg-type]
    )
    return Drawn(planning.resolve(config), rng.randint(1, ROUNDS))


def _entries(rng: random.Random) -> list[dict[str, Any]]:
    pairs = rng.sample([(c, r) for c in range(CLIENTS) for r in range(1, ROUNDS + 1)], rng.randint(0, 6))
    entries = []
    for client, round_ in pairs:
        kind = rng.choice(sorted(KINDS))
        entry: dict[str, Any] = {"kind": kind, "clients": [client], "rounds": [round_]}
        if kind == "late":
            entry["seconds"] = rng.choice([1.0, 599.0, 601.0, 1e6])
        if kind in ("vanish", "move"):
            entry["away"] = rng.randint(1, ROUNDS)
        entries.append(entry)
    return entries


def check(seed: int, folder: Path) -> RunFolder:
    """Run a seed's federation twice, once killed and resumed, and check the invariants.

    Args:
        seed: The seed.
        folder: Where the runs go.

    Returns:
        The uninterrupted run.

    Raises:
        AssertionError: If an invariant does not hold.
    """
    drawn = draw(seed)
    faults = parts.faults(drawn.config)
    whole, diverged = _run(drawn.config, folder / "whole")
    check_log(whole, drawn.config, faults, diverged)
    check_finite(whole)
    if not diverged:
        check_model(whole, drawn.config)
    killed, _ = _run(drawn.config, folder / "killed", drawn.killed_after)
    assert contents(killed.path) == contents(whole.path)
    assert killed.info.get("replies") == whole.info.get("replies")
    return whole


def _run(config: Config, path: Path, killed_after: int = 0) -> tuple[RunFolder, int]:
    """Run a config; return its folder and the round that diverged, or 0."""
    folder = RunFolder.create(path, config, {})
    learner = planning.check(config)

    def kill(record: Any) -> None:
        if record.round == killed_after:
            raise Killed

    try:
        try:
            execute(folder, config, learner, Listener(round=kill))
        except Killed:
            execute(folder, config, learner, Listener())
    except UntrainedError:
        assert folder.info["status"] == "failed"
    except DivergedError as error:
        return folder, int(re.findall(r"round (\d+) diverged", str(error))[0])
    return folder, 0


def check_log(folder: RunFolder, config: Config, faults: FaultPlan, diverged: int) -> None:
    """Check that the log has one line for each sampled client, with the right outcome."""
    metrics, clients = folder.metrics(), folder.clients()
    last = diverged - 1 if diverged else config.rounds
    assert [row["round"] for row in metrics] == list(range(1, last + 1))
    for row in metrics:
        round_ = row["round"]
        asked = sample_cohort(config.seed, round_, CLIENTS, config.cohort + config.oversample)
        rows = [one for one in clients if one["round"] == round_]
        assert [one["client"] for one in rows] == asked
        _check_counts(row, rows, config)
        for one in rows:
            _check_client(one, faults, round_)
        _check_first_come(rows, faults, round_, config)
    assert len(clients) == sum(row["cohort"] for row in metrics)
    if diverged:
        asked = sample_cohort(config.seed, diverged, CLIENTS, config.cohort + config.oversample)
        kinds = {fault.kind for c in asked if (fault := faults.due(diverged, c))}
        assert kinds == {"nan"}
    else:
        skipped = sum(row["skipped"] for row in metrics)
        assert folder.info["status"] == ("failed" if 2 * skipped > len(metrics) else "finished")
        if folder.info["replies"]:
            _check_sums(folder.info["replies"], metrics)


def _check_counts(row: dict[str, Any], rows: list[dict[str, Any]], config: Config) -> None:
    counts = Counter(one["outcome"] for one in rows)
    for name in ("admitted", "quarantined", "late", "lost", "surplus"):
        assert row[name] == counts[name], name
    assert sum(counts.values()) == row["cohort"]
    assert row["skipped"] == (row["admitted"] < config.quorum)
    assert all(one["admitted"] == (one["outcome"] == "admitted") for one in rows)
    assert all((one["reason"] is None) == one["admitted"] for one in rows)
    tasks = sum(one["tasks"] for one in rows)
    assert tasks == config.tasks_per_client * row["admitted"]
    assert row["tasks"] == (0 if row["skipped"] else tasks)


def _check_client(one: dict[str, Any], faults: FaultPlan, round_: int) -> None:
    fault = faults.due(round_, one["client"])
    kind = fault.kind if fault else None
    if fault is None or (kind == "late" and fault.seconds <= TIMEOUT):
        assert one["outcome"] in ("admitted", "surplus")
    elif kind in ("vanish", "move"):
        assert (one["outcome"], one["reason"]) == ("lost", f"no reply within {TIMEOUT:g} s")
    elif kind == "late":
        assert (one["outcome"], one["reason"]) == ("late", f"reply after {fault.seconds:g} s, not 600 s")
    else:
        assert one["outcome"] == "quarantined"
        assert re.fullmatch(REASONS[str(kind)], one["reason"]), (kind, one["reason"])


def _check_first_come(
    rows: list[dict[str, Any]], faults: FaultPlan, round_: int, config: Config
) -> None:
    def seconds(outcome: str) -> list[float]:
        met = (faults.due(round_, one["client"]) for one in rows if one["outcome"] == outcome)
        return [fault.seconds if fault else 0.0 for fault in met]

    admitted, surplus = seconds("admitted"), seconds("surplus")
    assert len(admitted) == min(config.cohort, len(admitted) + len(surplus))
    if surplus:
        assert config.oversample
        assert max(admitted) <= min(surplus)


def _check_sums(replies: dict[str, Any], metrics: list[dict[str, Any]]) -> None:
    for name in ("admitted", "quarantined", "late", "lost", "surplus", "skipped"):
        assert replies[name] == sum(row[name] for row in metrics)
    refused = replies["asked"] - replies["admitted"]
    assert sum(reason["count"] for reason in replies["reasons"]) == refused


def check_finite(folder: RunFolder) -> None:
    """Check that no checkpoint contains NaN, even in a run that diverged later."""
    for found in folder.checkpoints.newest_first():
        assert not isinstance(found, DamagedCheckpointError), found
        for value in (*found[0].state.values(), *found[0].optimizer.values()):
            assert bool(torch.isfinite(value).all())


def check_model(folder: RunFolder, config: Config) -> None:
    """Check that the model equals that of a run in which only the admitted clients replied."""
    snapshot, _ = folder.checkpoints.load(config.rounds)
    admitted = {(one["round"], one["client"]) for one in folder.clients() if one["admitted"]}
    round_ = 0

    def only_admitted(replies: list[Message]) -> list[Message]:
        nonlocal round_
        round_ += 1
        return [reply for reply in replies if (round_, reply.metadata.src_node_id - 2) in admitted]

    clean: Snapshot
    clean, _ = run_on_grid(planning.workload(config), planning.plan(config), change=only_admitted)
    for ours, others in ((snapshot.state, clean.state), (snapshot.optimizer, clean.optimizer)):
        assert_same(dict(sorted(ours.items())), dict(sorted(others.items())))
