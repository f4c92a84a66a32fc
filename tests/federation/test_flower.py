"""The one module that uses Flower's private interfaces."""

import flwr
import pytest
from flwr.app import Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from fedmeta.errors import FedmetaError
from fedmeta.federation import check_flower
from fedmeta.federation.flower import as_server


def test_the_installed_flower_works() -> None:
    assert check_flower() == flwr.__version__


def test_an_unknown_flower_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def changed(*_: object, **__: object) -> None:
        raise TypeError("unexpected signature")

    monkeypatch.setattr("fedmeta.federation.flower.Message", changed)
    with pytest.raises(FedmetaError, match=r"failed \(unexpected signature\); install 'flwr >=1.41"):
        check_flower()


def test_the_process_wide_identity_is_put_back() -> None:
    before = vars(TaskIdentity)["_run_id"]
    with as_server():
        assert Message(RecordDict(), 2, "train").metadata.src_node_id == 1
        with as_server():
            pass
        assert Message(RecordDict(), 2, "train").metadata.run_id == 1
    assert vars(TaskIdentity)["_run_id"] == before
