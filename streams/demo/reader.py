"""Reads the published lists in a thread: the last one of every user, and when each event was answered."""

import threading
import time
from typing import Any

import orjson

from streams.clients.kafka import Cluster, consumer
from streams.clients.reading import partitions_of
from streams.settings import Settings

__all__ = ["Cause", "ListReader"]

Cause = tuple[str, int, int]
"""Topic, partition, offset of an event."""

_POLL_MS = 20


class ListReader(threading.Thread):
    """Follows the ``recommendations`` topic from its beginning until ``close``."""

    def __init__(self, settings: Settings, cluster: Cluster) -> None:
        super().__init__(name="demo-reader", daemon=True)
        self._settings = settings
        self._partitions = partitions_of(cluster, settings.topics.recommendations)
        self._changed = threading.Condition()
        self._closing = False
        self._answered_at: dict[Cause, float] = {}
        self._last: dict[str, dict[str, Any]] = {}
        self.lists = 0

    @property
    def answered(self) -> int:
        """Events that some list names as its cause."""
        return len(self._answered_at)

    @property
    def users(self) -> int:
        """Users with a list."""
        return len(self._last)

    def last_of(self, user_id: str) -> dict[str, Any] | None:
        """The user's newest list."""
        return self._last.get(user_id)

    def wait_answered(self, cause: Cause, wait_s: float) -> float | None:
        """``time.perf_counter()`` of the list that names ``cause``; None after ``wait_s``."""
        with self._changed:
            self._changed.wait_for(lambda: cause in self._answered_at, wait_s)
        return self._answered_at.get(cause)

    def run(self) -> None:
        """The thread."""
        with consumer(self._settings.broker) as client:
            client.assign(self._partitions)
            for partition in self._partitions:
                client.seek(partition, 0)
            while not self._closing:
                for records in client.poll(_POLL_MS).values():
                    self._note([record.value for record in records])

    def _note(self, values: list[bytes | None]) -> None:
        now = time.perf_counter()
        with self._changed:
            for value in values:
                if value is None:
                    continue
                of_user = orjson.loads(value)
                self.lists += 1
                self._last[of_user["user_id"]] = of_user
                for cause in of_user["caused_by"]:
                    self._answered_at.setdefault((cause["topic"], cause["partition"], cause["offset"]), now)
            self._changed.notify_all()

    def close(self) -> None:
        """Stop following."""
        self._closing = True
        self.join(timeout=10)
