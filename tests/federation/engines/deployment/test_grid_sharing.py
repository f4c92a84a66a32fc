"""A shared grid works like a local one, and either side notices when the other ends."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from flwr.serverapp import Grid

from fedmeta.errors import RunError
from fedmeta.federation import Federation, Learner, Plan, VectorGrid
from fedmeta.federation.engines.deployment import grid_sharing
from fedmeta.federation.engines.deployment.grid_sharing import GridListener, RemoteGrid, share_grid
from fedmeta.federation.engines.node_directory import NodeDirectory
from fedmeta.federation.engines.vector.jobs import InProcess
from fedmeta.federation.flower import as_server
from fedmeta.learning.device import one_thread
from fedmeta.training import simulate
from tests.federation.helpers import SINUSOID, assert_same, train

PLAN = Plan(rounds=3, cohort=4)


@contextmanager
def shared(grid: Grid, folder: Path) -> Iterator[tuple[RemoteGrid, threading.Thread]]:
    with GridListener(folder) as listener:
        server = threading.Thread(target=share_grid, args=(grid, listener.address))
        server.start()
        yield listener.accept(30, lambda: None), server


def test_a_federation_on_a_shared_grid_is_the_same_to_the_last_bit(tmp_path: Path) -> None:
    learner = Learner.build(SINUSOID)
    with one_thread(), as_server():
        grid = VectorGrid(learner, InProcess(learner))
        with shared(grid, tmp_path) as (remote, server):
            assert remote.run == grid.run
            directory = NodeDirectory(remote, len(SINUSOID.population))
            end = train(Federation(learner, directory), PLAN)
            remote.close()
            server.join(30)
            assert not server.is_alive(), "whoever shares a grid ends when the other closes"
    assert_same(end.state, simulate(SINUSOID, PLAN, observer=lambda *_: None).state)


def test_a_superlink_that_stops_is_noticed(tmp_path: Path) -> None:
    class Gone(Exception):
        pass

    class Dying(VectorGrid):
        asked = 0

        def get_node_ids(self) -> list[int]:
            self.asked += 1
            if self.asked > 1:
                raise Gone
            return []

    def die() -> None:
        with pytest.raises(Gone):
            share_grid(grid, listener.address)

    learner = Learner.build(SINUSOID)
    grid = Dying(learner, InProcess(learner))
    with GridListener(tmp_path) as listener:
        server = threading.Thread(target=die)
        server.start()
        remote = listener.accept(30, lambda: None)
        for _ in range(2):
            with pytest.raises(RunError, match="the SuperLink ended the run"):
                remote.get_node_ids()
        server.join(30)


def test_a_superlink_that_does_not_answer_is_not_awaited_forever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()

    class Stuck(VectorGrid):
        asked = 0

        def get_node_ids(self) -> list[int]:
            self.asked += 1
            if self.asked > 1:
                go_on.wait(60)
            return []

    learner = Learner.build(SINUSOID)
    with shared(Stuck(learner, InProcess(learner)), tmp_path) as (remote, server):
        monkeypatch.setattr(grid_sharing, "ANSWER_SECONDS", 0.2)
        with pytest.raises(RunError, match=r"the SuperLink has not answered for 0\.2 s"):
            remote.get_node_ids()
        remote.close()
        go_on.set()
        server.join(30)
        assert not server.is_alive()


def test_a_serverapp_that_never_connects_is_awaited_until_the_deadline(tmp_path: Path) -> None:
    with GridListener(tmp_path) as listener, pytest.raises(RunError, match=r"ServerApp within 0\.1 s"):
        listener.accept(0.1, lambda: None)


def test_nothing_is_left_of_a_listener_without_a_connection(tmp_path: Path) -> None:
    before = threading.active_count()
    with GridListener(tmp_path):
        pass
    for thread in threading.enumerate():
        if thread.name == "grid-listener":
            thread.join(30)
    assert threading.active_count() <= before
    assert list(tmp_path.iterdir()) == []
