"""The judgement of a run, apart from whatever did the damage: commits, stores, acknowledged events.

States and lists are judged by the ``Oracle``. A problem is one line that begins with the user or the place.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Generator, Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Final

from streams.chaos.oracle import Oracle, Place, Sent
from streams.chaos.readback import Change, Changelog, Commit, digest_of
from streams.settings import Settings
from streams.store import StateStore, StoreError

__all__ = ["change_problems", "commit_problems", "delivery_problems", "store_problems"]

_CACHE_MB: Final = 8


def delivery_problems(acknowledged: Mapping[int, Place], found: Mapping[int, Place]) -> list[str]:
    """Events that the broker acknowledged and that do not lie where it said; by number."""
    return [
        f"event {number} was acknowledged at {place}, which holds {found.get(number)}"
        for number, place in acknowledged.items()
        if found.get(number) != place
    ]


def commit_problems(
    oracle: Oracle, changelog: Changelog, commits: Iterable[Commit], *, in_transactions: bool = False
) -> list[str]:
    """Events below an offset that was committed before any state in the changelog had them.

    Every commit there ever was is looked at, each by the broker's clock: a source commit is never ahead. What is in
    one transaction comes to be at once, in whatever order it was appended; there only what never came counts.
    """
    highest: defaultdict[tuple[str, int], list[tuple[int, int]]] = defaultdict(list)
    for commit in commits:
        rising = highest[commit.topic, commit.partition]
        if not rising or commit.offset > rising[-1][0]:
            rising.append((commit.offset, commit.time_ms))
    problems: list[str] = []
    for user, events in oracle.events.items():
        for event, known_ms in _first_known(events, user, changelog):
            rising = highest.get((event.place.topic, event.place.partition), [])
            at = bisect_left(rising, (event.place.offset + 1, 0))
            if at < len(rising) and (known_ms is None or (known_ms > rising[at][1] and not in_transactions)):
                when = "never" if known_ms is None else f"{known_ms - rising[at][1]} ms later"
                problems.append(f"{user}: {event.place} was committed, and in the changelog {when}")
    return problems


def change_problems(changelog: Changelog) -> list[str]:
    """States that were written over by older ones: by a worker that should have been dead.

    Also where the owner's next state has mended it: had the owner died before that, events would be lost.
    """
    problems: list[str] = []
    for partition, changes in changelog.changes.items():
        for key, of_key in changes.items():
            states = [change for change in of_key if change.fences]
            for before, after in pairwise(states):
                if any(later < earlier for earlier, later in zip(before.fences, after.fences, strict=True)):
                    problems.append(
                        f"{key.decode(errors='replace')}: the state at offset {after.offset} of partition {partition}"
                        f" is older than that at {before.offset}: fences {[*after.fences]} after {[*before.fences]}"
                    )
    return problems


def store_problems(settings: Settings, data_dirs: Iterable[Path], changelog: Changelog) -> list[str]:
    """Where a stopped worker's store is not a prefix of the changelog: values up to its own offset, nothing else."""
    problems: list[str] = []
    for data_dir in data_dirs:
        directory = data_dir / settings.worker.app_id
        if not directory.is_dir():
            continue
        store = StateStore(directory, block_cache_mb=_CACHE_MB, write_buffer_mb=_CACHE_MB)
        try:
            for partition, changes in changelog.changes.items():
                if (directory / f"{partition}").is_dir():
                    problems += _partition_problems(store, partition, changes)
        except StoreError as error:
            problems.append(f"{data_dir}: {error}")
        finally:
            store.close_all()
    return problems


def _partition_problems(store: StateStore, partition: int, changes: Mapping[bytes, Sequence[Change]]) -> list[str]:
    store.open(partition)
    offset = store.offset(partition)
    problems: list[str] = []
    end = max(change.offset for of_key in changes.values() for change in of_key)
    if offset is not None and offset > end:
        problems.append(f"{store.directory}: partition {partition} is at offset {offset}, the changelog ends at {end}")
    for (key, of_key), value in zip(changes.items(), store.load(partition, list(changes)), strict=True):
        applied = [change for change in of_key if offset is not None and change.offset <= offset]
        expected = applied[-1].digest if applied else None
        if digest_of(value) != expected:
            problems.append(
                f"{key.decode(errors='replace')}: the store {store.directory} is at offset {offset} of partition"
                f" {partition} with another value than the changelog's"
            )
    return problems


def _first_known(events: Sequence[Sent], user: str, changelog: Changelog) -> Generator[tuple[Sent, int | None]]:
    """Each event with the time at which the first state that has it was appended; None for never."""
    for event_type in {event.type for event in events}:
        of_type = sorted((event for event in events if event.type == event_type), key=lambda event: event.place.offset)
        changes = changelog.changes.get(of_type[0].place.partition, {}).get(user.encode(), ())
        at = 0
        for event in of_type:
            while at < len(changes) and changes[at].fences[event_type] <= event.place.offset:
                at += 1
            yield event, changes[at].time_ms if at < len(changes) else None
