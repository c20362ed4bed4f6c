"""What the topics hold as a history to train on: every event, and which of them answered a published list."""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec

from models.event_histories import EventHistories, TimedRecord, event_histories, split_by_share
from operators.erasure import decode_erasure
from operators.events import Event, Rejected, decode
from operators.wire import UNDECODABLE
from streams.clients.errors import ClientError, InputError
from streams.clients.kafka import Cluster, Consumer, Record, consumer, describe_cluster
from streams.clients.reading import partitions_of, read, settled_ends
from streams.clock import now_ms
from streams.importers.sorting import Sorter, TimedEvent
from streams.settings import Settings

__all__ = ["TopicHistory", "open_topics"]


class _Shown(msgspec.Struct):
    item_id: str


class _List(msgspec.Struct):
    event_time: int
    items: list[_Shown]


class Impression(NamedTuple):
    """A published list: it is what the user saw from ``time_ms`` on."""

    time_ms: int
    item_ids: frozenset[str]


class TopicHistory(NamedTuple):
    """Histories, and what became of the records they were read from."""

    histories: EventHistories
    events: int
    left_out: Mapping[str, int]
    """By reason: the codes of dead letters, and duplicate and erased."""
    lists: int
    answered: int
    """Events whose item the user had been shown in the list before."""


def open_topics(settings: Settings, count_min: int) -> TopicHistory:
    """Every event that the event topics hold, without what an erasure covers, joined with the lists before them.

    The recommendations topic is compacted: in time it keeps one list of each user.

    Raises:
        InputError: the topics hold no event.
        ClientError: no broker, no topic, or a record that is no list.
        ModelError: no item has ``count_min`` events.
    """
    cluster = describe_cluster(settings.broker)
    with consumer(settings.broker) as client, Sorter() as sorter:
        erased = _erasures(client, cluster, settings)
        left_out: defaultdict[str, int] = defaultdict(int)
        sorter.add(_events(client, cluster, settings, erased, left_out))
        impressions = _impressions(client, cluster, settings)
        if not sorter.count:
            raise InputError(
                "the event topics hold no event to learn from; send some, for instance with `headwater replay`"
            )
        times_ms = [event.timestamp_ms for event in sorter]
        found = event_histories(sorter, *split_by_share(times_ms), count_min=count_min, answers=_Answers(impressions))
    lists = sum(map(len, impressions.values()))
    return TopicHistory(found, len(times_ms), dict(left_out), lists, int(found.answers.sum()))


class _Answers:
    """Whether an event took an item of the list that its user was last shown."""

    def __init__(self, impressions: Mapping[bytes, Sequence[Impression]]) -> None:
        self._impressions = impressions

    def __call__(self, record: TimedRecord, item_id: str) -> bool:
        shown = self._impressions.get(record.key, ())
        place = bisect_left(shown, record.timestamp_ms, key=lambda impression: impression.time_ms)
        return place > 0 and item_id in shown[place - 1].item_ids


def _records(client: Consumer, cluster: Cluster, topic: str) -> Iterator[Record]:
    partitions = partitions_of(cluster, topic)
    ends = settled_ends(client, partitions)
    return read(client, dict(client.beginning_offsets(partitions)), ends)


def _erasures(client: Consumer, cluster: Cluster, settings: Settings) -> dict[bytes, int]:
    """Event time up to which each erased user's events are refused."""
    until_ms: dict[bytes, int] = {}
    for record in _records(client, cluster, settings.topics.erase):
        request = decode_erasure(record.value, record.key, record.headers, record.offset, now_ms())
        if not isinstance(request, Rejected):
            until_ms[request.key] = max(request.until_ms, until_ms.get(request.key, request.until_ms))
    return until_ms


def _events(
    client: Consumer, cluster: Cluster, settings: Settings, erased: Mapping[bytes, int], left_out: dict[str, int]
) -> Iterator[TimedEvent]:
    known: set[tuple[bytes, int]] = set()
    sequence = 0
    for event_type, topic in enumerate(settings.topics.events):
        for record in _records(client, cluster, topic):
            event = decode(record.value, record.key, record.headers, event_type, record.offset, now_ms())
            reason = _refused(event, erased, known)
            if reason or isinstance(event, Rejected):
                left_out[reason] += 1
                continue
            key = settings.privacy.key_of(event.key.decode())
            yield TimedEvent(
                event.timestamp_ms, sequence, event_type, key, msgspec.json.encode({"item_id": event.item_id})
            )
            sequence += 1


def _refused(event: Event | Rejected, erased: Mapping[bytes, int], known: set[tuple[bytes, int]]) -> str:
    if isinstance(event, Rejected):
        return event.code
    if event.timestamp_ms <= erased.get(event.key, -1):
        return "erased"
    if event.fingerprint:
        if (event.key, event.fingerprint) in known:
            return "duplicate"
        known.add((event.key, event.fingerprint))
    return ""


def _impressions(client: Consumer, cluster: Cluster, settings: Settings) -> dict[bytes, list[Impression]]:
    """The lists of each user by event time; an erased user's go."""
    found: defaultdict[bytes, list[Impression]] = defaultdict(list)
    for record in _records(client, cluster, settings.topics.recommendations):
        key = record.key or b""
        if record.value is None:
            found.pop(key, None)
            continue
        try:
            shown = msgspec.json.decode(record.value, type=_List)
        except UNDECODABLE as error:
            raise ClientError(
                f"{record.topic}/{record.partition} offset {record.offset} is no ranked list ({error});"
                " check that nothing else writes to topics.recommendations"
            ) from error
        found[key].append(Impression(shown.event_time, frozenset(item.item_id for item in shown.items)))
    for lists in found.values():
        lists.sort(key=lambda impression: impression.time_ms)
    return found
