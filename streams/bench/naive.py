"""A plain Faust agent doing Headwater's job, as Faust's documentation writes one: what the benchmark compares with.

One event at a time: the user's value is read from a standard RocksDB table, one encoder step and one exact top k
are run for one user, the value is stored and one list is sent. Every setting that bears on speed is Faust's
default. Two things are in its favour: it checks no input, and its popularity counts are not kept over a restart.
"""

# pyright: reportUnknownMemberType=false, reportUntypedFunctionDecorator=false, reportUnknownVariableType=false
# Faust is not typed throughout.

import sys
import time
from collections import Counter
from typing import Any, Final

import faust
import msgspec
import numpy as np

from models.runtime import OnnxEncoder
from operators import limits
from operators.interest import EVENT_TYPES, OUT_OF_VOCABULARY, gap_bucket
from operators.ranking import Cause, RankedItem, RecommendationList, encode_list

__all__ = ["NaiveConfig", "build", "main"]

_LIST_ITEMS: Final = 10
_EXPLAINED_EVENTS: Final = 16


class NaiveConfig(msgspec.Struct, frozen=True):
    """What the process is told, as JSON in its first argument."""

    app_id: str
    broker: str
    topics: tuple[str, str, str]
    recommendations: str
    partitions: int
    data_dir: str


class _User(msgspec.Struct):
    items: list[str] = []
    times: list[int] = []
    hidden: bytes = b""
    known: int = 0


class Interaction(faust.Record, serializer="json"):
    """An event."""

    user_id: str
    item_id: str
    timestamp: int


def build(config: NaiveConfig) -> Any:
    """The app with its table and its agent."""
    app: Any = faust.App(
        config.app_id,
        broker=f"kafka://{config.broker}",
        store="rocksdb://",
        datadir=config.data_dir,
        topic_partitions=config.partitions,
        web_enabled=False,
    )
    events = app.topic(*config.topics, key_serializer="raw", value_type=Interaction)
    lists = app.topic(config.recommendations, key_serializer="raw", value_serializer="raw")
    users = app.Table("users", partitions=config.partitions, key_type=bytes, value_type=bytes)
    personalizer = _Personalizer(config.topics)

    @app.agent(events, name="personalize")
    async def personalize(stream: Any) -> None:
        async for event in stream.events():
            user, value = personalizer.update(users.get(event.key), event.value, event.message)
            users[event.key] = user
            await lists.send(key=event.key, value=value, headers={"content-type": b"application/json"})

    del personalize
    return app


class _Personalizer:
    """The work of one event."""

    def __init__(self, topics: tuple[str, str, str]) -> None:
        self._encoder = OnnxEncoder(providers="cpu")
        self._type_of = {topic: n for n, topic in enumerate(topics)}
        self._popular: Counter[str] = Counter()

    def update(self, stored: bytes | None, event: Interaction, message: Any) -> tuple[bytes, bytes]:
        """The user's new value in msgpack, and the list."""
        encoder = self._encoder
        user = msgspec.msgpack.decode(stored, type=_User) if stored else _User()
        hidden = np.frombuffer(user.hidden or bytes(4 * encoder.hidden_width), np.float32)[None, :]
        row = encoder.row_of(event.item_id)
        gap = gap_bucket(event.timestamp - user.times[-1] if user.times else None)
        event_type = self._type_of[message.topic]
        hidden, vector = encoder.step(hidden, np.array([row]), np.array([event_type]), np.array([gap]))
        self._popular[event.item_id] += 1
        items = [*user.items, event.item_id][-limits.history_events_max :]
        times = [*user.times, event.timestamp][-limits.history_events_max :]
        known = user.known + (row != OUT_OF_VOCABULARY)
        ranked = self._ranked(vector, items) if known else self._most_popular()
        value = self._list(event, message, EVENT_TYPES[event_type], ranked)
        return msgspec.msgpack.encode(_User(items, times, hidden.tobytes(), known)), value

    def _ranked(self, vector: Any, history: list[str]) -> list[RankedItem]:
        encoder = self._encoder
        scores, rows = encoder.top_k(vector, _LIST_ITEMS)
        recent = np.array([encoder.row_of(item) for item in history[-_EXPLAINED_EVENTS:]])
        recent = recent[recent != OUT_OF_VOCABULARY]
        because: list[list[str]] = [[]] * _LIST_ITEMS
        if len(recent):
            products = encoder.embeddings(rows[0]) @ encoder.embeddings(recent).T
            because = [[encoder.item_at(row)] for row in recent[products.argmax(axis=1)].tolist()]
        pairs = zip(rows[0].tolist(), scores[0].tolist(), strict=True)
        return [
            RankedItem(encoder.item_at(row), place, round(score, 4), "encoder", because[place - 1])
            for place, (row, score) in enumerate(pairs, 1)
        ]

    def _most_popular(self) -> list[RankedItem]:
        top = self._popular.most_common(_LIST_ITEMS)
        return [
            RankedItem(item, place, count / top[0][1], "popularity", []) for place, (item, count) in enumerate(top, 1)
        ]

    def _list(self, event: Interaction, message: Any, topic: str, items: list[RankedItem]) -> bytes:
        return encode_list(
            RecommendationList(
                request_id=f"{topic}-{message.partition}-{message.offset}",
                user_id=event.user_id,
                generated_at=time.time_ns() // 1_000_000,
                event_time=event.timestamp,
                caused_by=[Cause(topic, message.partition, message.offset)],
                model_version=self._encoder.version,
                variant="naive",
                degraded=False,
                items=items,
            )
        )


def main() -> None:
    """Run the agent until SIGTERM."""
    config = msgspec.json.decode(sys.argv.pop(1), type=NaiveConfig)
    app = build(config)
    faust.Worker(app, loglevel="WARNING").execute_from_commandline()


if __name__ == "__main__":
    main()
