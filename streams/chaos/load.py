"""A steady stream of good events, and the record of what the broker acknowledged of it."""

import json
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Final

from models.runtime import DEFAULT_ARTEFACT
from operators.events import JSON_HEADERS
from operators.partition import partition_of
from streams.chaos.oracle import Place
from streams.clients.errors import ClientError
from streams.clients.kafka import KafkaError, Pending, Producer, describe_cluster, producer
from streams.clock import now_ms
from streams.settings import Settings

__all__ = ["Load"]

_TICK_S: Final = 0.02
_DELIVERY_TIMEOUT_S: Final = 180.0
"""Longer than any fault of the broker: no event is given up."""
_GIVE_UP_S: Final = 5.0
_ITEMS_MAX: Final = 1_000


class Load(threading.Thread):
    """Produces ``events_per_s`` in a ``with`` block until ``finish``; users, items and types are of the seed.

    An event's number is in its ``context``; it has no id, by which a history would know it if the fence failed.
    """

    def __init__(self, settings: Settings, seed: int, *, users: int, events_per_s: float, types: Sequence[int]) -> None:
        super().__init__(name="chaos-load", daemon=True)
        self._settings = settings
        self._rng = random.Random(f"load {seed}")  # noqa: S311  # repeatable, not secret
        self._users, self._types = users, types
        self._events_per_s = events_per_s
        vocabulary: list[str] = json.loads((DEFAULT_ARTEFACT / "vocabulary.json").read_text(encoding="utf-8"))
        self._items = vocabulary[1:_ITEMS_MAX]
        self._finishing = threading.Event()
        self._pending: deque[tuple[int, str, Pending]] = deque()
        self._given_up = False
        self._surged = 0
        self._last_ms = 0
        self._error: BaseException | None = None
        self.sent = 0
        self.acknowledged: dict[int, Place] = {}
        """Number of an event -> where the broker said that it is."""
        self.unacknowledged: list[int] = []
        """Numbers of events whose fate the client does not know."""

    def surge(self, events: int) -> None:
        """Send so many more at once; a worker then has a backlog."""
        self._surged += events

    def finish(self) -> None:
        """Stop producing; returns when the fate of every event is known.

        Raises:
            ClientError: the load broke off before.
        """
        self._finishing.set()
        self.join()
        self.check()

    def __enter__(self) -> "Load":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Produce nothing more; what nobody waited for is given up."""
        self._given_up = True
        self._finishing.set()
        self.join(_GIVE_UP_S)

    def check(self) -> None:
        """Raise if the load broke off.

        Raises:
            ClientError: it did.
        """
        if self._error is not None:
            raise ClientError(f"the load broke off after {self.sent} events: {self._error!r}") from self._error

    def run(self) -> None:
        try:
            with ExitStack() as stack:
                cluster = describe_cluster(self._settings.broker)
                client = stack.enter_context(
                    producer(self._settings.broker, cluster, delivery_timeout_s=_DELIVERY_TIMEOUT_S)
                )
                self._produce(client)
                self._settle(lambda _: not self._given_up)
        except BaseException as error:
            self._error = error

    def _produce(self, client: Producer) -> None:
        began = time.monotonic()
        while not self._finishing.wait(_TICK_S):
            due = int((time.monotonic() - began) * self._events_per_s) + self._surged
            while self.sent < due:
                self._send(client)
            self._settle(lambda pending: pending.is_done)

    def _send(self, client: Producer) -> None:
        user = f"user-{self._rng.randrange(self._users)}"
        # No two events have one time: which of them comes first would be a matter of batches.
        self._last_ms = max(self._last_ms + 1, now_ms())
        event = {
            "user_id": user,
            "item_id": self._rng.choice(self._items),
            "timestamp": self._last_ms,
            "context": {"n": self.sent},
        }
        topic = self._settings.topics.events[self._rng.choice(self._types)]
        partition = partition_of(user.encode(), self._settings.topics.partitions)
        value = json.dumps(event).encode()
        number, self.sent = self.sent, self.sent + 1
        try:
            self._pending.append((number, topic, client.send(topic, value, user.encode(), JSON_HEADERS, partition)))
        except KafkaError:
            self.unacknowledged.append(number)

    def _settle(self, is_due: Callable[[Pending], bool]) -> None:
        while self._pending and is_due(self._pending[0][2]):
            number, topic, pending = self._pending.popleft()
            try:
                sent = pending.get(_DELIVERY_TIMEOUT_S)
            except KafkaError:
                self.unacknowledged.append(number)
            else:
                self.acknowledged[number] = Place(topic, sent.partition, sent.offset)
