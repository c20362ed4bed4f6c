"""The worker's aiokafka consumer: where it runs, and what it knows of the broker."""

# pyright: reportPrivateUsage=false, reportUnknownMemberType=false
# Faust and aiokafka keep to themselves what is changed, and neither is typed throughout.

import asyncio
import math
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.errors import GroupAuthorizationFailedError
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
