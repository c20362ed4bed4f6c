"""What must come out, computed in plain Python from what went in; shares no code with the fold."""

import json
import random
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

from operators import state
from operators.state import UserState
from streams.settings import Settings
from streams.topics import changelog_topic
from tests.integration.harness import Outgoing, Place, read_topic

__all__ = ["HISTORY", "Oracle", "Verdict", "final_lists", "final_states", "make_events"]

HISTORY: Final = 50
_START_MS: Final = 1_700_000_000_000
_PRODUCED_MS: Final = int(time.time() * 1000) - 3_600_000
"""Record time of the first event. Not its event time: Kafka's retention would remove records of that age."""


class _Sent(NamedTuple):
    time_ms: int
    type: int
    item: str
    event_id: str | None
    place: Place

    @property
    def order(self) -> tuple[int, int, int]:
        """The order of folding."""
        return self.time_ms, self.type, self.place.offset


class Verdict(NamedTuple):
    """How the final states compare with the oracle; both 0 is exact."""

    lost: int
    doubled: int
    wrong: list[str]
    late: int


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


class Oracle:
    """Every event that was produced, by user."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._type_of = {topic: n for n, topic in enumerate(settings.topics.events)}
        self._events: defaultdict[str, list[_Sent]] = defaultdict(list)
        self.ends: dict[tuple[str, int], int] = {}
        """Next offset by topic and partition."""

    @property
    def users(self) -> list[str]:
        """Users with an event."""
        return list(self._events)

    def note(self, records: Iterable[Outgoing], places: Iterable[Place]) -> None:
        """Take good events and where they went."""
        for record, place in zip(records, places, strict=True):
            self.note_end(place)
            fields = json.loads(record.value or b"")
            sent = _Sent(
                fields["timestamp"], self._type_of[place.topic], fields["item_id"], fields.get("event_id"), place
            )
            self._events[fields["user_id"]].append(sent)

    def note_end(self, place: Place) -> None:
        """Take a record that is no event: it moves the end of its partition."""
        tp = place.topic, place.partition
        self.ends[tp] = max(self.ends.get(tp, 0), place.offset + 1)

    def judge(self, states: dict[str, UserState], *, late_allowed: bool) -> Verdict:
        """Compare the state of every user: count, history, fences."""
        lost = doubled = late = 0
        wrong: list[str] = [f"{user}: a state of nobody" for user in states.keys() - self._events.keys()]
        for user, events in self._events.items():
            found = states.get(user)
            distinct = {event.event_id or event.place: event for event in events}
            total = 0 if found is None else found.events_count + found.late_count
            lost += max(len(distinct) - total, 0)
            doubled += max(total - len(distinct), 0)
            if found is None:
                wrong.append(f"{user}: no state")
                continue
            late += found.late_count
            wrong += [f"{user}: {problem}" for problem in _differences(found, events, list(distinct.values()))]
        if late and not late_allowed:
            wrong.append(f"{late} late events")
        return Verdict(lost, doubled, wrong, late)

    def list_problems(self, records: Sequence[Any], *, in_order: bool) -> list[str]:
        """Whether every event is named by a list, and the last list of every user is about the user's end.

        Args:
            records: of the recommendations topic, in order within each partition.
            in_order: the user's events came in event-time order, so the last list must name the last of all;
                else it must name the last one of some topic.
        """
        named: set[Place] = set()
        last: dict[str, Any] = {}
        problems: list[str] = []
        for record in records:
            content = json.loads(record.value)
            named |= {Place(**cause) for cause in content["caused_by"]}
            last[content["user_id"]] = content
            if content["user_id"].encode() != record.key:
                problems.append(f"list of {content['user_id']} under key {record.key!r}")
        for user, events in self._events.items():
            if user not in last:
                problems.append(f"{user}: no list")
                continue
            problems += [f"{user}: no list names {event.place}" for event in events if event.place not in named]
            causes = {Place(**cause) for cause in last[user]["caused_by"]}
            by_type = [[event for event in events if event.type == t] for t in range(3)]
            wanted = {max(part, key=_order).place for part in ([events] if in_order else by_type) if part}
            if not causes & wanted:
                problems.append(f"{user}: the last list is caused by {sorted(causes)[-1]}, not by {wanted}")
        return problems


def _order(event: _Sent) -> tuple[int, int, int]:
    return event.order


def _differences(found: UserState, events: Sequence[_Sent], distinct: Sequence[_Sent]) -> Iterable[str]:
    if found.events_count + found.late_count != len(distinct):
        yield f"{found.events_count} events and {found.late_count} late, not {len(distinct)}"
    expected = [(e.time_ms, e.type, e.item) for e in sorted(distinct, key=_order)[-HISTORY:]]
    history = list(zip(found.history_times_ms, found.history_types, found.history_items, strict=True))
    if history != expected:
        yield f"history {history[-3:]} (of {len(history)}), not {expected[-3:]} (of {len(expected)})"
    fences = [max((e.place.offset + 1 for e in events if e.type == t), default=0) for t in range(3)]
    if found.fences[:3] != fences:
        yield f"fences {found.fences[:3]}, not {fences}"


def final_states(settings: Settings) -> dict[str, UserState]:
    """The last state of every user in the changelog."""
    latest: dict[bytes, bytes] = {}
    for record in read_topic(settings, changelog_topic(settings.worker.app_id)):
        latest[record.key] = record.value
    return {key.decode(): state.decode(value) for key, value in latest.items() if key[:1] != b"\x00"}


def final_lists(settings: Settings) -> dict[str, Any]:
    """The last list of every user."""
    latest: dict[str, Any] = {}
    for record in read_topic(settings, settings.topics.recommendations):
        latest[record.key.decode()] = json.loads(record.value)
    return latest


def lists_per_event(records: Sequence[Any]) -> Counter[Place]:
    """How many lists name each event."""
    return Counter(Place(**cause) for record in records for cause in json.loads(record.value)["caused_by"])
