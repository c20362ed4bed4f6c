"""Two requests of the Kafka protocol in versions that aiokafka 0.14 lacks, and that a fence against zombies needs.

Field by field after the message definitions of Apache Kafka 4.3 (``TxnOffsetCommitRequest.json``,
``OffsetFetchRequest.json`` and their responses, in ``kafka-clients.jar`` under ``common/message``; KIP-447).

- ``TxnOffsetCommit`` version 3 names the member and its generation; aiokafka's version 0 names neither, so a
  broker takes it from anybody who has a transaction.
- ``OffsetFetch`` version 7 can ask for stable offsets: where a transaction with offsets is not settled yet the
  broker says so; aiokafka's version 3 gets the offset before it.
"""

# pyright: reportPrivateUsage=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportIncompatibleMethodOverride=false, reportAssignmentType=false
# aiokafka is not typed throughout; its own messages override properties by constants too.

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeVar

from aiokafka.errors import (
    IllegalGenerationError,
    KafkaError,
    NotCoordinatorForGroupError,
    RebalanceInProgressError,
    UnknownMemberIdError,
    for_code,
)
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.commit import OffsetCommitRequest
from aiokafka.protocol.types import Boolean, CompactArray, CompactString, Int16, Int32, Int64, Schema, TaggedFields
from aiokafka.structs import TopicPartition

__all__ = [
    "GroupMember",
    "GroupOffset",
    "OffsetFetchRequest",
    "TxnOffsetCommitRequest",
    "commit_as_member",
    "offsets_of_group",
]

_STRING: Final = CompactString("utf-8")
_NO_TAGS: Final[dict[int, bytes]] = {}
_NO_LEADER_EPOCH: Final = -1
_UNSTABLE_OFFSET_COMMIT: Final = 88
_RETRY_S: Final = 0.1
_MEMBER_ERRORS: Final = (IllegalGenerationError, RebalanceInProgressError, UnknownMemberIdError)
"""Which another try as the same member would not help."""

_Answer = TypeVar("_Answer")


class GroupMember(NamedTuple):
    """Who a worker is to its consumer group, for as long as the group does not rebalance."""

    group_id: str
    generation: int
    member_id: str


class GroupOffset(NamedTuple):
    """What a group has committed for a partition."""

    offset: int
    """-1 for none."""
    metadata: str
    """Transactional id of the worker that committed it; empty where no transaction did."""
    is_stable: bool
    """False where an open transaction may still move it; the other fields then say nothing."""


class TxnOffsetCommitResponseV3(Response):
    """Error code by topic and partition."""

    API_KEY = 28
    API_VERSION = 3
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "errors",
            CompactArray(
                ("topic", _STRING),
                (
                    "partition_errors",
                    CompactArray(("partition", Int32), ("error_code", Int16), ("tags", TaggedFields)),
                ),
                ("tags", TaggedFields),
            ),
        ),
        ("tags", TaggedFields),
    )


class TxnOffsetCommitRequestV3(RequestStruct):
    """See the module."""

    API_KEY = 28
    API_VERSION = 3
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = TxnOffsetCommitResponseV3
    SCHEMA = Schema(
        ("transactional_id", _STRING),
        ("group_id", _STRING),
        ("producer_id", Int64),
        ("producer_epoch", Int16),
        ("generation_id", Int32),
        ("member_id", _STRING),
        ("group_instance_id", _STRING),
        (
            "topics",
            CompactArray(
                ("topic", _STRING),
                (
                    "partitions",
                    CompactArray(
                        ("partition", Int32),
                        ("offset", Int64),
                        ("leader_epoch", Int32),
                        ("metadata", _STRING),
                        ("tags", TaggedFields),
                    ),
                ),
                ("tags", TaggedFields),
            ),
        ),
        ("tags", TaggedFields),
    )


class TxnOffsetCommitRequest(Request[TxnOffsetCommitRequestV3]):
    """Offsets as a part of a transaction; the broker refuses them from a member of a generation that is over."""

    API_KEY = 28

    def __init__(
        self,
        transactional_id: str,
        producer_id: int,
        producer_epoch: int,
        member: GroupMember,
        offsets: Mapping[TopicPartition, Any],
    ) -> None:
        """``offsets``: aiokafka's ``OffsetAndMetadata`` by partition."""
        by_topic: dict[str, list[tuple[Any, ...]]] = {}
        for tp, committed in sorted(offsets.items()):
            row = (tp.partition, committed.offset, _NO_LEADER_EPOCH, committed.metadata, _NO_TAGS)
            by_topic.setdefault(tp.topic, []).append(row)
        self._fields = (
            transactional_id,
            member.group_id,
            producer_id,
            producer_epoch,
            member.generation,
            member.member_id,
            None,
            [(topic, rows, _NO_TAGS) for topic, rows in by_topic.items()],
            _NO_TAGS,
        )

    def build(self, request_struct_class: type[TxnOffsetCommitRequestV3]) -> TxnOffsetCommitRequestV3:
        """The request on the wire."""
        return request_struct_class(*self._fields)


class OffsetFetchResponseV7(Response):
    """Committed offset and metadata by topic and partition."""

    API_KEY = 9
    API_VERSION = 7
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "topics",
            CompactArray(
                ("topic", _STRING),
                (
                    "partitions",
                    CompactArray(
                        ("partition", Int32),
                        ("offset", Int64),
                        ("leader_epoch", Int32),
                        ("metadata", _STRING),
                        ("error_code", Int16),
                        ("tags", TaggedFields),
                    ),
                ),
                ("tags", TaggedFields),
            ),
        ),
        ("error_code", Int16),
        ("tags", TaggedFields),
    )


class OffsetFetchRequestV7(RequestStruct):
    """See the module."""

    API_KEY = 9
    API_VERSION = 7
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = OffsetFetchResponseV7
    SCHEMA = Schema(
        ("group_id", _STRING),
        ("topics", CompactArray(("topic", _STRING), ("partitions", CompactArray(Int32)), ("tags", TaggedFields))),
        ("require_stable", Boolean),
        ("tags", TaggedFields),
    )


class OffsetFetchRequest(Request[OffsetFetchRequestV7]):
    """Committed offsets of a group, where ``stable`` only those that no open transaction can still move."""

    API_KEY = 9

    def __init__(self, group_id: str, partitions: Sequence[TopicPartition], *, stable: bool) -> None:
        by_topic: dict[str, list[int]] = {}
        for tp in partitions:
            by_topic.setdefault(tp.topic, []).append(tp.partition)
        self._fields = (group_id, [(topic, rows, _NO_TAGS) for topic, rows in by_topic.items()], stable, _NO_TAGS)

    def build(self, request_struct_class: type[OffsetFetchRequestV7]) -> OffsetFetchRequestV7:
        """The request on the wire."""
        return request_struct_class(*self._fields)


async def offsets_of_group(
    coordinator: Any, partitions: Sequence[TopicPartition], stable: bool
) -> dict[TopicPartition, GroupOffset]:
    """The committed offsets of an aiokafka group coordinator's group; waits for a coordinator that is away.

    Raises:
        KafkaError: the broker refuses to tell.
    """
    request = OffsetFetchRequest(coordinator.group_id, partitions, stable=stable)
    return await _asked(coordinator, request, _offsets_in)


async def commit_as_member(
    coordinator: Any, member: GroupMember, offsets: Mapping[TopicPartition, int], metadata: str
) -> None:
    """Commit offsets as ``member`` and no other; waits for a coordinator that is away.

    (aiokafka's own commit goes out in whatever generation the group has by then.)

    Raises:
        KafkaError: the broker refuses, for instance a member of a generation that is over.
    """
    rows: dict[str, list[tuple[int, int, str]]] = {}
    for tp, offset in sorted(offsets.items()):
        rows.setdefault(tp.topic, []).append((tp.partition, offset, metadata))
    request = OffsetCommitRequest(
        member.group_id,
        member.generation,
        member.member_id,
        OffsetCommitRequest.DEFAULT_RETENTION_TIME,
        list(rows.items()),
    )
    await _asked(coordinator, request, _raise_errors_of_commit)


async def _asked(coordinator: Any, request: Any, read: Callable[[Any], _Answer]) -> _Answer:
    """What ``read`` makes of the answer; asked again where it raises an error that may pass."""
    while True:
        await coordinator.ensure_coordinator_known()
        try:
            return read(await coordinator._send_req(request))
        except _MEMBER_ERRORS:
            raise
        except KafkaError as error:
            if not error.retriable:
                raise
            if isinstance(error, NotCoordinatorForGroupError):
                coordinator.coordinator_dead()
        await asyncio.sleep(_RETRY_S)


def _raise_errors_of_commit(response: Any) -> None:
    for topic, rows in response.topics:
        for partition, code in rows:
            if code:
                raise for_code(code)(f"commit of {topic} {partition}")


def _offsets_in(response: Any) -> dict[TopicPartition, GroupOffset]:
    offsets: dict[TopicPartition, GroupOffset] = {}
    for topic, rows, _ in response.topics:
        for partition, offset, _, metadata, code, _ in rows:
            if code not in (0, _UNSTABLE_OFFSET_COMMIT):
                raise for_code(code)(f"committed offset of {topic} {partition}")
            offsets[TopicPartition(topic, partition)] = GroupOffset(offset, metadata or "", code == 0)
    if response.error_code:
        raise for_code(response.error_code)("committed offsets")
    return offsets
