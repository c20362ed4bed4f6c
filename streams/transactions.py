"""Exactly once: changelog, lists, dead letters and source offsets of a batch are one Kafka transaction.

The offsets carry the worker's generation in its consumer group (KIP-447), so a worker whose partitions have gone to
another cannot commit: all it wrote is aborted, and no reader of committed records ever sees it. Every commit names
its transactional id in the offsets' metadata. A partition's next owner that finds a transaction left open knows
from there whom to fence, and waits for no timeout.
"""

# pyright: reportPrivateUsage=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false, reportMissingParameterType=false
# aiokafka is not typed throughout, and sends the offsets of a transaction without generation and member.

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final, NamedTuple

from aiokafka import AIOKafkaProducer
from aiokafka.client import CoordinationType
from aiokafka.errors import (
    GroupAuthorizationFailedError,
    InvalidProducerIdMapping,
    InvalidTxnState,
    KafkaError,
    ProducerFenced,
)
from aiokafka.producer.sender import (
    AddOffsetsToTxnHandler,
    AddPartitionsToTxnHandler,
    Sender,
    TxnOffsetCommitHandler,
)
from aiokafka.producer.transaction_manager import TransactionState
from aiokafka.structs import OffsetAndMetadata, TopicPartition

from operators import limits
from streams.protocol import GroupMember, TxnOffsetCommitRequest

__all__ = ["FencedError", "TransactionalProducer", "fence_producer"]

log = logging.getLogger(__name__)

_FENCED_CODES: Final = frozenset({22, 25, 27, 82})
"""Illegal generation, unknown member, rebalance in progress, fenced instance."""
_CONCURRENT_TRANSACTIONS: Final = 51
_CONCURRENT_BACKOFF_S: Final = 0.002
_RETRY_BACKOFF_MS: Final = 10


_GROUP_HAS_MOVED_ON: Final = (
    "another worker has taken this one's partitions: it was stopped or cut off for longer than worker.session_timeout_s"
)
_TRANSACTION_WAS_ENDED: Final = (
    "the broker has ended this worker's transaction: either it was not committed within"
    f" {limits.transaction_timeout_ms / 1000:g} s, because the broker or this machine stood still, or another worker"
    " has taken this one's partitions, because it was stopped or cut off for longer than worker.session_timeout_s"
)


class FencedError(RuntimeError):
    """The broker takes nothing more of this worker; nothing of the batch was committed."""

    def __init__(self, why: str = _GROUP_HAS_MOVED_ON) -> None:
        super().__init__(f"{why}. Nothing of the batch in work was committed; start this worker again")


class _OffsetRows(NamedTuple):
    """Error codes as aiokafka's handler reads them."""

    errors: list[tuple[str, list[tuple[int, int]]]]


class _OffsetCommit(TxnOffsetCommitHandler):
    """Commits offsets as a member of a generation."""

    _sender: "_Sender"

    def create_request(self) -> Any:
        manager = self._sender._txn_manager
        return TxnOffsetCommitRequest(
            manager.transactional_id, manager.producer_id, manager.producer_epoch, self._sender.member, self._offsets
        )

    def handle_response(self, resp: Any) -> Any:
        rows = [(topic, [(partition, code) for partition, code, _ in parts]) for topic, parts, _ in resp.errors]
        if _FENCED_CODES.isdisjoint(code for _, parts in rows for _, code in parts):
            return super().handle_response(_OffsetRows(rows))
        self._sender.fail_offsets(FencedError())
        return None


class _AddPartitions(AddPartitionsToTxnHandler):
    """Asks again soon while the transaction before is being written out; aiokafka waits 20 ms, or 100 ms."""

    def handle_response(self, resp: Any) -> float | None:
        backoff_s = super().handle_response(resp)
        waits = any(code == _CONCURRENT_TRANSACTIONS for _, parts in resp.errors for _, code in parts)
        return _CONCURRENT_BACKOFF_S if waits else backoff_s


class _AddOffsets(AddOffsetsToTxnHandler):
    """As above."""

    def handle_response(self, resp: Any) -> float | None:
        backoff_s = super().handle_response(resp)
        return _CONCURRENT_BACKOFF_S if resp.error_code == _CONCURRENT_TRANSACTIONS else backoff_s


class _Sender(Sender):
    member: GroupMember

    async def _do_txn_offset_commit(self, offsets: Any, group_id: str) -> None:
        try:
            node_id = await self._find_coordinator(CoordinationType.GROUP, group_id)
        except GroupAuthorizationFailedError as error:
            self.fail_offsets(error)
            return
        await _OffsetCommit(self, offsets, group_id).do(node_id)

    async def _coordinator(self) -> int:
        return await self._find_coordinator(CoordinationType.TRANSACTION, self._txn_manager.transactional_id)

    def fail_offsets(self, error: Exception) -> None:
        """Tell whoever waits for the offsets. The transaction stays open, to be aborted.

        (aiokafka's ``error_transaction`` would forget what there is to abort, and send no abort at all.)
        """
        _, _, waiter = self._txn_manager._pending_txn_offsets.popleft()
        waiter.set_exception(error)

    async def _do_add_partitions_to_txn(self, tps: Any) -> Any:
        node_id = await self._coordinator()
        return await _fenced(_AddPartitions(self, tps).do(node_id))

    async def _do_add_offsets_to_txn(self, group_id: str) -> Any:
        node_id = await self._coordinator()
        return await _fenced(_AddOffsets(self, group_id).do(node_id))

    async def _do_txn_commit(self, commit_result: Any) -> None:
        await _fenced(super()._do_txn_commit(commit_result))


async def _fenced(request: Awaitable[Any]) -> Any:
    """A broker that has timed the transaction out, or given its id to another, says so in several ways."""
    try:
        return await request
    except (InvalidTxnState, InvalidProducerIdMapping):
        raise ProducerFenced() from None


class TransactionalProducer(AIOKafkaProducer):
    """aiokafka's producer, whose transactions are fenced by the consumer group."""

    def __init__(self, transactional_id: str, **arguments: Any) -> None:
        super().__init__(
            **arguments,
            transactional_id=transactional_id,
            transaction_timeout_ms=limits.transaction_timeout_ms,
            # Brokers refuse a record for a moment (NOT_ENOUGH_REPLICAS) while they verify that its transaction goes on.
            retry_backoff_ms=_RETRY_BACKOFF_MS,
        )
        self._transactional_id = transactional_id
        self._in_transaction = asyncio.Lock()
        """One that is cancelled still has to be aborted while whoever cancelled it goes on."""
        plain = self._sender
        self._sender = _Sender(
            plain.client,
            acks=plain._acks,
            txn_manager=plain._txn_manager,
            message_accumulator=plain._message_accumulator,
            retry_backoff_ms=plain._retry_backoff * 1000,
            request_timeout_ms=plain._request_timeout_ms,
        )

    @asynccontextmanager
    async def transaction_of(self, member: GroupMember, offsets: Mapping[Any, int]) -> AsyncGenerator[None]:
        """What is sent inside is committed with ``offsets`` (next offset by source partition), or not at all.

        Raises:
            FencedError: the group has moved on without this member, or the broker has ended the transaction.
            KafkaError: the broker refused something.
        """
        async with self._in_transaction:
            await self.begin_transaction()
            async with self._ended(member, offsets):
                yield

    @asynccontextmanager
    async def _ended(self, member: GroupMember, offsets: Mapping[Any, int]) -> AsyncGenerator[None]:
        """Commits what is sent inside, or aborts it."""
        try:
            committing = asyncio.ensure_future(self._send_offsets(member, offsets))
            try:
                yield
                await committing
            finally:
                committing.cancel()
                await asyncio.gather(committing, return_exceptions=True)
            await self.commit_transaction()
        except (ProducerFenced, InvalidTxnState):
            raise FencedError(_TRANSACTION_WAS_ENDED) from None
        except BaseException:  # a settlement that is cancelled leaves no transaction open either
            await self._end()
            raise

    async def _end(self) -> None:
        """Abort the transaction, or wait for the commit that is on its way."""
        manager: Any = self._txn_manager
        try:
            if manager.state is TransactionState.COMMITTING_TRANSACTION:
                await asyncio.wait_for(asyncio.shield(manager.wait_for_transaction_end()), limits.abort_wait_s)
            elif manager.state is not TransactionState.READY:
                await asyncio.wait_for(self.abort_transaction(), limits.abort_wait_s)
        except (KafkaError, TimeoutError, AssertionError) as error:
            log.warning(
                "the open transaction could not be ended (%r): the next owner of the partitions ends it, or the"
                " broker after %g s",
                error,
                limits.transaction_timeout_ms / 1000,
            )

    async def stop(self) -> None:
        """Close the producer once the transaction in work has ended, one way or the other."""
        async with self._in_transaction:
            await super().stop()

    async def _send_offsets(self, member: GroupMember, offsets: Mapping[Any, int]) -> None:
        self._sender.member = member
        committed = {
            TopicPartition(*tp): OffsetAndMetadata(offset, self._transactional_id) for tp, offset in offsets.items()
        }
        await self.send_offsets_to_transaction(committed, member.group_id)


async def fence_producer(
    arguments: Mapping[str, Any], transactional_id: str, group_id: str, written: Iterable[TopicPartition]
) -> None:
    """Abort the open transaction of whoever has ``transactional_id``, and refuse all it sends from now on.

    What a broker took after the transaction had ended, from a request that was under way, would stay open for ever:
    nobody knows any more that it is part of one. So the partitions that may have been ``written`` and the group's
    offsets are made part of a transaction of the same id, whose abort ends what is open there too.
    """
    successor = AIOKafkaProducer(**arguments, transactional_id=transactional_id)
    try:
        await successor.start()
        async with asyncio.timeout(limits.abort_wait_s):
            await successor.begin_transaction()
            sender: Any = successor._sender
            # Not by the manager's method, which would wake the sender to ask for them as well.
            to_add: set[TopicPartition] = sender._txn_manager.partitions_to_add()
            to_add.update(written)
            while to_add and not await sender._do_add_partitions_to_txn(to_add):
                pass  # it has waited
            while not await sender._do_add_offsets_to_txn(group_id):
                pass
            await successor.abort_transaction()
    except (ProducerFenced, InvalidTxnState):
        log.info("the transactions of %s are being ended by another worker, too", transactional_id)
    except TimeoutError:
        log.warning("the transactions of %s could not be ended within %g s", transactional_id, limits.abort_wait_s)
    finally:
        await successor.stop()
