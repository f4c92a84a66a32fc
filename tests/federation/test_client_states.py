"""The store of clients' memory: kept versions, the seal in a checkpoint, and damage."""

import os
import random
import sqlite3
from pathlib import Path

import pytest
import torch
from flwr.app import RecordDict

from fedmeta.errors import RunError
from fedmeta.federation.client_states import (
    ClientStates,
    ContextStates,
    StateForm,
    outdated,
    put_versions,
    versions_in,
)
from tests.federation.helpers import assert_same

TEMPLATE = {
    "a": torch.zeros(2, 3),
    "count": torch.zeros((), dtype=torch.int64),
    "wide": torch.zeros(1, dtype=torch.float64),
    "none": torch.zeros(0),
}
FORM = StateForm(TEMPLATE)


def test_rows_of_any_kind_come_back_as_they_were() -> None:
    generator = torch.Generator().manual_seed(1)
    states = {
        "a": torch.randn(4, 2, 3, generator=generator).transpose(1, 2).transpose(1, 2),
        "count": torch.arange(4),
        "wide": torch.randn(4, 1, generator=generator, dtype=torch.float64),
        "none": torch.zeros(4, 0),
    }
    packed = FORM.pack(states)
    assert {len(one) for one in packed} == {2 * 3 * 4 + 8 + 8}
    assert_same(FORM.unpack(packed), states)
    assert_same(FORM.unpack(packed[2:3]), {key: value[2:3] for key, value in states.items()})


@pytest.mark.parametrize(
    ("versions", "counted", "oldest", "expected"),
    [
        ([], 0, 0, []),
        ([3], 3, 5, []),
        ([3, 7], 3, 2, [7]),
        ([3, 7], 7, 6, []),
        ([3, 7], 7, 7, [3]),
        ([3, 5, 7], 7, 6, [3]),
        ([3, 5, 7], 7, 2, []),
        ([4], 0, 0, [4]),
    ],
)
def test_a_version_is_dropped_when_it_can_no_longer_be_requested(
    versions: list[int], counted: int, oldest: int, expected: list[int]
) -> None:
    assert outdated(versions, counted, oldest) == expected


def one(value: float) -> bytes:
    return FORM.pack({key: torch.full((1, *t.shape), value).to(t.dtype) for key, t in TEMPLATE.items()})[
        0
    ]


def test_a_context_and_a_file_hold_the_same_whatever_is_asked() -> None:
    """Random requests: both give what the rule says, which is kept here as a dict by round."""
    rng = random.Random(3)
    states, context = ClientStates(), ContextStates(RecordDict(), FORM)
    counted, last = 0, 0
    ever: dict[int, bytes | None] = {0: None}
    for round_ in range(1, 200):
        if rng.random() < 0.3:
            continue
        if last and rng.random() < 0.6:
            counted = last
        found = states.begin([8], [counted], round_ // 5)[0]
        assert found == context.begin(counted, round_ // 5) == ever[counted]
        last = round_
        ever[round_] = new = one(rng.random())
        states.propose(round_, [8], [new])
        context.propose(round_, new)
    assert states.versions(8) == versions_in(context._state)


def test_only_clients_that_were_asked_have_an_entry(tmp_path: Path) -> None:
    path = tmp_path / "clients.sqlite"
    states = ClientStates(path)
    states.begin(range(0, 100_000, 100), [0] * 1000, 0)
    states.propose(1, range(0, 100_000, 100), [one(1.0)] * 1000)
    states.count(1, range(0, 100_000, 200), 0)
    states.commit()
    rows = sqlite3.connect(path).execute("SELECT count(*) FROM states").fetchone()
    assert rows == (1000,)
    assert path.stat().st_size < 300_000


def fill(states: ClientStates, first: int, last: int) -> list[str]:
    """Let clients work in rounds, some of which do not count; return the seal of each round."""
    seals = []
    for round_ in range(first, last + 1):
        clients = random.Random(round_).sample(range(9), 4)
        states.begin(clients, states.counted(clients, round_), max(0, round_ - 6))
        states.propose(round_, clients, [one(client + round_ / 100) for client in clients])
        states.count(round_, sorted(clients)[:3], max(0, round_ - 6))
        seals.append(states.seal)
    return seals


def test_memory_is_the_same_after_going_back_to_any_kept_round(tmp_path: Path) -> None:
    path = tmp_path / "clients.sqlite"
    states = ClientStates(path)
    seals = fill(states, 1, 20)
    assert len(set(seals)) == 20
    states.commit()
    for start in (19, 17, 14):
        again = ClientStates(path)
        assert again.run == states.run
        assert again.agrees(seals[start - 1], start)
        assert not again.agrees(seals[start - 2], start)
        again.rewind(start)
        assert fill(again, start + 1, 20) == seals[start:]
        again.close()
    states.close()


def test_uncommitted_writes_are_gone(tmp_path: Path) -> None:
    path = tmp_path / "clients.sqlite"
    states = ClientStates(path)
    seals = fill(states, 1, 5)
    states.commit()
    fill(states, 6, 9)
    states.close()
    again = ClientStates(path)
    assert again.agrees(seals[4], 5)
    assert again.agrees(seals[4], 9)
    again.close()


def test_a_changed_value_or_a_lost_client_shows(tmp_path: Path) -> None:
    path = tmp_path / "clients.sqlite"
    states = ClientStates(path)
    seal = fill(states, 1, 8)[-1]
    states.commit()
    states.close()
    sound = path.read_bytes()
    live = "(client, round) IN (SELECT client, max(round) FROM counted GROUP BY client)"
    for change in (
        f"UPDATE states SET state = zeroblob(length(state)) WHERE {live}",
        f"DELETE FROM states WHERE {live} AND client = (SELECT max(client) FROM counted)",
        "DELETE FROM counted WHERE client = (SELECT min(client) FROM counted)",
    ):
        path.write_bytes(sound)
        with sqlite3.connect(path) as db:
            assert db.execute(change).rowcount > 0
        db.close()
        states = ClientStates(path)
        assert not states.agrees(seal, 8)
        states.close()


def test_an_invalid_file_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "clients.sqlite"
    path.write_bytes(b"not a database at all" * 100)
    with pytest.raises(RunError, match=r"clients.sqlite: file is not a database"):
        ClientStates(path)


def test_a_link_in_its_place_is_not_followed(tmp_path: Path) -> None:
    other = tmp_path / "other"
    os.symlink(other, tmp_path / "clients.sqlite")
    with pytest.raises(OSError, match=r"clients\.sqlite"):
        ClientStates(tmp_path / "clients.sqlite")
    assert not other.exists()


def test_two_threads_that_worked_on_copies_lose_nothing() -> None:
    """A node's late answer to one request is written after its answer to the next one."""
    states = ClientStates()
    states.propose(3, [1], [one(3)])
    early, late = states.versions(1), states.versions(1)
    states.merge(1, early, early | {7: one(7)})
    states.merge(1, late, late | {5: one(5)})
    assert states.versions(1) == {3: one(3), 5: one(5), 7: one(7)}


def test_strange_content_of_a_context_is_not_a_version() -> None:
    state = RecordDict()
    assert versions_in(state) == {}
    put_versions(state, {4: one(1)})
    assert ContextStates(state, StateForm({"other": torch.zeros(1)})).begin(4, 0) is None
    put_versions(state, {})
    assert len(state) == 0
