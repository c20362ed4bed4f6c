"""At least once: a worker sends only while it can know that its group still counts it as a member.

The broker forgets a member ``session_timeout_s`` after the last request of the group protocol that it took from it.
The lease counts nine tenths of that time from the moment before that request was sent, so it ends sooner. A worker that
was suspended, or cut off, finds it over when it goes on, and holds back what it has: until the broker answers that
nothing has changed, or for good.

A request that was handed to the system before would still be sent, as soon as the network lets it, also after the
process has ended. So the producer's connections are reset when the lease lapses, and by the system whenever they are
closed: what has not reached the broker's machine by then is thrown away. What remains is the tenth: a packet that is on
its way for longer, or a worker that stops for longer than its session while it hands a request to the system. Only
transactions (``streams.transactions``) close it.
"""

# pyright: reportPrivateUsage=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false
# aiokafka is not typed throughout, and keeps its group protocol and its sender to itself.

import asyncio
import contextlib
import socket
import struct
import time
from collections.abc import Callable
from typing import Any, Final

from aiokafka import AIOKafkaProducer
from aiokafka.conn import CloseReason
from aiokafka.errors import NodeNotReadyError
from aiokafka.producer.sender import Sender
from aiokafka.protocol.group import HeartbeatRequest, SyncGroupRequest
from aiokafka.protocol.produce import ProduceRequest

from streams.transactions import FencedError

__all__ = ["LeasedProducer", "SessionLease"]

_HOLDS: Final = frozenset({0, 27})
"""No error, and a rebalance in progress: both keep the member in the group."""
_OVER: Final = frozenset({22, 25})
"""Illegal generation, unknown member."""
_WAIT_S: Final = 0.02
_SESSION_SHARE: Final = 0.9
"""Of the session; the rest is for what is on its way in the network when the lease lapses."""
_NO_LINGER: Final = struct.pack("ii", 1, 0)


def _boot_time() -> float:
    """Seconds that go on while the machine sleeps, where the system has such a clock."""
    clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    return time.clock_gettime(clock)


class SessionLease:
    """Written by the consumer, read by the producer."""

    def __init__(self, session_s: float, clock: Callable[[], float] = _boot_time) -> None:
        self._lasts_s = session_s * _SESSION_SHARE
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

    async def lapsed(self) -> None:
        """Return when it does not hold any more; not before it has held."""
        while not self.holds:  # noqa: ASYNC110  # it begins by a clock, which has no event
            await asyncio.sleep(_WAIT_S)
        while self.holds:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._over.wait(), self._until - self._clock())

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
            self._until = sent_at + self._lasts_s
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
    """aiokafka's producer, that looks at the lease when a produce request, also a repeated one, has become bytes.

    When the lease lapses, what was sent and not yet acknowledged is withdrawn, as far as it has not left the machine,
    and waits for the lease like the rest.
    """

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
        self._lease = sender.lease = lease
        self._withdrawing: asyncio.Task[None] | None = None
        self._reset_when_closed()
        self._look_when_encoded()

    def _look_when_encoded(self) -> None:
        send, lease = self.client.send, self._lease

        async def looked(node_id: int, request: Any, **group: Any) -> Any:
            if isinstance(request, ProduceRequest):
                _look_after_encoding(request, lease)
            return await send(node_id, request, **group)

        self.client.send = looked

    def _reset_when_closed(self) -> None:
        connect = self.client._get_conn

        async def connection(*args: Any, **kwargs: Any) -> Any:
            found = await connect(*args, **kwargs)
            if found is not None:
                _reset_on_close(found)
            return found

        self.client._get_conn = connection

    async def start(self) -> None:
        await super().start()
        self._withdrawing = asyncio.create_task(self._withdraw(), name="headwater-lease")

    async def stop(self) -> None:
        if self._withdrawing is not None:
            self._withdrawing.cancel()
        await super().stop()

    async def _withdraw(self) -> None:
        while True:
            await self._lease.lapsed()
            for connection in list(self.client._conns.values()):
                if _reset_on_close(connection):
                    connection._writer.transport.abort()
                    connection.close(CloseReason.CONNECTION_BROKEN)


def _look_after_encoding(request: Any, lease: SessionLease) -> None:
    """Let ``request`` refuse to be bytes without the lease.

    To connect may take longer than the lease lasts, and to encode gives other threads a turn. aiokafka writes the bytes
    to a connection that stands right when it has them (aiokafka conn.py, ``send``).
    """
    prepare = request.prepare

    def prepared(versions: Any) -> Any:
        built = prepare(versions)
        encode = built.encode

        def encoded() -> bytes:
            data: bytes = encode()
            if not lease.holds:
                raise NodeNotReadyError("this worker may be no member any more")
            return data

        built.encode = encoded
        return built

    request.prepare = prepared


def _reset_on_close(connection: Any) -> bool:
    """Let the system throw away what it has not sent when it closes the connection; False where there is none."""
    if connection._writer is None:
        return False
    with contextlib.suppress(OSError):  # it is closed already, and aiokafka has not heard
        held = connection._writer.get_extra_info("socket")
        held.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
    return True
