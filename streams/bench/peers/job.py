"""The job that every contender does, without its framework: a user's value and events in, value and list out.

It is not Headwater's code path: values are msgspec's msgpack, events are taken in arrival order and nothing is checked.
"""

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Final, Literal, NamedTuple, Protocol

import msgspec
import numpy as np

from models.runtime import OnnxEncoder
from operators import limits
from operators.interest import EVENT_TYPES, OUT_OF_VOCABULARY, Job, gap_bucket, refresh
from operators.ranking import Cause, RankedItem, RecommendationList, encode_list
from streams.clock import now_ms

__all__ = ["Interaction", "JobName", "PeerConfig", "PeerJob", "Update", "decode_interaction", "new_job"]

JobName = Literal["encoder", "state"]

_LIST_ITEMS: Final = 10
_EXPLAINED_EVENTS: Final = 16
_PURCHASE: Final = EVENT_TYPES.index("purchase")


class PeerConfig(msgspec.Struct, frozen=True):
    """What a contender's process is told, as JSON in its first argument."""

    app_id: str
    broker: str
    topic: str
    recommendations: str
    partitions: int
    data_dir: str
    job: JobName = "encoder"


class Interaction(NamedTuple):
    """A purchase with its place in the topic."""

    item_id: str
    timestamp_ms: int
    partition: int
    offset: int


class Update(NamedTuple):
    """A user's turn: the stored value (None for a new user) and at least one event."""

    stored: bytes | None
    user_id: str
    events: Sequence[Interaction]


class _Wire(msgspec.Struct):
    user_id: str
    item_id: str
    timestamp: int


_decode_wire: Final = msgspec.json.Decoder(_Wire).decode


def decode_interaction(value: bytes, partition: int, offset: int) -> Interaction:
    """A record of the purchase topic."""
    wire = _decode_wire(value)
    return Interaction(wire.item_id, wire.timestamp, partition, offset)


class PeerJob(Protocol):
    """The work of one micro-batch; one user's single event is the smallest."""

    def run(self, updates: Sequence[Update]) -> list[tuple[bytes, bytes]]:
        """New value and list of every user, in the order of ``updates``."""
        ...


def new_job(name: JobName) -> PeerJob:
    """By name: with the encoder and an exact top 10, or the ten newest of the last 50 items."""
    return _EncoderJob() if name == "encoder" else _StateJob()


class _Items(msgspec.Struct):
    items: list[str] = []
    times: list[int] = []


class _StateJob:
    def run(self, updates: Sequence[Update]) -> list[tuple[bytes, bytes]]:
        done: list[tuple[bytes, bytes]] = []
        for update in updates:
            user = msgspec.msgpack.decode(update.stored, type=_Items) if update.stored else _Items()
            items = [*user.items, *(event.item_id for event in update.events)][-limits.history_events_max :]
            times = [*user.times, *(event.timestamp_ms for event in update.events)][-limits.history_events_max :]
            newest = items[: -_LIST_ITEMS - 1 : -1]
            ranked = [RankedItem(item, place, 1.0, "encoder", []) for place, item in enumerate(newest, 1)]
            done.append((msgspec.msgpack.encode(_Items(items, times)), _list(update, "history", ranked)))
        return done


class _User(msgspec.Struct):
    items: list[str] = []
    times: list[int] = []
    hidden: bytes = b""
    known: int = 0


class _EncoderJob:
    def __init__(self) -> None:
        self._encoder = OnnxEncoder(providers="cpu")
        self._popular: Counter[str] = Counter()

    def run(self, updates: Sequence[Update]) -> list[tuple[bytes, bytes]]:
        encoder = self._encoder
        users = [msgspec.msgpack.decode(each.stored, type=_User) if each.stored else _User() for each in updates]
        jobs = [self._job(user, update.events) for user, update in zip(users, updates, strict=True)]
        hidden, vectors = refresh(encoder, jobs)
        scores, rows = encoder.top_k(vectors, _LIST_ITEMS)
        done: list[tuple[bytes, bytes]] = []
        for n, (user, update, job) in enumerate(zip(users, updates, jobs, strict=True)):
            items = [*user.items, *(event.item_id for event in update.events)][-limits.history_events_max :]
            times = [*user.times, *(event.timestamp_ms for event in update.events)][-limits.history_events_max :]
            known = user.known + int((job.rows != OUT_OF_VOCABULARY).sum())
            self._popular.update(event.item_id for event in update.events)
            ranked = self._ranked(scores[n], rows[n], items) if known else self._most_popular()
            value = msgspec.msgpack.encode(_User(items, times, hidden[n].tobytes(), known))
            done.append((value, _list(update, encoder.version, ranked)))
        return done

    def _job(self, user: _User, events: Sequence[Interaction]) -> Job:
        times = [*user.times[-1:], *(event.timestamp_ms for event in events)]
        gaps = [gap_bucket(after - before) for before, after in pairwise(times)]
        if not user.times:
            gaps = [gap_bucket(None), *gaps]
        hidden = np.frombuffer(user.hidden, np.float32) if user.hidden else None
        rows = self._encoder.rows_of([event.item_id for event in events])
        return Job(hidden, rows, np.full(len(rows), _PURCHASE, np.int64), np.array(gaps, np.int64))

    def _ranked(self, scores: Any, rows: Any, history: list[str]) -> list[RankedItem]:
        encoder = self._encoder
        recent = encoder.rows_of(history[-_EXPLAINED_EVENTS:])
        recent = recent[recent != OUT_OF_VOCABULARY]
        because: list[list[str]] = [[]] * _LIST_ITEMS
        if len(recent):
            products = encoder.embeddings(rows) @ encoder.embeddings(recent).T
            because = [[encoder.item_at(row)] for row in recent[products.argmax(axis=1)].tolist()]
        pairs = zip(rows.tolist(), scores.tolist(), strict=True)
        return [
            RankedItem(encoder.item_at(row), place, round(score, 4), "encoder", because[place - 1])
            for place, (row, score) in enumerate(pairs, 1)
        ]

    def _most_popular(self) -> list[RankedItem]:
        top = self._popular.most_common(_LIST_ITEMS)
        return [
            RankedItem(item, place, count / top[0][1], "popularity", []) for place, (item, count) in enumerate(top, 1)
        ]


def _list(update: Update, version: str, items: list[RankedItem]) -> bytes:
    last = update.events[-1]
    return encode_list(
        RecommendationList(
            request_id=f"purchase-{last.partition}-{last.offset}",
            user_id=update.user_id,
            generated_at=now_ms(),
            event_time=last.timestamp_ms,
            caused_by=[Cause("purchase", event.partition, event.offset) for event in update.events],
            model_version=version,
            variant="peer",
            degraded=False,
            items=items,
        )
    )
