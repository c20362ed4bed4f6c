"""The lease ends no later than the broker's session, and nothing is sent without it."""

# pyright: reportPrivateUsage=false

import asyncio
import socket
import struct
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.client import ConnectionGroup
from aiokafka.conn import AIOKafkaConnection
from aiokafka.errors import NodeNotReadyError
from aiokafka.producer.sender import Sender
from aiokafka.protocol.group import HeartbeatRequest, LeaveGroupRequest
from aiokafka.protocol.produce import ProduceRequest

from streams.lease import LeasedProducer, SessionLease
from streams.transactions import FencedError

REBALANCE, ILLEGAL_GENERATION, UNKNOWN_MEMBER, COORDINATOR_AWAY = 27, 22, 25, 15


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def lease(clock: Clock) -> SessionLease:
    return SessionLease(10.0, clock)


def test_it_lasts_most_of_a_session_from_the_sending_of_what_was_answered(lease: SessionLease, clock: Clock) -> None:
    assert not lease.holds
    clock.now = 104.0
    lease.note(sent_at=100.0, error_code=0)
    clock.now = 108.9
    assert lease.holds
    clock.now = 109.0  # a tenth is left for what is on its way
    assert not lease.holds
    assert not lease.is_over
    lease.note(sent_at=109.0, error_code=REBALANCE)
    assert lease.holds


def test_an_answer_that_says_nothing_of_the_membership_changes_nothing(lease: SessionLease, clock: Clock) -> None:
    lease.note(100.0, 0)
    clock.now = 105.0
    lease.note(105.0, COORDINATOR_AWAY)
    clock.now = 110.0
    assert not lease.holds
    assert not lease.is_over


@pytest.mark.parametrize("code", [ILLEGAL_GENERATION, UNKNOWN_MEMBER])
def test_it_is_over_when_the_broker_says_so_until_the_next_generation(lease: SessionLease, code: int) -> None:
    lease.note(100.0, 0)
    lease.note(100.0, code)
    assert lease.is_over
    assert not lease.holds
    lease.note(100.0, 0)
    assert lease.holds


def test_only_heartbeats_and_joins_renew_it(lease: SessionLease, clock: Clock) -> None:
    async def send(_: Any) -> Any:
        clock.now += 3.0
        return SimpleNamespace(error_code=0)

    async def talk() -> None:
        coordinator: Any = SimpleNamespace(_send_req=send)
        lease.watch(coordinator)
        await coordinator._send_req(LeaveGroupRequest("group", "member"))
        assert not lease.holds
        await coordinator._send_req(HeartbeatRequest("group", 1, "member"))

    asyncio.run(talk())
    clock.now = 111.9
    assert lease.holds
    clock.now = 112.0
    assert not lease.holds


def test_a_batch_waits_for_the_lease_and_fails_when_it_is_over(
    lease: SessionLease, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[Any] = []
    failed: list[Exception] = []

    async def send(self: Any, node_id: int, batches: Any) -> None:
        sent.append(batches)

    monkeypatch.setattr(Sender, "_send_produce_req", send)
    batches: Any = {"partition": SimpleNamespace(failure=failed.append)}

    async def produce() -> None:
        producer: Any = LeasedProducer(lease, bootstrap_servers="127.0.0.1:1")
        producer._closed = True
        sender = producer._sender
        lease.note(100.0, 0)
        await sender._send_produce_req(1, batches)
        assert sent == [batches]
        clock.now = 111.0
        waiting = asyncio.create_task(sender._send_produce_req(1, batches))
        await asyncio.sleep(0.1)
        assert not waiting.done()
        lease.note(110.5, 0)
        await waiting
        assert sent == [batches, batches]
        sender._in_flight.add(1)
        sender._muted_partitions.update(batches)
        lease.note(111.0, UNKNOWN_MEMBER)
        await sender._send_produce_req(1, batches)
        assert not sender._in_flight
        assert not sender._muted_partitions

    asyncio.run(produce())
    assert len(sent) == 2
    assert [type(error) for error in failed] == [FencedError]


def test_a_request_that_took_long_to_become_bytes_is_not_sent(lease: SessionLease, clock: Clock) -> None:
    """Of a worker that had to connect first, or was stopped in the middle: what is looked at before is too early."""
    written: list[bytes] = []
    takes_s = 0.0

    def request() -> Any:
        made = ProduceRequest(None, -1, 1_000, [("view", [(0, b"batch")])])
        build = made.build

        def built(struct_class: Any) -> Any:
            struct: Any = build(struct_class)
            encode = struct.encode

            def slowly() -> bytes:
                clock.now += takes_s
                return encode()

            struct.encode = slowly
            return struct

        made.build = built  # type: ignore[method-assign]
        return made

    async def scenario() -> None:
        nonlocal takes_s
        producer: Any = LeasedProducer(lease, bootstrap_servers="127.0.0.1:1")
        producer._closed = True
        connection: Any = AIOKafkaConnection("127.0.0.1", 1)
        connection._versions = {0: (3, 7)}
        connection._writer = SimpleNamespace(write=written.append, close=lambda: None)

        async def connected(_node: int, **_: Any) -> bool:
            return True

        producer.client.ready = connected
        producer.client._conns = {(1, ConnectionGroup.DEFAULT): connection}
        lease.note(clock.now, 0)
        going = asyncio.create_task(producer.client.send(1, request()))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert len(written) == 1
        assert b"batch" in written[0]
        takes_s = 20.0
        with pytest.raises(NodeNotReadyError):
            await producer.client.send(1, request())
        going.cancel()
        connection.close()

    asyncio.run(scenario())
    assert len(written) == 1


def test_it_lapses_by_the_clock_or_by_word_and_not_before_it_has_held() -> None:
    async def scenario() -> None:
        lease = SessionLease(0.5)
        lapsed = asyncio.create_task(lease.lapsed())
        await asyncio.sleep(0.1)
        assert not lapsed.done()
        for _ in range(3):  # renewed before it ends
            lease.note(lease._clock(), 0)
            await asyncio.sleep(0.25)
            assert not lapsed.done()
        await asyncio.wait_for(lapsed, 1.0)
        assert not lease.holds
        lease.note(lease._clock(), 0)
        lapsed = asyncio.create_task(lease.lapsed())
        await asyncio.sleep(0.05)
        lease.note(lease._clock(), UNKNOWN_MEMBER)
        await asyncio.wait_for(lapsed, 0.1)

    asyncio.run(scenario())


class _Connection:
    """As much of aiokafka's as the producer touches."""

    def __init__(self, writer: asyncio.StreamWriter | None) -> None:
        self._writer: asyncio.StreamWriter | None = writer
        self.reasons: list[Any] = []

    def close(self, reason: Any) -> None:
        self._writer = None
        self.reasons.append(reason)


def test_what_lies_in_the_system_when_the_lease_lapses_is_never_sent() -> None:
    """A request of a worker that was cut off: the network is back, and the partitions have another owner."""
    data = bytes(24 * 1024 * 1024)  # more than both systems take: the rest waits for the broker

    async def scenario() -> None:
        arrived, cut = asyncio.Queue[socket.socket](), socket.create_server(("127.0.0.1", 0))
        cut.setblocking(False)

        async def accept() -> None:
            await arrived.put((await asyncio.get_running_loop().sock_accept(cut))[0])

        accepting = asyncio.create_task(accept())
        _, writer = await asyncio.open_connection(*cut.getsockname())
        broker = await arrived.get()
        await accepting
        lease = SessionLease(2.0)
        producer: Any = LeasedProducer(lease, bootstrap_servers="127.0.0.1:1")
        producer._closed = True
        closed, connection = _Connection(None), _Connection(writer)
        producer.client._conns = {1: connection, 2: closed}
        withdrawing = asyncio.create_task(producer._withdraw())
        lease.note(lease._clock(), 0)
        await asyncio.sleep(0.1)
        writer.write(data)
        await asyncio.sleep(0.3)
        assert not connection.reasons
        async with asyncio.timeout(5):
            while not connection.reasons:  # noqa: ASYNC110  # a list has no event
                await asyncio.sleep(0.05)
        assert not closed.reasons
        received = 0
        with pytest.raises(ConnectionResetError):
            while part := await asyncio.get_running_loop().sock_recv(broker, 1 << 20):
                received += len(part)
        assert received < len(data)
        withdrawing.cancel()
        broker.close()
        cut.close()

    asyncio.run(scenario())


def test_every_connection_of_the_producer_is_reset_when_it_is_closed() -> None:
    async def scenario() -> None:
        server = await asyncio.start_server(lambda _reader, _writer: None, "127.0.0.1", 0)
        _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        producer: Any = LeasedProducer(SessionLease(1.0), bootstrap_servers="127.0.0.1:1")
        producer._closed = True
        _, closed = await asyncio.open_connection(*server.sockets[0].getsockname())
        closed.close()
        await closed.wait_closed()
        found: list[Any] = [_Connection(writer), _Connection(closed), _Connection(None), None]
        connections = iter(found)

        async def connect(_node: int) -> Any:
            return next(connections)

        producer.client = SimpleNamespace(_get_conn=connect)
        producer._reset_when_closed()
        assert [await producer.client._get_conn(1) for _ in found] == found
        held = writer.get_extra_info("socket")
        assert struct.unpack("ii", held.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8)) == (1, 0)
        writer.close()
        server.close()

    asyncio.run(scenario())
