"""A small synthetic run folder with real signatures."""

import hashlib
import json
import random
import struct
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from fedmeta.chain.keys import open_client_keys
from fedmeta.chain.options import ChainOptions
from fedmeta.chain.settle.journal_rows import Contribution, FrozenRound
from fedmeta.chain.signing import update_digest
from tests.chain.settle.helpers import run_id
from tests.chain.settle.rounds import POT, synthetic_round


def state(round_: int) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(round_)
    return {
        "layer.weight": generator.normal(size=(3, 4)).astype("<f4"),
        "layer.bias": generator.normal(size=3).astype("<f4"),
        "steps": np.array([round_], dtype="<i8"),
    }


def state_hash(round_: int) -> bytes:
    """By hand, from the format's description."""
    tensors, digest = state(round_), hashlib.sha256()
    for key, dtype, shape in (
        ("layer.bias", "<f4", "3"),
        ("layer.weight", "<f4", "3,4"),
        ("steps", "<i8", "1"),
    ):
        digest.update(b"\0".join([key.encode(), dtype.encode(), shape.encode(), b""]))
        values = tensors[key].ravel().tolist()
        digest.update(struct.pack(f"<{len(values)}{'q' if key == 'steps' else 'f'}", *values))
    return digest.digest()


def make_run(folder: Path, options: ChainOptions, rounds: int = 5) -> list[FrozenRound]:
    """Write a run's files; return its rounds as they will be frozen."""
    run = run_id(folder / "chain")
    keys = open_client_keys(options, 31337, run)
    (folder / "checkpoints").mkdir(parents=True)
    info = {"run_id": run.hex(), "status": "finished"}
    (folder / "run.json").write_text(json.dumps(info))
    frozen: list[FrozenRound] = []
    with (
        (folder / "clients.jsonl").open("wb") as clients,
        (folder / "metrics.jsonl").open("w") as metrics,
    ):
        for number in range(1, rounds + 1):
            rows = [_row(keys, run, number, c) for c in synthetic_round(number).contributions]
            rows.append(_refused(number))
            lines = [json.dumps(row).encode() + b"\n" for row in rows]
            clients.writelines(lines)
            model = state_hash(number)
            metrics.write(json.dumps({"round": number, "loss": 0.5, "model": model.hex()}) + "\n")
            contributions = tuple(_contribution(row) for row in rows if row["admitted"])
            evidence = hashlib.sha256(b"".join(lines)).digest()
            frozen.append(FrozenRound(number, model, evidence, contributions))
    for number in (rounds - 1, rounds):
        save_checkpoint(folder, number, state(number))
    return frozen


def save_checkpoint(folder: Path, number: int, tensors: dict[str, np.ndarray]) -> None:
    named = {f"state.{key}": value for key, value in tensors.items()}
    named["optimizer.momentum"] = np.zeros(3, dtype="<f4")
    save_file(named, folder / "checkpoints" / f"round-{number:06d}.safetensors")


def _row(keys: Any, run: bytes, number: int, c: Contribution) -> dict[str, Any]:
    digest = update_digest(run, number, c.tasks, c.update)
    return {
        "round": number,
        "client": c.client,
        "tasks": c.tasks,
        "admitted": True,
        "reason": None,
        "account": keys.address(c.client),
        "update": c.update.hex(),
        "signature": keys.sign(c.client, digest).hex(),
        "score": c.score,
        "reward": c.reward,
    }


def _refused(number: int) -> dict[str, Any]:
    generator = random.Random(number)
    signed = {"account": None, "update": None, "signature": None}
    paid = {"score": None, "reward": None}
    why = {"admitted": False, "reason": f"not finite {generator.random()}"}
    return {"round": number, "client": 9, "tasks": 0} | why | signed | paid


def _contribution(row: dict[str, Any]) -> Contribution:
    return Contribution(
        client=row["client"],
        account=row["account"],
        tasks=row["tasks"],
        update=bytes.fromhex(row["update"]),
        signature=bytes.fromhex(row["signature"]),
        score=row["score"],
        reward=row["reward"],
    )


BUDGET = 100 * POT
