"""The cache of decoded states: read through, bounded, and forgotten on a rebalance."""

import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from operators import limits, state
from operators.batches import UserKey
from operators.candidates.popularity import Popularity
from operators.columns import Columns
from operators.companions import Visits
from operators.fresh import fresh_by_partition
from operators.partition import partition_of
from operators.state import StateError, UserState
from streams.sources import SOURCES_KEY, SourceError
from streams.states import COVISITATION_KEY, POPULARITY_KEY, States
from streams.store import StateStore, StoreError
from tests.fakes import event, past

PARTITIONS = 4


@pytest.fixture
def store(tmp_path: Path) -> Iterator[StateStore]:
    opened = StateStore(tmp_path, block_cache_mb=8, write_buffer_mb=8)
    for partition in range(PARTITIONS):
        opened.open(partition)
    yield opened
    opened.close_all()


def user(name: str) -> UserKey:
    return UserKey(partition_of(name.encode(), PARTITIONS), name.encode())


def stored(store: StateStore, name: str, item: str, offset: int = 0) -> None:
    of_user = UserState()
    of_user.extend(past(item, 0, 1_000, 0))
    store.write(user(name).partition, [(name.encode(), state.encode(of_user))], offset)


def test_loads_what_is_stored_and_makes_what_is_not(store: StateStore) -> None:
    stored(store, "ann", "milk")
    stored(store, "bob", "tea")
    states = States(store, PARTITIONS, 10)
    loaded = states.load([user("bob"), user("eve"), user("ann")])
    assert loaded[user("ann")].history_items == ["milk"]
    assert loaded[user("bob")].history_items == ["tea"]
    assert loaded[user("eve")].history_items == []
    assert len(states) == 3


class Reads:
    """A store that notes which threads read it; of the first ``together`` reads none ends before all have begun."""

    def __init__(self, store: StateStore, together: int) -> None:
        self._store = store
        self._numbers = iter(range(1_000_000))
        self._together = together
        self._barrier = threading.Barrier(together)
        self.threads: list[str] = []

    def load(self, partition: int, keys: list[bytes]) -> list[bytes | None]:
        self.threads.append(threading.current_thread().name)
        if next(self._numbers) < self._together:
            self._barrier.wait(10)
        return self._store.load(partition, keys)


@pytest.mark.parametrize("over", [0, 1])
def test_many_states_are_read_side_by_side_and_few_by_the_caller(
    store: StateStore, monkeypatch: pytest.MonkeyPatch, over: int
) -> None:
    monkeypatch.setattr(limits, "load_users_max", 6)
    names = [f"user-{n}" for n in range(6 + over)]
    for offset, name in enumerate(names):
        stored(store, name, f"item-of-{name}", offset)
    reads = Reads(store, 1 + over)
    states = States(reads, PARTITIONS, 10)  # type: ignore[arg-type]
    loaded = states.load([user(name) for name in names])
    assert [loaded[user(name)].history_items for name in names] == [[f"item-of-{name}"] for name in names]
    caller = threading.current_thread().name
    assert caller not in reads.threads if over else set(reads.threads) == {caller}
    states.close()


def test_of_a_large_partition_pieces_are_read_and_what_fails_is_told(
    store: StateStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "load_users_max", 3)
    users = [UserKey(1, f"user-{n}".encode()) for n in range(14)]
    for offset, one in enumerate(users):
        of_user = UserState()
        of_user.extend(past(f"item-{offset}", 0, 1_000, 0))
        store.write(1, [(one.key, state.encode(of_user))], offset)
    states = States(store, PARTITIONS, 20, plain_ids=False)
    loaded = states.load([*users, UserKey(1, b"new")])
    assert [loaded[one].history_items for one in users] == [[f"item-{n}"] for n in range(14)]
    assert loaded[UserKey(1, b"new")].history_items == []
    states.forget()
    store.write(1, [(users[7].key, b"damaged")], 14)
    with pytest.raises(StateError, match="user-7"):
        states.load(users)
    store.close(1)
    with pytest.raises(StoreError, match="not open"):
        states.load(users)
    states.close()


def test_a_cached_state_is_the_same_object_and_the_store_is_not_asked(store: StateStore) -> None:
    states = States(store, PARTITIONS, 10)
    first = states.load([user("ann")])[user("ann")]
    stored(store, "ann", "milk")
    assert states.load([user("ann")])[user("ann")] is first


def test_forgetting_goes_back_to_the_store(store: StateStore) -> None:
    states = States(store, PARTITIONS, 10)
    states.load([user("ann")])
    states.popularity([0])[0].add("milk", 1_000)
    stored(store, "ann", "milk")
    states.forget()
    assert len(states) == 0
    assert states.load([user("ann")])[user("ann")].history_items == ["milk"]
    assert states.popularity([0])[0].events == 0


def test_the_least_recently_used_leave_and_never_one_of_the_batches_in_work(store: StateStore) -> None:
    states = States(store, PARTITIONS, 1)  # less than the batches in work can touch: the floor holds
    floor = (limits.computed_batches_max + limits.settling_batches_max) * limits.batch_events_max
    users = [user(f"user-{n}") for n in range(floor)]
    loaded = states.load(users)
    assert len(states) == floor
    states.load(users[:100])
    states.load([user("one-more")])
    assert len(states) == floor
    again = states.load(users)
    left = [one for one in users if again[one] is not loaded[one]]
    assert len(left) == 1
    assert left[0] not in users[:100]


def test_a_user_on_the_wrong_partition_is_counted_and_explained_once(
    store: StateStore, caplog: pytest.LogCaptureFixture
) -> None:
    states = States(store, PARTITIONS, 10)
    with caplog.at_level(logging.WARNING):
        states.load([user("ann")])
        assert states.misplaced_users == 0
        for name in ("ann", "bob"):
            states.load([UserKey((user(name).partition + 1) % PARTITIONS, name.encode())])
    assert states.misplaced_users == 2
    assert len(caplog.records) == 1
    assert "murmur2" in caplog.text
    assert "'ann'" in caplog.text


def test_popularity_is_restored_and_due_after_enough_events(store: StateStore) -> None:
    popularity = Popularity()
    popularity.add("milk", 1_000)
    store.write(2, [(POPULARITY_KEY, popularity.snapshot())], 0)
    states = States(store, PARTITIONS, 10)
    restored = states.popularity([1, 2])
    assert restored[2].top(1) == [("milk", 1.0)]
    assert restored[1].events == 0
    for n in range(99):
        restored[2].add("tea", 1_000 + n)
    assert states.due_snapshots(100) == []
    restored[2].add("tea", 99_000)
    ((partition, key, value),) = states.due_snapshots(100)
    assert (partition, key) == (2, POPULARITY_KEY)
    assert Popularity.restore(value).events == 101
    assert states.due_snapshots(1) == []


def test_the_topics_that_states_are_made_of_are_stored_once_and_others_refused(store: StateStore) -> None:
    first = {"view": "id-1", "click": "id-2"}
    states = States(store, PARTITIONS, 10, sources=first)
    states.popularity([0, 1])
    due = states.due_snapshots(100)
    assert [(partition, key) for partition, key, _ in due] == [(0, SOURCES_KEY), (1, SOURCES_KEY)]
    assert states.due_snapshots(100) == []
    for partition, key, value in due:
        store.write(partition, [(key, value)], 0)

    again = States(store, PARTITIONS, 10, sources=first | {"erase": "id-3"})
    again.popularity([0])
    ((_, _, value),) = again.due_snapshots(100)
    store.write(0, [(SOURCES_KEY, value)], 1)
    again.popularity([0])
    assert again.due_snapshots(100) == []

    for changed in ({"view": "id-9"}, {"erase": "id-9"}):
        with pytest.raises(SourceError, match=rf"{next(iter(changed))}.*deleted and made anew"):
            States(store, PARTITIONS, 10, sources=first | changed).popularity([0])
    States(store, PARTITIONS, 10, sources=first | {"erase": "id-9"}).popularity(
        [1]
    )  # made before there was an erase topic
    States(store, PARTITIONS, 10).popularity([0])


def test_states_that_lack_what_the_group_has_committed_are_refused(store: StateStore) -> None:
    states = States(store, PARTITIONS, 10, sources={"view": "id-1", "app-users-changelog": "id-2"})
    with pytest.raises(SourceError, match=r"committed events of partition 1, and the changelog holds no state"):
        states.check_sources([0, 1], {1})
    states.check_sources([0, 1], set())
    states.popularity([1])
    ((partition, key, value),) = states.due_snapshots(100)
    store.write(partition, [(key, value)], 0)
    states.check_sources([1], {1})
    anew = States(store, PARTITIONS, 10, sources={"view": "id-9", "app-users-changelog": "id-2"})
    for committed in ({1}, set[int]()):  # the offsets of a deleted topic go with it
        with pytest.raises(SourceError, match=r"view.*deleted and made anew"):  # before there is an event to fold
            anew.check_sources([0, 1], committed)
    States(store, PARTITIONS, 10).check_sources([0], {0})  # on a broker without ids


@pytest.mark.parametrize(
    ("key", "what", "read"),
    [
        (b"ann", "state of user 'ann'", lambda states: states.load([user("ann")])),
        (POPULARITY_KEY, "popularity", lambda states: states.popularity([user("ann").partition])),
        (SOURCES_KEY, "record of the topics", lambda states: states.popularity([user("ann").partition])),
        (SOURCES_KEY, "record of the topics", lambda states: states.check_sources([user("ann").partition], ())),
        (COVISITATION_KEY, "co-visitation", lambda states: states.covisitation([user("ann").partition])),
    ],
)
def test_what_is_damaged_is_an_error_with_a_remedy_and_not_as_if_it_were_new(
    key: bytes, what: str, read: Callable[[States], object], store: StateStore
) -> None:
    partition = user("ann").partition
    store.write(partition, [(key, b"\x01 damaged")], 0)
    said = rf"^{what}.* on partition {partition}: .*delete the partition's directory.* start this worker again$"
    with pytest.raises(StateError, match=said):
        read(States(store, PARTITIONS, 10, sources={"view": "id-1"}, keeps_covisitation=True))


def test_co_visitation_comes_back_from_the_store_where_it_is_kept(store: StateStore) -> None:
    assert States(store, PARTITIONS, 10).covisitation([1]) is None
    states = States(store, PARTITIONS, 10, keeps_covisitation=True)
    followed = states.covisitation([1])
    assert followed is not None
    states.popularity([1])[1].extend(["milk", "tea"], np.array([1_000, 2_000]))
    seen = [event(n, item, 1_000 * (n + 1)) for n, item in enumerate(("milk", "tea", "milk"))]
    fresh = fresh_by_partition([(1, b"ann")], Columns.of(seen), np.array([3]))
    shown = Visits(followed, [UserState()], drop_seen=False).learned(fresh).of_user(0)
    assert {item for item, _, _ in shown} == {"milk", "tea"}
    kept, due = followed[1], states.due_snapshots(events=1)
    assert all(partition == 1 and key[:1] == b"\x00" for partition, key, _ in due)
    store.write(1, [(key, value) for _, key, value in due], 0)
    states.forget()
    again = states.covisitation([1])
    assert again is not None
    assert again[1] is not kept
    assert (again[1].item_ids, again[1].events) == (["", "milk", "tea"], 3)
    assert again[1].pending.tolist() == kept.pending.tolist() != []


def test_no_user_has_the_key_of_the_popularity() -> None:
    assert POPULARITY_KEY[0] == 0  # ids hold no control character
