"""The stream as the judge: for each event rank first, then learn, through the core that the worker runs.

A user's events of one moment (a basket) are one occasion: the list that the last batch published for the user is judged
against what the user then did, and only then do the events reach ``process_batch``. All rivals are asked at the same
moment, and learn after it.
"""

from bisect import bisect_right
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.contenders import Contender, Contenders
from models.event_histories import TimedRecord, item_of
from models.list_quality import ListQuality, Occasion, judge_lists
from operators import limits
from operators.batches import Chunk, UserKey, decode_chunks
from operators.candidates.component import Histories, top_rows
from operators.candidates.covisitation import CoVisitation
from operators.candidates.live_covisitation import LiveCoVisitation
from operators.candidates.popularity import Popularity
from operators.interest import EVENT_TYPES, Encoder
from operators.partition import partition_of
from operators.process import process_batch
from operators.ranking import Policy
from operators.state import UserState

__all__ = ["LAGS", "Judgement", "fused", "prequential"]

DAY_MS: Final = 24 * 3600 * 1000
LAGS: Final[dict[str, int]] = {"0": 0, "1 min": 60_000, "1 h": 3_600_000, "1 day": DAY_MS}
"""Lag of the user's state in ms of event time; "1 event" and "never" beside them."""
WEEK_MS: Final = 7 * DAY_MS
BATCH_EVENTS: Final = 1000
LIST_ITEMS: Final = 10
SUCCESSORS: Final = 128
HEADWATER: Final = "headwater"
WITH_COVISITATION: Final = "headwater and co-visitation"
RANK_CONSTANT: Final = 60
"""Of reciprocal rank fusion (Cormack, Clarke and Buettcher, SIGIR 2009)."""


class Judgement(msgspec.Struct, frozen=True):
    """What a replay came to."""

    model_version: str
    users: int
    events: int
    test_start_ms: int
    results: list[ListQuality]
    freshness: list[ListQuality]
    """One for each lag of the user's state, same weights throughout."""


class _Record(NamedTuple):
    offset: int
    key: bytes
    value: bytes
    headers: Sequence[tuple[str, bytes]] = ()


class _Item(msgspec.Struct):
    item_id: str


class _List(msgspec.Struct):
    items: list[_Item]


class _Group(NamedTuple):
    """A user's events of one moment."""

    user: int
    time_ms: int
    rows: list[int]
    records: list[TimedRecord]


_list_of = msgspec.json.Decoder(_List).decode


def prequential(
    records: Sequence[TimedRecord],
    encoder: Encoder,
    policy: Policy,
    *,
    test_start_ms: int,
    test_end_ms: int,
    attributes: Mapping[str, frozenset[str]],
    fresh_bias: float = 0.0,
    partitions: int = 1,
    contenders: Mapping[str, Contender] = MappingProxyType({}),
    learn_from_ms: int = 0,
    advance: Callable[[str, float], None] = lambda _what, _share: None,
) -> Judgement:
    """Replay ``records`` (in event-time order) and judge every occasion from ``test_start_ms`` on.

    Args:
        fresh_bias: each midnight of the test period every item's score is moved by this times the logarithm of its
            share in the last seven days over its share in all that came before the period.
        partitions: of the event topics: popularity and co-visitation are kept for each of them.
        contenders: further ways to make lists of the same states, by name.
        learn_from_ms: event time from which the items of contenders learn; the model was fitted to what came before.

    Raises:
        ValueError: no occasion in the test period.
    """
    rows: dict[str, int] = {}
    users: dict[bytes, int] = {}
    for record in records:
        rows.setdefault(item_of(record), len(rows) + 1)
        users.setdefault(record.key, len(users))
    beside = Contenders(contenders, encoder, partitions, learn_from_ms)
    run = _Run(rows, users, encoder, policy, test_start_ms, fresh_bias, partitions, beside)
    done = 0
    for batch in _batches(records, rows, users, test_start_ms, test_end_ms):
        run.take(batch)
        done += sum(len(group.rows) for group in batch)
        advance("replay", done / len(records))
    if not run.occasions:
        raise ValueError("no event in the test period")
    of_row = {rows[item_id]: names for item_id, names in attributes.items() if item_id in rows and names}

    def judged(lists: Mapping[str, list[list[int]]]) -> list[ListQuality]:
        return [judge_lists(n, np.array(x), run.occasions, run.counts_before, of_row) for n, x in lists.items()]

    return Judgement(encoder.version, len(users), done, test_start_ms, judged(run.lists), judged(run.lagged))


def _batches(
    records: Iterable[TimedRecord], rows: Mapping[str, int], users: Mapping[bytes, int], start_ms: int, end_ms: int
) -> Iterator[list[_Group]]:
    """Groups in time order; no user is twice in a batch, and from ``start_ms`` on a batch is the whole of a moment."""
    groups: dict[int, _Group] = {}
    held, time_ms = 0, 0
    for record in records:
        if record.timestamp_ms >= end_ms:
            break
        user = users[record.key]
        group = groups.get(user)
        moved = time_ms != (time_ms := record.timestamp_ms)
        later = (moved and time_ms >= start_ms) or (group is not None and group.time_ms != time_ms)
        full = held >= BATCH_EVENTS and time_ms < start_ms
        if groups and (full or later):
            yield list(groups.values())
            groups, held, group = {}, 0, None
        if group is None:
            group = groups[user] = _Group(user, record.timestamp_ms, [], [])
        group.rows.append(rows[item_of(record)])
        group.records.append(record)
        held += 1
    if groups:
        yield list(groups.values())


@dataclass
class _Run:
    """The worker's state and the rivals', side by side."""

    rows: Mapping[str, int]
    users: Mapping[bytes, int]
    encoder: Encoder
    policy: Policy
    test_start_ms: int
    fresh_bias: float
    partitions: int
    contenders: Contenders
    occasions: list[Occasion] = field(default_factory=list[Occasion])
    lists: dict[str, list[list[int]]] = field(default_factory=lambda: defaultdict(list[list[int]]))
    lagged: dict[str, list[list[int]]] = field(default_factory=lambda: defaultdict(list[list[int]]))

    def __post_init__(self) -> None:
        items = len(self.rows) + 1
        self._states: defaultdict[UserKey, UserState] = defaultdict(UserState)
        self._popularity = {partition: Popularity() for partition in range(self.partitions)}
        self._followed = {partition: LiveCoVisitation() for partition in range(self.partitions)}
        self._shown: defaultdict[int, list[tuple[int, list[int]]]] = defaultdict(list)
        self._histories: defaultdict[int, list[int]] = defaultdict(list)
        self._counts = np.zeros(items, np.int64)
        self._week = np.zeros(items, np.float32)
        self._recent: deque[tuple[int, int]] = deque()
        self._covisited = CoVisitation(items, successors_max=SUCCESSORS)
        self._offset = 0
        self._day = -1
        self.counts_before: NDArray[np.int64] = self._counts

    def take(self, batch: Sequence[_Group]) -> None:
        """Judge what falls into the test period, then learn all of it."""
        tested = [group for group in batch if group.time_ms >= self.test_start_ms]
        if tested:
            if not self.occasions:
                self.counts_before = self._counts.copy()
            self._ask(tested)
            if self.fresh_bias and self._day != (day := tested[0].time_ms // DAY_MS):
                self._day = day
                self._move_biases()
        self._learn(batch)

    def _ask(self, groups: Sequence[_Group]) -> None:
        self._forget_before(groups[0].time_ms - WEEK_MS)
        popular = top_rows(self._week[None], min(2 * limits.history_events_max, len(self._week) - 1))[0].tolist()
        histories = [self._histories[group.user][-limits.history_events_max :] for group in groups]
        covisited = self._covisited.scores(Histories.of(histories))
        for n, (group, history) in enumerate(zip(groups, histories, strict=True)):
            seen = set(history) if self.policy.seen_items == "drop" else set[int]()
            targets = np.unique([row for row in group.rows if row not in seen])
            if not len(targets):
                continue
            self.occasions.append(
                Occasion(group.user, targets, history, len(self._histories[group.user]), self._counts[targets])
            )
            fallback = [row for row in popular if row not in seen and self._week[row] > 0]
            self._note(self.lists, "popular-7-days", fallback)
            self._note(self.lists, "co-visitation", _filled(_best(covisited[n], seen), fallback))
            self._note(self.lists, "own counts", _filled([] if seen else _own(history), fallback))
            self._ask_published(group, fallback)
            published, beside = self.lists[HEADWATER][-1], self.lists["co-visitation"][-1]
            self._note(self.lists, WITH_COVISITATION, fused(published, beside))
            self._ask_contenders(group, fallback)

    def _ask_published(self, group: _Group, fallback: list[int]) -> None:
        shown = self._shown[group.user]
        times = [time_ms for time_ms, _ in shown]

        def as_of(time_ms: int) -> list[int]:
            place = bisect_right(times, time_ms)
            return shown[place - 1][1] if place else fallback

        midnight = group.time_ms // DAY_MS * DAY_MS
        self._note(self.lists, "nightly", as_of(midnight))
        self._note(self.lists, HEADWATER, as_of(group.time_ms))
        for name, lag_ms in LAGS.items():
            self._note(self.lagged, name, as_of(group.time_ms - lag_ms))
        self._note(self.lagged, "1 event", shown[-2][1] if len(shown) > 1 else fallback)
        self._note(self.lagged, "never", as_of(self.test_start_ms - 1))

    def _ask_contenders(self, group: _Group, fallback: list[int]) -> None:
        key = group.records[0].key
        user = UserKey(partition_of(key, self.partitions), key)
        for name, lists in self.contenders.lists.items():
            item_ids = lists.get(user)
            self._note(self.lists, name, fallback if item_ids is None else self._rows_of(item_ids))

    def _rows_of(self, item_ids: Iterable[str]) -> list[int]:
        return [self.rows[item_id] for item_id in item_ids if item_id in self.rows]

    def _note(self, lists: dict[str, list[list[int]]], ranker: str, rows: list[int]) -> None:
        lists[ranker].append((rows + [0] * LIST_ITEMS)[:LIST_ITEMS])

    def _move_biases(self) -> None:
        now, before = self._week + 1, self.counts_before + 1
        moved = self.fresh_bias * np.log(now / now.sum() * before.sum() / before)
        for item_id, row in self.rows.items():
            self.encoder.set_rule(item_id, True, float(moved[row]))

    def _learn(self, batch: Sequence[_Group]) -> None:
        chunks: defaultdict[tuple[int, int], list[Any]] = defaultdict(list)
        for group in batch:
            for record in group.records:
                partition = partition_of(record.key, self.partitions)
                chunks[record.event_type, partition].append(_Record(self._offset, record.key, record.value))
                self._offset += 1
        now_ms = max(group.time_ms for group in batch)
        decoded = decode_chunks(
            [Chunk.of(EVENT_TYPES[kind], kind, partition, part) for (kind, partition), part in chunks.items()], now_ms
        )
        states = {user: self._states[user] for user in decoded.users}
        of_users = [states[user] for user in decoded.users]
        before = self.contenders.snapshot(decoded, of_users)
        effects = process_batch(
            decoded,
            states,
            self._popularity,
            self.encoder,
            self.policy,
            topics=EVENT_TYPES,
            withdrawn=frozenset(),
            now_ms=now_ms,
            covisitation=self._followed if self.policy.covisitation else None,
        )
        self.contenders.learn_and_rank(decoded, of_users, self._popularity, before)
        times = {group.user: group.time_ms for group in batch}
        for published in effects.lists:
            user = self.users[published.user.key]
            rows = self._rows_of(item.item_id for item in _list_of(published.value).items)
            self._shown[user].append((times[user], rows))
        self._teach_rivals(batch)

    def _teach_rivals(self, batch: Sequence[_Group]) -> None:
        before: list[NDArray[np.int64]] = []
        window = self._covisited.window_events
        for group in batch:
            history = self._histories[group.user]
            for row in group.rows:
                before.append(np.array((history[-window:][::-1] + [0] * window)[:window], np.int64))
                history.append(row)
                self._recent.append((group.time_ms, row))
        rows = np.array([row for group in batch for row in group.rows], np.int64)
        self._covisited.extend(np.stack(before), rows)
        np.add.at(self._counts, rows, 1)
        np.add.at(self._week, rows, 1)

    def _forget_before(self, time_ms: int) -> None:
        while self._recent and self._recent[0][0] < time_ms:
            self._week[self._recent.popleft()[1]] -= 1


def _best(scores: NDArray[np.float32], seen: set[int]) -> list[int]:
    ranked = top_rows(scores[None], min(LIST_ITEMS + len(seen), len(scores) - 1))[0].tolist()
    return [row for row in ranked if row not in seen and row and scores[row] > 0]


def _own(history: Sequence[int]) -> list[int]:
    """Rows of the history by count, then by recency."""
    last = {row: place for place, row in enumerate(history)}
    return sorted(last, key=lambda row: (-history.count(row), -last[row]))


def _filled(rows: list[int], fallback: list[int]) -> list[int]:
    chosen = rows[:LIST_ITEMS]
    taken = set(chosen)
    return chosen + [row for row in fallback if row not in taken]


def fused(first: Sequence[int], second: Sequence[int]) -> list[int]:
    """Two lists as one, by the sum of the reciprocals of their ranks."""
    scores: dict[int, float] = {}
    for place in range(LIST_ITEMS):
        for row in (first[place], second[place]):
            if row:
                scores[row] = scores.get(row, 0.0) + 1 / (RANK_CONSTANT + place + 1)
    return sorted(scores, key=lambda row: -scores[row])
