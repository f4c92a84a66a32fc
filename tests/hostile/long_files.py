"""Oversized logs of runs and ``compare.json`` files."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.hostile.corpus import Case, Make, comparison

MILLION = 1_000_000


def lines_of(count: int, line: Callable[[int], str]) -> Make:
    """Return a function that writes `count` lines."""

    def make(path: Path) -> None:
        with path.open("w") as file:
            file.writelines(map(line, range(count)))

    return make


def paid_line(round_: int, client: int) -> str:
    """Return the shortest row of ``clients.jsonl`` that pays a client."""
    score, about = client * 7919 % 1000 / 1000 + 1e-9 * client, '"tasks":2,"admitted":true'
    return f'{{"round":{round_},"client":{client},{about},"score":{score},"reward":{client % 997}}}\n'


def long_logs() -> Iterator[Case]:
    """Yield, for each log of a run, one of a million rows and one of a few huge rows."""
    refused = '{{"round":{0},"client":{0},"tasks":0,"admitted":false,"reason":"{1}"}}\n'
    full = {"update": "0" * 64, "signature": "0" * 130, "account": "0x" + "1" * 40, "norm": 0.5}
    more = json.dumps(full | {"code": None, "reason": None, "loss": 0.25, "outcome": "admitted"})[1:]
    nothings = ",".join(["[]"] * 300_000)
    names = ",".join(f'"k{n}":0' for n in range(60_000))
    step = '{"step":1,"accuracy":0.5,"ci95":0.1}'
    clients: dict[str, Make] = {
        "10^6 clients": lines_of(MILLION, lambda n: f'{{"round":1,"client":{n},"admitted":false}}\n'),
        "10^6 paid clients": lines_of(MILLION, lambda n: paid_line(1 + n % 3, n)),
        "10^4 paid clients, one per round": lines_of(10_000, lambda n: paid_line(1 + n, n)),
        "10^6 paid clients, one per round": lines_of(MILLION, lambda n: paid_line(1 + n, n)),
        "10^3 paid clients in 10^3 rounds": lines_of(
            MILLION, lambda n: paid_line(1 + n // 1000, n % 1000)
        ),
        "paid rows with all columns": lines_of(
            500_000, lambda n: f"{paid_line(1 + n % 1000, n)[:-2]},{more}\n"
        ),
        "paid in round 2^40": lines_of(2, lambda n: paid_line(1 + n * (2**40 - 2), n)),
        "10^6 norms": lines_of(MILLION, lambda n: refused.format(1 + n, f"norm {n} above 3")),
        "10^6 exceptions": lines_of(MILLION, lambda n: refused.format(1 + n, f"client failed: E{n}: x")),
        "rows of 300,000 lists": lines_of(
            260, lambda n: f'{{"round":1,"client":{n},"x":[{nothings}]}}\n'
        ),
        "refused rows of 60,000 keys": lines_of(
            250, lambda n: f'{{"round":1,"client":{n},"admitted":false,{names}}}\n'
        ),
    }
    metrics: dict[str, Make] = {
        "10^6 rounds": lines_of(
            MILLION, lambda n: f'{{"round":{n + 1},"loss":{n % 10},"accuracy":{n % 7 / 7}}}\n'
        ),
        "10^6 evaluations on test clients": lines_of(
            MILLION,
            lambda n: f'{{"round":{n + 1},"accuracy":0.4,"evaluation":[{step}],"test":[{step}]}}\n',
        ),
        "rows of 25,000 steps": lines_of(
            260, lambda n: f'{{"round":{n + 1},"loss":1,"test":[{",".join([step] * 25_000)}]}}\n'
        ),
        "different keys in each row": lines_of(
            20_000, lambda n: f'{{"round":{n + 1},"loss":1,"k{n}":0}}\n'
        ),
    }
    test: dict[str, Make] = {
        "10^6 test clients": lines_of(MILLION, lambda n: f'{{"client":{n},"steps":[{step}]}}\n'),
        "a different step for each of 10^6 clients": lines_of(
            MILLION, lambda n: f'{{"client":{n},"steps":[{{"step":{n},"accuracy":0.5}}]}}\n'
        ),
        "4,000 steps": lines_of(
            2000,
            lambda n: (
                f'{{"client":{n},"steps":['
                + ",".join(f'{{"step":{at},"accuracy":0.5}}' for at in range(4000))
                + "]}\n"
            ),
        ),
    }
    logs = {"clients.jsonl": clients, "metrics.jsonl": metrics, "test.jsonl": test}
    for kind, found in logs.items():
        for name, make in found.items():
            yield Case(kind, name, make)


def long_comparisons() -> Iterator[Case]:
    """Yield ``compare.json`` files with too many entries of each kind."""
    few = {"status": "finished"}
    many: dict[str, Callable[[], dict[str, Any]]] = {
        "150,000 arms": lambda: {"arms": [few | {"name": f"a{n}"} for n in range(150_000)]},
        "45,000 arms with curves": lambda: {"arms": _drawn(45_000)},
        "250 arms with curves": lambda: {"arms": _drawn(250)},
        "10^6 seeds": lambda: {"seeds": list(range(1_000_000)), "arms": _drawn(1)},
        "250 arms of 250 seeds": lambda: {
            "seeds": [0] * 250,
            "arms": [arm | {"final": [_AT | {"tasks_ci95": []}]} for arm in _drawn(250)],
        },
        "200,000 steps": lambda: {"arms": [few | {"name": "a", "final": _steps(200_000)}]},
        "250 steps of 250 arms": lambda: {
            "arms": [few | {"name": f"a{n}", "final": _steps(250)} for n in range(250)]
        },
        "10^5 runs": lambda: {"arms": [few | {"name": "a", "runs": _runs(100_000)}]},
        "20,000 runs": lambda: {
            "arms": [few | {"name": f"a{n}", "runs": _runs(500)} for n in range(40)]
        },
        "10^5 points of a curve": lambda: {"arms": [few | {"name": "a", "curve": [_POINT] * 100_000}]},
        "400,000 settings": lambda: {
            "arms": [few | {"name": "a", "settings": {f"k{n}": 0 for n in range(400_000)}}]
        },
    }
    for name, changes in many.items():
        yield Case("compare", name, _with(changes))
    yield Case("compare", "the same long run 500 times", _same_run_500_times)


_AT = {"step": 10, "mean": 0.5}
_POINT = {"round": 1, "tasks": 1, "bytes": 1, "mean": 0.5}


def _with(changes: Callable[[], dict[str, Any]]) -> Make:
    def make(path: Path) -> None:
        path.write_text(json.dumps(comparison() | changes(), separators=(",", ":")))

    return make


def _drawn(count: int) -> list[dict[str, Any]]:
    arm = {"status": "finished", "final": [_AT], "difference": [_AT], "curve": [_POINT]}
    return [arm | {"name": f"a{n}"} for n in range(count)]


def _steps(count: int) -> list[dict[str, Any]]:
    return [{"step": step, "mean": 0.5} for step in range(count)]


def _runs(count: int, name: str = "") -> list[dict[str, Any]]:
    return [{"seed": n, "run": name or f"x{n}", "status": "finished"} for n in range(count)]


def _same_run_500_times(path: Path) -> None:
    (path.parent / "one").mkdir()
    step = '{"step":10,"accuracy":0.5}'
    lines_of(10_000, lambda n: f'{{"client":{n},"steps":[{step}]}}\n')(
        path.parent / "one" / "test.jsonl"
    )
    _with(lambda: {"arms": [{"name": "a", "status": "finished", "runs": _runs(500, "one")}]})(path)
