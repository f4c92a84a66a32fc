"""Prints the tables of docs/results.md for a comparison: what `fedmeta compare` left, as Markdown.

python docs/make_comparison.py runs/compare-quickstart
"""

import json
import sys
from pathlib import Path
from typing import Any


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit((__doc__ or "").strip())
    data = json.loads((Path(sys.argv[1]) / "compare.json").read_text(encoding="utf-8"))
    first = data["arms"][0]["name"]
    steps = ["before" if step == 0 else str(step) for step in data["steps"]]
    rows = [["arm", *steps, f"last, minus {first}"]]
    rows += [_quality(arm) for arm in data["arms"]]
    print("\n".join(_markdown(rows)))
    if data["target"]:
        print(f"\nTarget: {data['target']['value']:.3f} after {data['target']['step']} steps")
    rows = [["arm", "rounds", "tasks", "MB sent", "rounds to target", "MB to target", "reached"]]
    rows += [_cost(arm) for arm in data["arms"]]
    print("\n".join(["", *_markdown(rows)]))


def _quality(arm: dict[str, Any]) -> list[str]:
    cells = [_interval(step) for step in arm["final"]]
    last = arm["difference"][-1] if arm["difference"] else None
    return [f"`{arm['name']}`", *cells, _interval(last, "+") if last else ""]


def _interval(value: dict[str, Any], sign: str = "") -> str:
    if value["mean"] is None:
        return "-"
    half = "" if value["ci95"] is None else f" ± {value['ci95']:.3f}"
    return f"{value['mean']:{sign}.3f}{half}"


def _cost(arm: dict[str, Any]) -> list[str]:
    sent = ((arm["bytes_down"] or 0) + (arm["bytes_up"] or 0)) / 1e6
    found = arm["to_target"] or {"rounds": {"mean": None}, "bytes": {"mean": None}, "reached": 0}
    rounds, sent_until = found["rounds"]["mean"], found["bytes"]["mean"]
    return [
        f"`{arm['name']}`",
        f"{arm['rounds']:,}",
        f"{arm['tasks']:,.0f}",
        f"{sent:,.0f}",
        "-" if rounds is None else f"{rounds:,.0f}",
        "-" if sent_until is None else f"{sent_until / 1e6:,.0f}",
        f"{found['reached']}/{len(arm['runs'])}",
    ]


def _markdown(rows: list[list[str]]) -> list[str]:
    head, *body = [f"| {' | '.join(row)} |" for row in rows]
    return [head, "|" + "---|" * len(rows[0]), *body]


if __name__ == "__main__":
    main()
