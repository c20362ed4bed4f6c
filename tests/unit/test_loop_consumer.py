"""The worker's aiokafka consumer: where it runs, and what it knows of the broker."""

# pyright: reportPrivateUsage=false, reportUnknownMemberType=false
# Faust and aiokafka keep to themselves what is changed, and neither is typed throughout.

import asyncio
import math
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.consumer.fetcher import Fetcher, FetchError
from aiokafka.errors import GroupAuthorizationFailedError, KafkaError
from aiokafka.structs import TopicPartition
from faust.types import TP

from streams.loop_consumer import LoopConsumer

VIEW, CLICK = TP("view", 0), TP("click", 1)


@pytest.mark.parametrize(
    ("highwater", "position", "valid", "behind"),
    [(10, 9, True, 1), (10, 10, True, 0), (9, 10, True, 0), (None, 10, True, math.inf), (10, 10, False, math.inf)],
)
def test_is_behind_when_the_last_fetch_told_of_more(
    highwater: int | None, position: int, valid: bool, behind: float
) -> None:
    client: Any = LoopConsumer.__new__(LoopConsumer)
    state = SimpleNamespace(highwater=highwater, position=position, has_valid_position=valid)
    states = {TopicPartition("view", 0): state}
    subscription: Any = SimpleNamespace(assignment=SimpleNamespace(state_value=states.get))
    client._ensure_consumer = lambda: SimpleNamespace(_subscription=SimpleNamespace(subscription=subscription))
    assert client.behind(VIEW) == behind
    assert client.behind(CLICK) == 0
    subscription.assignment = None
    assert client.behind(VIEW) == 0


def test_whoever_waits_for_records_looks_again_when_told() -> None:
    async def looks() -> None:
        fetcher: Any = Fetcher.__new__(Fetcher)
        fetcher._records, fetcher._fetch_waiters, fetcher._loop = {}, set(), asyncio.get_running_loop()
        fetcher._subscriptions, fetcher._closed = SimpleNamespace(reassignment_in_progress=False), False
        client: Any = LoopConsumer.__new__(LoopConsumer)
        client._ensure_consumer = lambda: SimpleNamespace(_fetcher=fetcher)
        waits = asyncio.create_task(fetcher.fetched_records({VIEW}, timeout=60))
        await asyncio.sleep(0)
        fetcher._records[VIEW] = FetchError(error=GroupAuthorizationFailedError(), backoff=0)
        fetcher._wait_consume_future = None
        client.look_again()
        with pytest.raises(GroupAuthorizationFailedError):
            await asyncio.wait_for(waits, 5)

    asyncio.run(looks())


def test_calls_run_where_they_are_made_and_their_errors_come_back() -> None:
    client: Any = LoopConsumer.__new__(LoopConsumer)

    async def where(*names: str) -> tuple[Any, tuple[str, ...]]:
        return asyncio.current_task(), names

    async def fails() -> None:
        raise GroupAuthorizationFailedError

    async def calls() -> None:
        assert await client.call_thread(where, "a") == (asyncio.current_task(), ("a",))
        assert await client.call_thread(lambda: 7) == 7
        with pytest.raises(GroupAuthorizationFailedError):
            await client.call_thread(fails)

    asyncio.run(calls())


def test_a_group_that_may_not_be_read_ends_the_next_fetch() -> None:
    client: Any = LoopConsumer.__new__(LoopConsumer)

    def refused() -> None:
        raise GroupAuthorizationFailedError

    with pytest.raises(GroupAuthorizationFailedError):
        asyncio.run(client._fetch_records(SimpleNamespace(_coordinator=SimpleNamespace(check_errors=refused))))


def test_a_fetcher_that_an_error_has_ended_ends_the_next_fetch() -> None:
    """Else the worker would keep its partitions and read nothing any more."""
    client: Any = LoopConsumer.__new__(LoopConsumer)

    async def failed() -> None:
        raise KafkaError("Unexpected error during data retrieval")

    async def fetch() -> None:
        fetching = asyncio.create_task(failed())
        await asyncio.wait([fetching])
        await client._fetch_records(SimpleNamespace(_coordinator=None, _fetcher=SimpleNamespace(error_future=fetching)))

    with pytest.raises(KafkaError, match="data retrieval"):
        asyncio.run(fetch())
