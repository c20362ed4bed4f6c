"""The requests on the wire, byte by byte after Apache Kafka's message definitions."""

# pyright: reportPrivateUsage=false, reportUnknownMemberType=false

import asyncio
import struct
from io import BytesIO
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.errors import GroupAuthorizationFailedError, IllegalGenerationError, NotCoordinatorForGroupError
from aiokafka.structs import OffsetAndMetadata, TopicPartition

from streams.protocol import (
    GroupMember,
    GroupOffset,
    OffsetFetchRequest,
    TxnOffsetCommitRequest,
    commit_as_member,
    offsets_of_group,
)

VIEW = TopicPartition("view", 3)
VERSIONS = {28: (0, 5), 9: (1, 10)}


def text(value: str) -> bytes:
    """A compact string: length + 1, then the bytes."""
    return bytes([len(value) + 1]) + value.encode()


def test_offsets_in_a_transaction_name_generation_and_member() -> None:
    member = GroupMember("group", 7, "member")
    request = TxnOffsetCommitRequest("transaction", 5, 2, member, {VIEW: OffsetAndMetadata(41, "owner")})
    partition = struct.pack(">iqi", 3, 41, -1) + text("owner") + b"\x00"
    topic = b"\x02" + text("view") + b"\x02" + partition + b"\x00"
    expected = text("transaction") + text("group") + struct.pack(">qhi", 5, 2, 7) + text("member") + b"\x00" + topic
    prepared = request.prepare(VERSIONS)
    assert (prepared.API_KEY, prepared.API_VERSION) == (28, 3)
    assert prepared.encode() == expected + b"\x00"


def test_an_old_broker_is_refused() -> None:
    member = GroupMember("group", 7, "member")
    with pytest.raises(NotImplementedError):
        TxnOffsetCommitRequest("transaction", 5, 2, member, {}).prepare({28: (0, 2)})


@pytest.mark.parametrize("stable", [True, False])
def test_offsets_are_asked_for_as_stable_or_not(stable: bool) -> None:
    prepared = OffsetFetchRequest("group", [VIEW], stable=stable).prepare(VERSIONS)
    topic = b"\x02" + text("view") + b"\x02" + struct.pack(">i", 3) + b"\x00"
    assert (prepared.API_KEY, prepared.API_VERSION) == (9, 7)
    assert prepared.encode() == text("group") + topic + bytes([stable]) + b"\x00"


def answer(*rows: tuple[int, int, str, int], code: int = 0) -> Any:
    """A response of one topic; a row is partition, offset, metadata, error code."""
    body = b"".join(
        struct.pack(">iqi", partition, offset, -1) + text(metadata) + struct.pack(">h", error) + b"\x00"
        for partition, offset, metadata, error in rows
    )
    topic = b"\x02" + text("view") + bytes([len(rows) + 1]) + body + b"\x00"
    raw = struct.pack(">i", 0) + topic + struct.pack(">h", code) + b"\x00"
    return OffsetFetchRequest("group", [VIEW], stable=True).prepare(VERSIONS).RESPONSE_TYPE.decode(BytesIO(raw))


class Coordinator:
    group_id = "group"

    def __init__(self, *answers: Any) -> None:
        self._answers = list(answers)
        self.deaths = 0
        self.asked: list[Any] = []

    async def ensure_coordinator_known(self) -> None:
        pass

    async def _send_req(self, request: Any) -> Any:
        self.asked.append(request)
        return self._answers.pop(0)

    def coordinator_dead(self) -> None:
        self.deaths += 1


def test_unstable_offsets_are_told_from_others() -> None:
    coordinator = Coordinator(answer((3, 41, "owner", 0), (4, -1, "", 0), (5, -1, "", 88)))
    assert asyncio.run(offsets_of_group(coordinator, [VIEW], True)) == {
        VIEW: GroupOffset(41, "owner", True),
        TopicPartition("view", 4): GroupOffset(-1, "", True),
        TopicPartition("view", 5): GroupOffset(-1, "", False),
    }


def test_a_coordinator_that_has_moved_is_looked_for_and_a_refusal_is_told() -> None:
    moved = Coordinator(answer((3, -1, "", NotCoordinatorForGroupError.errno)), answer((3, 41, "", 0)))
    assert asyncio.run(offsets_of_group(moved, [VIEW], True)) == {VIEW: GroupOffset(41, "", True)}
    assert moved.deaths == 1
    refused = Coordinator(answer(code=GroupAuthorizationFailedError.errno))
    with pytest.raises(GroupAuthorizationFailedError):
        asyncio.run(offsets_of_group(refused, [VIEW], True))


def test_a_claim_is_one_request_in_the_generation_of_the_member() -> None:
    member = GroupMember("group", 7, "member")
    moved, done = NotCoordinatorForGroupError.errno, SimpleNamespace(topics=[("view", [(3, 0)])])
    coordinator = Coordinator(SimpleNamespace(topics=[("view", [(3, moved)])]), done)
    asyncio.run(commit_as_member(coordinator, member, {VIEW: 41}, "owner"))
    assert coordinator.deaths == 1
    prepared = coordinator.asked[-1].prepare({8: (2, 9)})
    assert (prepared.consumer_group, prepared.consumer_group_generation_id, prepared.consumer_id) == (
        "group",
        7,
        "member",
    )
    assert prepared.topics == [("view", [(3, 41, "owner")])]


def test_a_claim_of_a_generation_that_is_over_is_refused_at_once() -> None:
    over = SimpleNamespace(topics=[("view", [(3, IllegalGenerationError.errno)])])
    with pytest.raises(IllegalGenerationError):
        asyncio.run(commit_as_member(Coordinator(over), GroupMember("group", 7, "member"), {VIEW: 41}, "owner"))
