"""Header names that are not UTF-8, on Apache Kafka: the broker takes them, and no worker ends at them."""

# pyright: reportPrivateUsage=false, reportUnknownMemberType=false
# aiokafka's producer takes whole batches, and has no way to take the bytes of one.

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import pytest
from aiokafka import AIOKafkaProducer

from infra.broker.probe import claim_port
from streams.settings import Settings
from tests.integration.harness import (
    Outgoing,
    WorkerProcess,
    create_topics,
    new_settings,
    read_topic,
    run,
    wait_settled,
)
from tests.integration.oracle import final_lists
from tests.raw_names import READ_NAME, STAND_IN, put_raw_names

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(180)]

_RAW: Final = ((STAND_IN, b"x"),)
_ITEM: Final = "1082185"


async def _send(settings: Settings, records: Sequence[Outgoing], *, compress: bool) -> dict[tuple[str, int], int]:
    """Send them as one batch; returns the offset behind the last."""
    producer: Any = AIOKafkaProducer(bootstrap_servers=settings.broker.address)
    await producer.start()
    try:
        batch = producer.create_batch()
        for one in records:
            assert batch.append(key=one.key, value=one.value, timestamp=None, headers=list(one.headers)) is not None
        batch._buffer = put_raw_names(bytes(batch._build()), compress=compress)
        sent = await (await producer.send_batch(batch, records[0].topic, partition=0))
        return {(records[0].topic, 0): sent.offset + len(records)}
    finally:
        await producer.stop()


def _event(settings: Settings, user: str, headers: tuple[tuple[str, bytes], ...] = (), **fields: Any) -> Outgoing:
    event = {"user_id": user, "item_id": _ITEM, "timestamp": 1_767_225_600_000, **fields}
    return Outgoing(settings.topics.view, user.encode(), json.dumps(event).encode(), None, headers)


@pytest.mark.parametrize("compress", [False, True])
def test_events_with_such_headers_are_events_and_bad_ones_dead_letters(
    compress: bool, kafka: str, tmp_path: Path
) -> None:
    settings = new_settings(kafka, tmp_path, partitions=1, web_port=claim_port(0))
    create_topics(settings)
    bad = _event(settings, "user-c", (("trace", b"t"), *_RAW), timestamp="yesterday")
    records = [_event(settings, "user-a"), _event(settings, "user-b", _RAW), bad, _event(settings, "user-d")]
    with WorkerProcess(settings, tmp_path).start() as worker:
        wait_settled(settings, run(_send(settings, records, compress=compress)), 60, [worker])
        wait_settled(settings, run(_send(settings, [_event(settings, "user-e")], compress=compress)), 60, [worker])
        assert worker.terminate() == 0
    assert sorted(final_lists(settings)) == ["user-a", "user-b", "user-d", "user-e"]
    (letter,) = read_topic(settings, settings.topics.dead_letter, 1)
    assert (letter.key, letter.value) == (bad.key, bad.value)
    assert letter.headers[-2:] == (("trace", b"t"), (READ_NAME, b"x"))
    assert dict(letter.headers)["dl_code"] == b"schema"


def test_an_item_with_such_a_header_is_an_item(kafka: str, tmp_path: Path) -> None:
    settings = new_settings(kafka, tmp_path, partitions=1, web_port=claim_port(0))
    create_topics(settings)
    with WorkerProcess(settings, tmp_path).start() as worker:
        wait_settled(settings, run(_send(settings, [_event(settings, "user-a")], compress=False)), 60, [worker])
        assert worker.terminate() == 0
        best, *_ = final_lists(settings)["user-a"]["items"]
        gone = Outgoing(settings.topics.catalog, best["item_id"].encode(), None, None, _RAW)
        run(_send(settings, [gone], compress=False))
        worker.start()  # and reads the catalogue before any event
        wait_settled(settings, run(_send(settings, [_event(settings, "user-a")], compress=False)), 60, [worker])
        assert worker.terminate() == 0
    assert best["item_id"] not in {item["item_id"] for item in final_lists(settings)["user-a"]["items"]}
