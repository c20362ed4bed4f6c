"""What must come out, computed in plain Python from what went in; shares no code with the fold."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol

__all__ = ["HISTORY", "Oracle", "Place", "Sent", "State", "Verdict"]

HISTORY: Final = 50
"""Events of a user's history, by the contract."""

_Step = tuple[int, int, str]


class Place(NamedTuple):
    """Where a record is."""

    topic: str
    partition: int
    offset: int


class Sent(NamedTuple):
    """An event as it lies in its topic."""

    time_ms: int
    type: int
    item: str
    event_id: str | None
    place: Place

    @property
    def order(self) -> tuple[int, int, int]:
        """The order of folding."""
        return self.time_ms, self.type, self.place.offset

    @property
    def step(self) -> _Step:
        """What a history shows of it."""
        return self.time_ms, self.type, self.item


class State(Protocol):
    """The part of a user's state that is judged."""

    events_count: int
    late_count: int
    fences: list[int]

    @property
    def history_times_ms(self) -> list[int]: ...
    @property
    def history_types(self) -> list[int]: ...
    @property
    def history_items(self) -> list[str]: ...


class Verdict(NamedTuple):
    """How the final states compare with the oracle; no event lost or doubled and nobody wrong is exact."""

    lost: int
    doubled: int
    wrong: list[str]
    """One line a problem, each beginning with the user's id."""
    late: int


class Oracle:
    """Every event that lies in the event topics, by user."""

    def __init__(self, event_topics: Sequence[str]) -> None:
        """``event_topics`` in the order of their types."""
        self._type_of = {topic: n for n, topic in enumerate(event_topics)}
        self.events: defaultdict[str, list[Sent]] = defaultdict(list)
        """User id -> events, in no particular order."""
        self.ends: dict[tuple[str, int], int] = {}
        """Next offset by topic and partition."""

    @property
    def users(self) -> list[str]:
        """Users with an event."""
        return list(self.events)

    def add(self, place: Place, value: bytes) -> Sent:
        """Take a good event and where it is."""
        self.note_end(place)
        fields = json.loads(value)
        sent = Sent(fields["timestamp"], self._type_of[place.topic], fields["item_id"], fields.get("event_id"), place)
        self.events[fields["user_id"]].append(sent)
        return sent

    def note_end(self, place: Place) -> None:
        """Take a record that is no event: it moves the end of its partition."""
        tp = place.topic, place.partition
        self.ends[tp] = max(self.ends.get(tp, 0), place.offset + 1)

    def judge(self, states: Mapping[str, State], *, late_allowed: bool) -> Verdict:
        """Compare the state of every user: count, history, fences.

        An event may come more than once under its id. Where the first is still in the history the second must
        not count; where it has left it the second may count as late.
        """
        lost = doubled = late = 0
        wrong: list[str] = [f"{user}: a state of nobody" for user in states.keys() - self.events.keys()]
        for user, events in self.events.items():
            found = states.get(user)
            distinct = {event.event_id or event.place: event for event in events}
            total = 0 if found is None else found.events_count + found.late_count
            most = len(distinct) + min(len(events) - len(distinct), 0 if found is None else found.late_count)
            lost += max(len(distinct) - total, 0)
            doubled += max(total - most, 0)
            if found is None:
                wrong.append(f"{user}: no state")
                continue
            late += found.late_count
            if not len(distinct) <= total <= most:
                wrong.append(
                    f"{user}: {found.events_count} events and {found.late_count} late, not {len(distinct)} in all"
                )
            wrong += [f"{user}: {problem}" for problem in _differences(found, events, list(distinct.values()))]
        if late and not late_allowed:
            wrong.append(f"{late} late events")
        return Verdict(lost, doubled, wrong, late)

    def list_problems(self, lists: Iterable[tuple[bytes | None, bytes]], *, in_order: bool) -> list[str]:
        """Whether every event is named by a list, and the last list of every user is about the user's end.

        Args:
            lists: keys and values of the recommendations topic, in order within each partition.
            in_order: the user's events came in event-time order, so the last list must name the last of all;
                else it must name the one that came last on some topic.
        """
        named: set[Place] = set()
        last: dict[str, set[Place]] = {}
        problems: list[str] = []
        for key, value in lists:
            content: dict[str, Any] = json.loads(value)
            causes = {Place(**cause) for cause in content["caused_by"]}
            named |= causes
            last[content["user_id"]] = causes
            if content["user_id"].encode() != key:
                problems.append(f"list of {content['user_id']} under key {key!r}")
        for user, events in self.events.items():
            if user not in last:
                problems.append(f"{user}: no list")
                continue
            problems += [f"{user}: no list names {event.place}" for event in events if event.place not in named]
            wanted = {max(events, key=_order).place} if in_order else self._last_places(events)
            if not last[user] & wanted:
                problems.append(f"{user}: the last list is caused by {sorted(last[user])[-1]}, not by {wanted}")
        return problems

    def _last_places(self, events: Sequence[Sent]) -> set[Place]:
        by_type = [[event.place for event in events if event.type == t] for t in range(len(self._type_of))]
        return {max(places) for places in by_type if places}


def _order(event: Sent) -> tuple[int, int, int]:
    return event.order


def _differences(found: State, events: Sequence[Sent], distinct: Sequence[Sent]) -> Iterable[str]:
    newest = sorted(distinct, key=_order)[-HISTORY:]
    history = list(zip(found.history_times_ms, found.history_types, found.history_items, strict=True))
    if not _same_history(history, newest, distinct):
        expected = [event.step for event in newest]
        yield f"history {history[-3:]} (of {len(history)}), not {expected[-3:]} (of {len(expected)})"
    fences = [max((e.place.offset + 1 for e in events if e.type == t), default=0) for t in range(3)]
    if found.fences[:3] != fences:
        yield f"fences {found.fences[:3]}, not {fences}"


def _same_history(history: Sequence[_Step], newest: Sequence[Sent], distinct: Sequence[Sent]) -> bool:
    """Equal, events of one millisecond in any order; of those at the old end any may be the ones that stayed."""
    times = [time_ms for time_ms, _, _ in history]
    if times != [event.time_ms for event in newest]:
        return False
    oldest = times[0] if times else 0
    inside = Counter(event.step for event in newest if event.time_ms > oldest)
    at_end = Counter(event.step for event in distinct if event.time_ms == oldest)
    return inside == Counter(step for step in history if step[0] > oldest) and (
        Counter(step for step in history if step[0] == oldest) <= at_end
    )
