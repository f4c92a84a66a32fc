"""Clients one by one, added up while their log grows."""

import json
from pathlib import Path
from statistics import mean

import pytest

from fedmeta.experiment.client_totals import participants
from fedmeta.experiment.folder import RunFolder
from fedmeta.serve.clients import Clients
from tests.serve.serving import rows


def write(path: Path, *entries: dict[str, object]) -> None:
    with (path / "clients.jsonl").open("a") as log:
        log.writelines(json.dumps(entry) + "\n" for entry in entries)


def entry(client: int, round_: int = 1, reason: str | None = None, **more: object) -> dict[str, object]:
    admitted = reason is None
    values = {"tasks": 2 if admitted else 0, "loss": 0.5 if admitted else None}
    base = {"round": round_, "client": client, "admitted": admitted, "reason": reason}
    return base | values | more


def test_the_table_is_what_the_file_says(gallery: Path) -> None:
    run = gallery / "digits-001"
    found = {one["client"]: one for one in Clients(run).view()["clients"]}
    log = rows(run / "clients.jsonl")
    assert set(found) == {row["client"] for row in log}
    for client, one in found.items():
        mine = [row for row in log if row["client"] == client]
        admitted = [row for row in mine if row["admitted"]]
        assert (one["asked"], one["admitted"]) == (len(mine), len(admitted))
        for name, value in one["measures"].items():
            assert value == pytest.approx(mean(row[name] for row in admitted))
        assert set(one["measures"]) == ({"accuracy", "loss"} if admitted else set())
    earned = {one.client: one.earned / 1e6 for one in participants(RunFolder(run).clients())}
    assert {client: one["tokens"] for client, one in found.items()} == earned


def test_refused_updates_are_counted_by_reason_and_by_client(tmp_path: Path) -> None:
    write(tmp_path, entry(1), entry(2, reason="norm 12.5 exceeds max_norm 10.0"))
    write(
        tmp_path, entry(2, 2, reason="norm 99.1 exceeds max_norm 10.0"), entry(3, 2, reason="not signed")
    )
    view = Clients(tmp_path).view()
    assert (view["updates"], view["refused"]) == (4, 3)
    assert view["reasons"] == [
        {
            "reason": "norm … exceeds max_norm …",
            "updates": 2,
            "example": "norm 12.5 exceeds max_norm 10.0 (client 2, round 1)",
        },
        {"reason": "not signed", "updates": 1, "example": "not signed (client 3, round 2)"},
    ]
    assert view["clients"][1]["refused"] == 2
    assert [one["client"] for one in view["latest"]] == [3, 2, 2]


def test_more_rows_are_added_and_a_log_that_was_cut_back_is_counted_anew(tmp_path: Path) -> None:
    write(tmp_path, entry(1), entry(2))
    clients = Clients(tmp_path)
    assert clients.view()["updates"] == 2
    write(tmp_path, entry(1, 2))
    assert clients.view()["clients"][0]["asked"] == 2
    (tmp_path / "clients.jsonl").write_text("")
    write(tmp_path, entry(1))
    assert [one["asked"] for one in clients.view()["clients"]] == [1]


def test_reasons_that_a_client_makes_up_do_not_fill_the_memory(tmp_path: Path) -> None:
    made_up = [entry(1, reason=f"client failed: MadeUp{n}: x") for n in range(500)]
    write(tmp_path, *made_up)
    view = Clients(tmp_path).view()
    assert len(view["reasons"]) == 101
    other = view["reasons"][0]
    assert (other["reason"], other["updates"]) == ("other reasons", 400)
    assert len(view["latest"]) == 200


def test_rows_of_another_kind_break_nothing(tmp_path: Path) -> None:
    write(
        tmp_path, {"client": 1}, {"client": 2, "admitted": True, "loss": "?", "tasks": None, "score": []}
    )
    first, second = Clients(tmp_path).view()["clients"]
    assert (first["refused"], first["reasons"][0]["reason"]) == (1, "no reason given")
    assert (second["admitted"], second["measures"]["loss"], second["tasks"]) == (1, None, 0)


def test_of_a_refused_row_only_what_is_shown_is_kept(tmp_path: Path) -> None:
    write(tmp_path, entry(1, reason="x" * 50_000, more=["y" * 50_000]), entry(2, reason="not signed"))
    clients = Clients(tmp_path)
    first = clients.view()["latest"][-1]
    assert (first["client"], first["round"], len(first["reason"])) == (1, 1, 1000)
