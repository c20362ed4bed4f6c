"""Fetch sessions against a broker of a few lines: whatever is lost on the way, it fetches what the consumer wants."""

# pyright: reportPrivateUsage=false, reportUnknownMemberType=false
# aiokafka is not typed throughout.

import asyncio
from collections import defaultdict
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.consumer.subscription_state import TopicPartitionState
from aiokafka.protocol.fetch import FetchRequest, FetchRequest_v4, FetchRequest_v11, FetchResponse_v11
from aiokafka.structs import TopicPartition
from hypothesis import given
from hypothesis import strategies as st

from operators import limits
from streams.fetching import FetchSession, hurry_partial_fetches, pace_fetches, use_fetch_sessions

Wanted = Mapping[TopicPartition, int]

_PARTITIONS = [TopicPartition(topic, partition) for topic in ("view", "click") for partition in range(3)]
_WANTED = st.dictionaries(st.sampled_from(_PARTITIONS), st.integers(0, 3), min_size=1)
_FATE = st.sampled_from(["answered", "answered", "answered", "evicted", "unsent", "unanswered", "no room"])


class Broker:
    """Sessions as KIP-227 has them."""

    def __init__(self) -> None:
        self.sessions: dict[int, tuple[int, dict[TopicPartition, int]]] = {}
        self._last_id = 0

    def fetch(self, request: Any, *, has_room: bool = True) -> tuple[int, int, dict[TopicPartition, int]]:
        """Error code, session id, and what it fetches from where."""
        named = {
            TopicPartition(topic, partition): offset
            for topic, of_topic in request.topics
            for partition, _, offset, _, _ in of_topic
        }
        forgotten = [
            TopicPartition(topic, each) for topic, of_topic in request.forgotten_topics_data for each in of_topic
        ]
        if request.session_epoch == 0:
            self.sessions.pop(request.session_id, None)
            assert not forgotten
            if not has_room:
                return 0, 0, named
            self._last_id += 1
            self.sessions[self._last_id] = (1, named)
            return 0, self._last_id, dict(named)
        if request.session_id not in self.sessions:
            return 70, 0, {}
        epoch, known = self.sessions[request.session_id]
        if epoch != request.session_epoch:
            return 71, 0, {}
        assert not named.keys() & set(forgotten)
        assert known.keys() >= set(forgotten)
        known |= named
        for each in forgotten:
            del known[each]
        self.sessions[request.session_id] = (epoch + 1, known)
        return 0, request.session_id, dict(known)


class Fetcher:
    """As much of aiokafka's as plans one request to node 1."""

    def __init__(self) -> None:
        self.wanted: Wanted = {}
        self.highwater: int | None = 5

    def _get_actions_per_node(self, assignment: Any) -> Any:
        by_topic: defaultdict[str, list[tuple[int, int, int]]] = defaultdict(list)
        for tp, offset in self.wanted.items():
            by_topic[tp.topic].append((tp.partition, offset, 1_000))
        return [(1, FetchRequest(100, 1, 10_000, 0, list(by_topic.items())))], {}, 0.1, False, []

    def request(self) -> Any:
        assignment = SimpleNamespace(state_value=lambda _tp: SimpleNamespace(highwater=self.highwater))  # type: ignore[misc]
        requests, *rest = self._get_actions_per_node(assignment)
        assert rest == [{}, 0.1, False, []]
        return requests[0][1]


def answer(request: Any, error_code: int, session_id: int) -> None:
    """Let the client take in an answer, through the bytes of the wire."""
    response = FetchResponse_v11(0, error_code, session_id, [])
    assert request.RESPONSE_TYPE.decode(response.encode()).session_id == session_id


def fetcher_with_sessions() -> Fetcher:
    fetcher = Fetcher()
    use_fetch_sessions(fetcher)
    return fetcher


@given(st.lists(st.tuples(_WANTED, _FATE), max_size=12))
def test_the_broker_fetches_what_is_wanted_whatever_became_of_the_requests_before(
    steps: list[tuple[Wanted, str]],
) -> None:
    broker, fetcher = Broker(), fetcher_with_sessions()
    for wanted, fate in steps:
        fetcher.wanted = wanted
        request = fetcher.request()
        built = request.build(FetchRequest_v11)
        assert {
            TopicPartition(topic, each[0]): each[1] for topic, of_topic in request.topics for each in of_topic
        } == wanted
        if fate == "unsent":
            continue
        if fate == "evicted":
            broker.sessions.clear()
        error_code, session_id, fetched = broker.fetch(built, has_room=fate != "no room")
        assert fetched == ({} if error_code else wanted)
        assert not error_code or fate == "evicted"
        if fate != "unanswered":
            answer(built, error_code, session_id)
    fetcher.wanted = {_PARTITIONS[0]: 9}
    for _ in range(2):  # an error costs one fetch
        built = fetcher.request().build(FetchRequest_v11)
        error_code, session_id, fetched = broker.fetch(built)
        answer(built, error_code, session_id)
    assert fetched == {_PARTITIONS[0]: 9}


@given(_WANTED)
def test_a_request_names_only_what_has_moved(wanted: dict[TopicPartition, int]) -> None:
    broker, fetcher = Broker(), fetcher_with_sessions()
    fetcher.wanted = wanted
    for _ in range(2):
        built = fetcher.request().build(FetchRequest_v11)
        answer(built, *broker.fetch(built)[:2])
    assert built.topics == []
    moved = next(iter(wanted))
    fetcher.wanted = {**wanted, moved: wanted[moved] + 1}
    built = fetcher.request().build(FetchRequest_v11)
    assert [(topic, [each[0] for each in of_topic]) for topic, of_topic in built.topics] == [
        (moved.topic, [moved.partition])
    ]


def test_without_a_high_watermark_everything_is_asked_anew() -> None:
    """It comes with an answer, and one that was dropped because of a seek is not told again where nothing is new."""
    broker, fetcher = Broker(), fetcher_with_sessions()
    fetcher.wanted = {_PARTITIONS[0]: 1, _PARTITIONS[1]: 2}
    for highwater, named in ((None, 2), (5, 0), (None, 2), (5, 0)):
        fetcher.highwater = highwater
        built = fetcher.request().build(FetchRequest_v11)
        answer(built, *broker.fetch(built)[:2])
        assert sum(len(of_topic) for _, of_topic in built.topics) == named


def test_an_old_broker_is_asked_without_a_session() -> None:
    fetcher = fetcher_with_sessions()
    fetcher.wanted = {_PARTITIONS[0]: 1}
    for _ in range(2):
        built = fetcher.request().build(FetchRequest_v4)
        assert built.topics == [("view", [(0, 1, 1_000)])]
        assert "session_id" not in built.SCHEMA.names


def test_epochs_start_again_after_the_last() -> None:
    session = FetchSession()
    session.next([])
    session.note(0, 7)
    session._epoch = 2**31 - 1
    session.next([])
    session.note(0, 7)
    assert session.next([])[:2] == (7, 1)


@given(st.lists(st.tuples(st.none() | st.integers(0, 3), st.none() | st.integers(0, 3)), min_size=1, max_size=6))
def test_a_fetch_waits_for_spare_time_unless_there_is_more_at_the_broker(
    marks: list[tuple[int | None, int | None]],
) -> None:
    told = list[str]()

    async def send(*arguments: object) -> object:
        told.append("sent")
        return arguments

    async def spare() -> None:
        told.append("waited")

    async def fetches() -> None:
        states = {tp: TopicPartitionState(None) for tp in _PARTITIONS[: len(marks)]}
        for state, (highwater, position) in zip(states.values(), marks, strict=True):
            state.highwater = highwater
            if position is not None:  # else a seek has left none
                state.seek(position)
        assignment, fetcher = SimpleNamespace(state_value=states.get), SimpleNamespace(_proc_fetch_request=send)
        pace_fetches(fetcher, spare)
        request = FetchRequest(100, 1, 1_000, 0, [(tp.topic, [(tp.partition, 0, 1_000)]) for tp in states], "")
        assert await fetcher._proc_fetch_request(assignment, 7, request) == (assignment, 7, request)

    asyncio.run(fetches())
    may_have_more = any(highwater is None or position is None or highwater > position for highwater, position in marks)
    assert told == (["sent"] if may_have_more else ["waited", "sent"])


@pytest.mark.parametrize("wait_ms", [100, 1])
@pytest.mark.parametrize("takes", [True, False])
@pytest.mark.parametrize("lies_here", [True, False])
def test_the_broker_is_not_to_wait_long_for_some_while_records_of_others_lie_here(
    lies_here: bool, takes: bool, wait_ms: int
) -> None:
    request = FetchRequest(wait_ms, 1, 1_000, 0, [("view", [(1, 0, 1_000)])], "")
    fetcher: Any = SimpleNamespace(
        _records={_PARTITIONS[0]: 0} if lies_here else {}, _get_actions_per_node=lambda _: ([(7, request)], "rest")
    )
    use_fetch_sessions(fetcher)
    hurry_partial_fetches(fetcher, lambda: takes)
    assignment = SimpleNamespace(state_value=lambda _: SimpleNamespace(highwater=0))
    ((node, planned),), rest = fetcher._get_actions_per_node(assignment)
    assert (node, rest) == (7, "rest")
    waits_ms = planned.build(FetchRequest_v11).max_wait_time
    assert waits_ms == (min(wait_ms, limits.fetch_part_wait_ms) if lies_here and takes else wait_ms)


def test_a_fetch_that_waits_ends_quietly_when_it_is_cancelled() -> None:
    """aiokafka awaits what it has cancelled, and an error there would end its orderly stop."""

    async def send(*_: object) -> None:
        raise AssertionError

    async def cancelled() -> object:
        fetcher: Any = SimpleNamespace(_proc_fetch_request=send)
        pace_fetches(fetcher, asyncio.Event().wait)
        request = FetchRequest(100, 1, 1_000, 0, [], "")
        waits = asyncio.create_task(fetcher._proc_fetch_request(SimpleNamespace(), 7, request))
        await asyncio.sleep(0)
        waits.cancel()
        return await waits

    assert asyncio.run(cancelled()) is False
