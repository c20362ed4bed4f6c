"""Incremental fetch sessions for aiokafka, which names every partition in every fetch (KIP-227), and fetches in time.

Of a worker's partitions, three topics' worth of them, most have nothing new most of the time. Without a session each
fetch asks for all and is answered about all; with a few events in each, and 24 partitions, that was about a fifth of
what a worker did under the interpreter lock. In a session the broker remembers: a request names what has moved since
the one before, an answer what has something to tell.

aiokafka sends the next fetch once the last one is read. Under little load each answer is then a few records of one
partition, and the worker's loop is busiest with answers while the batch that they wait for is in work.
"""

# pyright: reportPrivateUsage=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false
# aiokafka is not typed throughout, and keeps its fetcher to itself.

import asyncio
import math
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final

from aiokafka.protocol.fetch import FetchRequest
from aiokafka.structs import TopicPartition

from operators import limits

__all__ = ["FetchSession", "hurry_partial_fetches", "pace_fetches", "records_behind", "use_fetch_sessions"]

_FIRST_EPOCH: Final = 0
"""Of a request that names everything and asks for a session, in the place of the one it may name."""
_EPOCH_MAX: Final = 2**31 - 1
_API_VERSION_MIN: Final = 7

Partition = tuple[str, int]
Topics = Iterable[tuple[str, list[tuple[int, int, int]]]]
"""Topic -> partition, offset, most bytes."""


class FetchSession:
    """What one broker knows of a consumer's wishes, as far as the consumer can tell."""

    def __init__(self) -> None:
        self._id = 0
        self._epoch = _FIRST_EPOCH
        self._known: dict[Partition, int] = {}
        """Partition -> offset, as the broker has it."""
        self._is_answered = True

    def restart(self) -> None:
        """The next request names everything."""
        self._epoch = _FIRST_EPOCH

    def next(self, topics: Topics) -> "tuple[int, int, Topics, list[tuple[str, list[int]]]]":
        """Session id, epoch, what has moved, and what is wanted no longer; of the request that is sent now."""
        if not self._is_answered:  # the broker may have taken it or not
            self.restart()
        self._is_answered = False
        wanted = {(topic, partition): offset for topic, of_topic in topics for partition, offset, _ in of_topic}
        if self._epoch == _FIRST_EPOCH:
            self._known = wanted
            return self._id, self._epoch, topics, []
        known, self._known = self._known, wanted
        moved = [
            (topic, [entry for entry in of_topic if known.get((topic, entry[0])) != entry[1]])
            for topic, of_topic in topics
        ]
        forgotten: defaultdict[str, list[int]] = defaultdict(list)
        for topic, partition in known.keys() - wanted.keys():
            forgotten[topic].append(partition)
        return self._id, self._epoch, [each for each in moved if each[1]], list(forgotten.items())

    def note(self, error_code: int, session_id: int) -> None:
        """Take in the answer to that request."""
        self._is_answered = True
        self._id = session_id
        if error_code or session_id == 0:  # the broker keeps none, or has dropped it
            self.restart()
        else:
            self._epoch = self._epoch % _EPOCH_MAX + 1


class _SessionRequest(FetchRequest):
    """aiokafka's request, that tells the broker only the difference; ``topics`` are all the same."""

    def __init__(self, request: FetchRequest, session: FetchSession) -> None:
        super().__init__(
            request._max_wait_ms,
            request._min_bytes,
            request._max_bytes,
            request._isolation_level,
            request._topics,
            request._rack_id,
        )
        self._session = session

    def build(self, request_struct_class: Any) -> Any:
        if request_struct_class.API_VERSION < _API_VERSION_MIN:
            return super().build(request_struct_class)
        everything = self._topics
        session_id, epoch, self._topics, forgotten = self._session.next(everything)
        try:
            built: Any = super().build(request_struct_class)
        finally:
            self._topics = everything
        built.session_id, built.session_epoch, built.forgotten_topics_data = session_id, epoch, forgotten
        built.RESPONSE_TYPE = _Answers(self._session, request_struct_class.RESPONSE_TYPE)
        return built


class _Answers:
    """Stands where aiokafka has the class of a response, and tells the session of each."""

    def __init__(self, session: FetchSession, response_class: Any) -> None:
        self._session = session
        self._response_class = response_class

    def decode(self, data: Any) -> Any:
        response = self._response_class.decode(data)
        self._session.note(response.error_code, response.session_id)
        return response


def use_fetch_sessions(fetcher: Any) -> None:
    """Let an aiokafka fetcher keep a session with each broker."""
    plan = fetcher._get_actions_per_node
    sessions: defaultdict[int, FetchSession] = defaultdict(FetchSession)

    def planned(assignment: Any) -> Any:
        requests, *rest = plan(assignment)
        for node, request in requests:
            # A new assignment, or an answer that was dropped because of a seek: another one would tell news only.
            if any(assignment.state_value(tp).highwater is None for tp in _partitions_of(request)):
                sessions[node].restart()
        return [(node, _SessionRequest(request, sessions[node])) for node, request in requests], *rest

    fetcher._get_actions_per_node = planned


def pace_fetches(fetcher: Any, spare: Callable[[], Awaitable[object]]) -> None:
    """Let an aiokafka fetcher send a request after ``spare``; at once where the broker is known to have more."""
    send = fetcher._proc_fetch_request

    async def paced(assignment: Any, node: Any, request: Any) -> Any:
        if all(records_behind(assignment.state_value(tp)) == 0 for tp in _partitions_of(request)):
            try:
                await spare()
            except asyncio.CancelledError:  # as aiokafka's own: whoever cancels it awaits it
                return False
        return await send(assignment, node, request)

    fetcher._proc_fetch_request = paced


def hurry_partial_fetches(fetcher: Any, takes: Callable[[], bool]) -> None:
    """Let the broker answer soon where an aiokafka fetcher leaves out partitions of which records lie here.

    They have no room. Once there is some, the partition would wait for the answer about the others, which the broker
    holds back until there are records of theirs.

    Args:
        takes: whether anybody takes records.
    """
    plan = fetcher._get_actions_per_node

    def planned(assignment: Any) -> Any:
        requests, *rest = plan(assignment)
        if fetcher._records and takes():
            for _, request in requests:
                request._max_wait_ms = min(request._max_wait_ms, limits.fetch_part_wait_ms)
        return requests, *rest

    fetcher._get_actions_per_node = planned


def records_behind(state: Any) -> float:
    """Records that the last answer told of and that were not handed out yet; inf where none has told.

    Args:
        state: aiokafka's of a partition. A seek may leave it without a position.
    """
    if state.highwater is None or not state.has_valid_position:
        return math.inf
    return max(state.highwater - state.position, 0)


def _partitions_of(request: FetchRequest) -> Iterable[TopicPartition]:
    return (TopicPartition(topic, partition) for topic, of_topic in request.topics for partition, *_ in of_topic)
