"""With a pseudonym key nothing that a worker stores or publishes holds a plain user id; the key finds the user."""

from pathlib import Path

import msgspec
import pytest

from operators.privacy import Pseudonyms
from streams.clients.erase import erase
from streams.clients.errors import InputError
from streams.clients.inspect import inspect
from streams.clients.watch import watch
from streams.settings import PrivacySettings
from streams.topics import changelog_topic
from tests.integration.harness import Outgoing, Producer, WorkerProcess, create_topics, new_settings, read_topic, run

SECRET = "of-this-test-of-this-test-of-this-test"  # noqa: S105 - of no system
PLAIN = "ann-the-user-5d0c"


def test_no_plain_id_is_stored_or_published(embedded: str, tmp_path: Path) -> None:
    key_file = tmp_path / "pseudonyms"
    key_file.write_text(SECRET)
    without_key = new_settings(embedded, tmp_path)
    settings = msgspec.structs.replace(without_key, privacy=PrivacySettings(pseudonym_key_file=str(key_file)))
    topics = settings.topics
    create_topics(settings)
    pseudonym = Pseudonyms(SECRET.encode())(PLAIN.encode()).decode()
    body = msgspec.json.encode({"user_id": PLAIN, "item_id": "1082185", "timestamp": 1_767_225_600_000})
    with WorkerProcess(settings, tmp_path).start() as worker:
        worker.wait_ready()
        good, bad = (Outgoing(topics.view, PLAIN.encode(), value) for value in (body, body[:-1]))
        run(Producer(settings).send([good, bad]))
        (watched,) = watch(settings, user_id=PLAIN, from_beginning=True, count=1, timeout_s=60)
        assert watched.user_id == pseudonym
        assert watched.ranked is not None
        assert watched.ranked["user_id"] == pseudonym
        assert inspect(settings, PLAIN)["state"]["events_count"] == 1
        with pytest.raises(InputError, match="nothing is known"):
            inspect(without_key, PLAIN)
        (erased,) = erase(settings, [PLAIN], until_ms=None, timeout_s=60)
        assert erased.receipt is not None, worker.log_tail()
        with pytest.raises(InputError, match="nothing is known"):
            inspect(settings, PLAIN)
        assert worker.terminate() == 0
    one_partition = {topics.dead_letter, topics.receipts}
    for topic in (changelog_topic(settings.worker.app_id), topics.recommendations, *one_partition):
        records = read_topic(settings, topic, 1 if topic in one_partition else None)
        assert records, topic
        assert PLAIN not in repr([(record.key, record.value, record.headers) for record in records]), topic
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or PLAIN.encode() not in path.read_bytes(), path
