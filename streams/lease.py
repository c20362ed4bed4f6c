"""At least once: a worker sends only while it can know that its group still counts it as a member.

The broker forgets a member ``session_timeout_s`` after the last request of the group protocol that it took from it.
The lease counts the same time from the moment before that request was sent, so it ends no later. A worker that was
suspended, or cut off, finds it over when it goes on, and holds back what it has: until the broker answers that nothing
has changed, or for good. What remains is the time between the check and the broker's append: a worker that stops for
longer than its session in those microseconds, or a request that lies that long in the network. Only transactions
(``streams.transactions``) close it.
"""

# pyright: reportPrivateUsage=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false
# aiokafka is not typed throughout, and keeps its group protocol and its sender to itself.

import asyncio
import time
from collections.abc import Callable
from typing import Any, Final

from aiokafka import AIOKafkaProducer
from aiokafka.producer.sender import Sender
from aiokafka.protocol.group import HeartbeatRequest, SyncGroupRequest

from streams.transactions import FencedError

__all__ = ["LeasedProducer", "SessionLease"]

_HOLDS: Final = frozenset({0, 27})
"""No error, and a rebalance in progress: both keep the member in the group."""
_OVER: Final = frozenset({22, 25})
"""Illegal generation, unknown member."""
_WAIT_S: Final = 0.02


def _boot_time() -> float:
    """Seconds that go on while the machine sleeps, where the system has such a clock."""
    clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    return time.clock_gettime(clock)


class SessionLease:
    """Written by the consumer, read by the producer."""

    def __init__(self, session_s: float, clock: Callable[[], float] = _boot_time) -> None:
        self._session_s = session_s
        self._clock = clock
        self._until = 0.0
        self._over = asyncio.Event()
        self._over.set()

    @property
    def is_over(self) -> bool:
        """Whether the broker has said that this member is none any more, or never that it is one."""
        return self._over.is_set()

    @property
    def holds(self) -> bool:
        """Whether the broker must still count this worker as a member."""
        return not self.is_over and self._clock() < self._until

    async def over(self) -> None:
        """Return when the broker says that this member is none any more; at once where it has."""
        await self._over.wait()

    def watch(self, coordinator: Any) -> None:
        """Follow what an aiokafka group coordinator sends and is answered."""
        send = coordinator._send_req

        async def watched(request: Any) -> Any:
            sent_at = self._clock()
            response = await send(request)
            if isinstance(request, (HeartbeatRequest, SyncGroupRequest)):
                self.note(sent_at, response.error_code)
            return response

        coordinator._send_req = watched

    def note(self, sent_at: float, error_code: int) -> None:
        """Take in the answer to a request that was sent at ``sent_at``."""
        if error_code in _HOLDS:
            self._until = sent_at + self._session_s
            self._over.clear()
        elif error_code in _OVER:
            self._over.set()


class _Sender(Sender):
    lease: SessionLease

    async def _send_produce_req(self, node_id: int, batches: Any) -> None:
        lease = self.lease
        while not lease.holds and not lease.is_over:  # noqa: ASYNC110  # the consumer renews it, and time ends it
            await asyncio.sleep(_WAIT_S)
        if lease.holds:
            await super()._send_produce_req(node_id, batches)
            return
        for batch in batches.values():
            batch.failure(FencedError())
        self._in_flight.remove(node_id)
        self._muted_partitions.difference_update(batches)


class LeasedProducer(AIOKafkaProducer):
    """aiokafka's producer, that looks at the lease right before every produce request, also a repeated one."""

    def __init__(self, lease: SessionLease, **arguments: Any) -> None:
        super().__init__(**arguments)
        plain = self._sender
        sender = self._sender = _Sender(
            plain.client,
            acks=plain._acks,
            txn_manager=None,
            message_accumulator=plain._message_accumulator,
            retry_backoff_ms=plain._retry_backoff * 1000,
            request_timeout_ms=plain._request_timeout_ms,
        )
        sender.lease = lease
