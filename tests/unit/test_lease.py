"""The lease ends no later than the broker's session, and nothing is sent without it."""

# pyright: reportPrivateUsage=false

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.producer.sender import Sender
from aiokafka.protocol.group import HeartbeatRequest, LeaveGroupRequest

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


def test_it_lasts_a_session_from_the_sending_of_what_was_answered(lease: SessionLease, clock: Clock) -> None:
    assert not lease.holds
    clock.now = 104.0
    lease.note(sent_at=100.0, error_code=0)
    clock.now = 109.9
    assert lease.holds
    clock.now = 110.0
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
    clock.now = 112.9
    assert lease.holds
    clock.now = 113.0
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
