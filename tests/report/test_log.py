"""Reading a log while another process writes it."""

import json
from pathlib import Path

import pytest

from fedmeta.experiment.rows import METRICS, MetricsRow
from fedmeta.report.log import Log, last_round


class Follower:
    def __init__(self, path: Path) -> None:
        self.rounds: list[int] = []
        self.log = Log(
            path.parent, METRICS, self.rounds.clear, lambda row: self.rounds.append(row["round"])
        )

    def now(self) -> list[int]:
        self.log.follow()
        return list(self.rounds)


def line(round_: int, **more: object) -> str:
    return json.dumps({"round": round_} | more) + "\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "metrics.jsonl"
    path.write_text(line(1) + line(2))
    return path


def add(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)


def test_a_half_written_line_is_left_for_later(path: Path) -> None:
    follower = Follower(path)
    add(path, '{"rou')
    assert follower.now() == [1, 2]
    assert follower.log.problem is None
    add(path, 'nd": 3}\n')
    assert follower.now() == [1, 2, 3]


def test_each_line_is_read_once(path: Path) -> None:
    path.write_text("".join(line(r, pad="x" * 1000) for r in range(1, 1001)))
    follower = Follower(path)
    follower.now()
    first = follower.log.bytes_read
    assert first == path.stat().st_size
    for _ in range(5):
        follower.now()
    add(path, line(1001))
    assert follower.now()[-1] == 1001
    # A look costs the few bytes that tell whether the log was cut back.
    assert follower.log.bytes_read - first < 6 * 300 + len(line(1001))


def test_rows_of_later_rounds_are_left_for_another_call(path: Path) -> None:
    add(path, line(3) + line(4) + line(3))
    follower = Follower(path)
    for last, rounds in ((0, []), (2, [1, 2]), (2, [1, 2]), (3, [1, 2, 3]), (9, [1, 2, 3, 4, 3])):
        follower.log.follow(last)
        assert follower.rounds == rounds
        assert follower.log.problem is None


def test_a_log_that_was_cut_back_is_read_anew(path: Path) -> None:
    follower = Follower(path)
    assert follower.now() == [1, 2]
    path.write_text(line(1))
    assert follower.now() == [1]


def test_a_log_that_was_cut_back_and_has_grown_past_the_old_place_is_read_anew(path: Path) -> None:
    """As after a resume: round 2 took other seconds, and lines come where others were before."""
    path.write_text(line(1, seconds=0.5) + line(2, seconds=0.25))
    follower = Follower(path)
    assert follower.now() == [1, 2]
    path.write_text(line(1, seconds=0.5) + line(2, seconds=0.125) + line(3, seconds=0.5))
    assert follower.now() == [1, 2, 3]


def test_a_file_in_the_place_of_another_is_read_anew(path: Path, tmp_path: Path) -> None:
    follower = Follower(path)
    follower.now()
    new = tmp_path / "new"
    new.write_text(line(1) + line(2) + line(3))
    new.rename(path)
    assert follower.now() == [1, 2, 3]


@pytest.mark.parametrize("bad", ["?", "[]", '{"round": "3"}', '{"round": 3', "\x00\x00", "[" * 5000])
def test_rows_before_a_damaged_line_are_kept(path: Path, bad: str) -> None:
    add(path, bad + "\n" + line(4))
    follower = Follower(path)
    assert follower.now() == [1, 2]
    assert follower.log.problem == "metrics.jsonl: line 3 is damaged"
    path.write_text(line(1) + line(2) + line(3))
    assert follower.now() == [1, 2, 3]
    assert follower.log.problem is None


def test_a_log_that_is_missing_says_so_and_may_come_later(tmp_path: Path) -> None:
    follower = Follower(tmp_path / "metrics.jsonl")
    assert follower.now() == []
    assert follower.log.problem == "metrics.jsonl is missing"
    add(tmp_path / "metrics.jsonl", line(1))
    assert follower.now() == [1]
    assert follower.log.problem is None


def test_the_last_row_is_found_at_the_end_of_a_long_log(path: Path) -> None:
    path.write_text("".join(line(r, pad="x" * 900) for r in range(1, 2001)) + '{"round": 20')
    assert last_round(path.parent) == ({"round": 2000, "pad": "x" * 900}, None)


@pytest.mark.parametrize(
    ("text", "problem"),
    [("", None), ('{"round"', None), ("?\n", "metrics.jsonl: its last line is damaged")],
)
def test_a_log_without_a_last_row(path: Path, text: str, problem: str | None) -> None:
    path.write_text(text)
    assert last_round(path.parent) == (None, problem)


def test_of_a_log_that_is_too_long_the_first_lines_are_followed(path: Path) -> None:
    rows: list[MetricsRow] = []
    # A line of nine values: a table, which counts as eight, and a comma.
    log = Log(path.parent, METRICS, rows.clear, rows.append, most=30)
    path.write_text("".join(f'{{"round": {n}, "loss": 1}}\n' for n in range(1, 8)))
    for _ in range(3):
        log.follow()
        assert log.problem == "metrics.jsonl is too long: its first 3 lines are read"
        assert [row["round"] for row in rows] == [1, 2, 3]
    path.write_text('{"round": 1, "loss": 1}\n')
    log.follow()
    assert (log.problem, len(rows)) == (None, 1)
