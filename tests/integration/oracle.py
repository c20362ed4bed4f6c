"""Events for the tests, and the final states and lists to hold against the oracle."""

import json
import random
import time
from collections.abc import Iterable, Sequence
from typing import Any, Final

from streams.chaos.oracle import HISTORY, Oracle, Place, Verdict
from streams.chaos.readback import final_states
from streams.settings import Settings
from tests.integration.harness import Outgoing, read_topic

__all__ = [
    "HISTORY",
    "Oracle",
    "Verdict",
    "final_lists",
    "final_states",
    "keys_and_values",
    "make_events",
    "note",
]

_START_MS: Final = 1_700_000_000_000
_PRODUCED_MS: Final = int(time.time() * 1000) - 3_600_000
"""Record time of the first event. Not its event time: Kafka's retention would remove records of that age."""


def make_events(
    settings: Settings,
    rng: random.Random,
    count: int,
    users: int,
    items: Sequence[str],
    *,
    first: int = 0,
    types: Sequence[int] = (0, 1, 2),
    with_ids: bool = True,
) -> list[Outgoing]:
    """Good events whose times rise with their order, numbered from ``first`` on."""
    events: list[Outgoing] = []
    for n in range(first, first + count):
        user = f"user-{rng.randrange(users)}"
        time_ms = _START_MS + 1000 * n
        value = {"user_id": user, "item_id": rng.choice(items), "timestamp": time_ms}
        if with_ids:
            value["event_id"] = f"e{n}"
        topic = settings.topics.events[rng.choice(types)]
        events.append(Outgoing(topic, user.encode(), json.dumps(value).encode(), _PRODUCED_MS + n))
    return events


def note(oracle: Oracle, records: Iterable[Outgoing], places: Iterable[Place]) -> None:
    """Tell the oracle of good events and where they went."""
    for record, place in zip(records, places, strict=True):
        oracle.add(place, record.value or b"")


def keys_and_values(records: Iterable[Any]) -> list[tuple[bytes | None, bytes]]:
    """Of records as they were read."""
    return [(record.key, record.value) for record in records]


def final_lists(settings: Settings) -> dict[str, Any]:
    """The last list of every user."""
    latest: dict[str, Any] = {}
    for record in read_topic(settings, settings.topics.recommendations):
        latest[record.key.decode()] = json.loads(record.value)
    return latest
