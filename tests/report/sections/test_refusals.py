"""The quarantine log, grouped."""

import json

import numpy as np

from fedmeta.experiment.rows import CLIENTS, ClientRow
from fedmeta.report.client_log import ClientLog
from fedmeta.report.sections.refusals import chart, clients_table, ranges, reasons_table


def row(round_: int, client: int, reason: str | None = None) -> ClientRow:
    about = {"round": round_, "client": client, "admitted": reason is None, "reason": reason}
    return CLIENTS.parse(json.dumps(about).encode())


LOG = ClientLog(
    [
        row(1, 3, "norm 12.5 exceeds max_norm 10"),
        row(1, 4),
        row(2, 3, "norm 99 exceeds max_norm 10"),
        row(3, 4, "the same update as client 0's"),
        row(5, 3, "norm 1e+20 exceeds max_norm 10"),
    ]
)


def test_reasons_that_differ_in_a_number_are_one() -> None:
    table = reasons_table(LOG)
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
    assert [r[:3] for r in clients_table(LOG).rows] == [
        [3, "norm … exceeds max_norm …", 3],
        [4, "the same update as client …'s", 1],
    ]


def test_rounds_are_stretches_and_long_lists_are_counted() -> None:
    assert ranges(np.array([4, 1, 2, 3, 9])) == "1–4, 9"
    assert (
        ranges(np.arange(1, 41, 2)) == "1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23 and 8 more stretches"
    )


def test_ten_thousand_rounds_are_sixty_bars_that_lose_nothing() -> None:
    rows = [row(r, r % 7, "late" if r % 3 else None) for r in range(1, 10_001)]
    (drawn,) = chart(ClientLog(rows))
    (series,) = drawn.series
    assert len(series.x) <= 60
    assert sum(value or 0 for value in series.y) == sum(1 for r in range(1, 10_001) if r % 3)


def test_without_refusals_there_is_no_chart() -> None:
    assert chart(ClientLog([row(1, 1)])) == []


def test_reasons_that_a_client_makes_up_are_counted_together() -> None:
    log = ClientLog(row(1, n, f"client failed: MadeUp{n}: x") for n in range(3000))
    first, *others = reasons_table(log).rows
    assert list(first[:3]) == ["other reasons", 2000, 2000]
    assert len(others) == 1000
    assert len(clients_table(log).rows) == 3000


def test_a_long_table_is_made_where_it_is_looked_at() -> None:
    log = ClientLog(row(1 + n // 7, n % 500, "not signed") for n in range(7000))
    rows = clients_table(log).rows
    assert len(rows) == 500
    assert list(rows) == [*rows[:100], *rows[100:400], *rows[400:]]
    assert (
        rows[3]
        == rows[3:4][0]
        == [
            3,
            "not signed",
            14,
            "1, 72, 144, 215, 287, 358, 430, 501, 572, 644, 715, 787 and 2 more stretches",
        ]
    )
