"""The quarantine log, grouped."""

import json

from fedmeta.experiment.rows import CLIENTS, ClientRow
from fedmeta.report.sections.refusals import chart, clients_table, ranges, reasons_table, refused


def row(round_: int, client: int, reason: str | None = None) -> ClientRow:
    about = {"round": round_, "client": client, "admitted": reason is None, "reason": reason}
    return CLIENTS.parse(json.dumps(about).encode())


ROWS = [
    row(1, 3, "norm 12.5 exceeds max_norm 10"),
    row(1, 4),
    row(2, 3, "norm 99 exceeds max_norm 10"),
    row(3, 4, "the same update as client 0's"),
    row(5, 3, "norm 1e+20 exceeds max_norm 10"),
]


def test_reasons_that_differ_in_a_number_are_one() -> None:
    table = reasons_table(refused(ROWS))
    assert [list(r) for r in table.rows] == [
        [
            "norm … exceeds max_norm …",
            3,
            1,
            "1–2, 5",
            "norm 12.5 exceeds max_norm 10 (client 3, round 1)",
        ],
        [
            "the same update as client …'s",
            1,
            1,
            "3",
            "the same update as client 0's (client 4, round 3)",
        ],
    ]
    assert [r[:3] for r in clients_table(refused(ROWS)).rows] == [
        [3, "norm … exceeds max_norm …", 3],
        [4, "the same update as client …'s", 1],
    ]


def test_rounds_are_stretches_and_long_lists_are_counted() -> None:
    assert ranges([4, 1, 2, 3, 9]) == "1–4, 9"
    assert (
        ranges(list(range(1, 41, 2))) == "1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23 and 8 more stretches"
    )


def test_ten_thousand_rounds_are_sixty_bars_that_lose_nothing() -> None:
    rows = [row(r, r % 7, "late" if r % 3 else None) for r in range(1, 10_001)]
    (drawn,) = chart(rows, refused(rows))
    (series,) = drawn.series
    assert len(series.x) <= 60
    assert sum(value or 0 for value in series.y) == sum(1 for r in range(1, 10_001) if r % 3)


def test_nothing_refused_is_no_chart() -> None:
    assert chart([row(1, 1)], {}) == []
