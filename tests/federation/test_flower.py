"""The one module that uses Flower's private interfaces."""

import time

import flwr
import pytest
from flwr.app import DEFAULT_TTL, ConfigRecord, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from fedmeta.errors import FedmetaError
from fedmeta.federation import check_flower
from fedmeta.federation.flower import LazyReply, addressed, as_server, stamp


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


class Written:
    """Content that counts how often it is written."""

    count = 0

    def write(self) -> RecordDict:
        self.count += 1
        return RecordDict({"config": ConfigRecord({"round": self.count})})


def metadata(message: Message) -> dict[str, object]:
    """All that its metadata say, without the time."""
    found = dict(vars(message.metadata))
    assert found.pop("_created_at") == pytest.approx(time.time(), abs=60)
    assert found.pop("_ttl") == pytest.approx(DEFAULT_TTL, abs=60)
    return found


def test_our_messages_have_the_metadata_of_flowers() -> None:
    with as_server():
        like, content = Message(RecordDict(), 0, "train", group_id="8"), RecordDict()
        request = addressed(like, content, 5)
        stamp(request, "request-1")
        stock = Message(RecordDict(), 5, "train", group_id="8")
        stamp(stock, "request-1")
        assert metadata(request) == metadata(stock)
        assert request.content is content
        answers = LazyReply(Written(), reply_to=request), Message(RecordDict(), reply_to=stock)
        assert metadata(answers[0]) == metadata(answers[1])
        assert not like.metadata.message_id


def test_a_lazy_reply_is_written_once_when_it_is_read() -> None:
    content = Written()
    with as_server():
        answer = LazyReply(content, reply_to=Message(RecordDict(), 5, "train"))
    assert answer.has_content()
    assert not answer.has_error()
    assert (content.count, answer.unwritten) == (0, content)
    assert answer.content["config"]["round"] == answer.content["config"]["round"] == 1
    assert answer.unwritten is None
