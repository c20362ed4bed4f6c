"""Stores of the simulator's workers, in memory and real ones, and what a crash leaves of them."""

import random
import shutil
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

from streams.store import StateStore

__all__ = ["Changes", "Disks", "MemoryDisks", "RocksDisks"]

Changes = list[tuple[bytes, bytes]]


class MemoryStore:
    """What the simulator needs of ``streams.store.StateStore``: flushed values, and writes since in a memtable."""

    def __init__(self, flushed: dict[int, tuple[dict[bytes, bytes], int | None]]) -> None:
        self.flushed = flushed
        self.memtables: defaultdict[int, list[tuple[Changes, int]]] = defaultdict(list)
        self._open: dict[int, tuple[dict[bytes, bytes], int | None]] = {}

    @property
    def partitions(self) -> frozenset[int]:
        return frozenset(self._open)

    def open(self, partition: int) -> None:
        if partition not in self._open:
            values, offset = self.flushed.get(partition, ({}, None))
            self._open[partition] = dict(values), offset

    def close(self, partition: int) -> None:
        self._flush(partition)
        del self._open[partition]

    def close_all(self) -> None:
        self._open.clear()

    def flush(self) -> None:
        for partition in self._open:
            self._flush(partition)

    def _flush(self, partition: int) -> None:
        values, offset = self._open[partition]
        self.flushed[partition] = dict(values), offset
        self.memtables.pop(partition, None)

    def load(self, partition: int, keys: list[bytes]) -> list[bytes | None]:
        values, _ = self._open[partition]
        return [values.get(key) for key in keys]

    def get(self, partition: int, key: bytes) -> bytes | None:
        return self._open[partition][0].get(key)

    def offset(self, partition: int) -> int | None:
        return self._open[partition][1]

    def write(self, partition: int, changes: Iterable[tuple[bytes, bytes]], offset: int) -> None:
        made = list(changes)
        values, _ = self._open[partition]
        values.update(made)
        self._open[partition] = values, offset
        self.memtables[partition].append((made, offset))


class Disks(Protocol):
    """Makes the stores of workers."""

    def new(self) -> Any:
        """A store with nothing in it."""
        ...

    def after_crash(self, store: Any, rng: random.Random) -> Any:
        """The store as the next process finds it."""
        ...


class MemoryDisks:
    """Stores in memory; a crash leaves any prefix of the writes since the last flush."""

    def new(self) -> MemoryStore:
        return MemoryStore({})

    def after_crash(self, store: MemoryStore, rng: random.Random) -> MemoryStore:
        left = {partition: (dict(values), offset) for partition, (values, offset) in store.flushed.items()}
        for partition, writes in store.memtables.items():
            for changes, offset in writes[: rng.randrange(len(writes) + 1)]:
                values, _ = left.get(partition, ({}, None))
                left[partition] = {**values, **dict(changes)}, offset
        return MemoryStore(left)


class RocksDisks:
    """Stores on a disk. A crash leaves the files as they are: with no write-ahead log the memtables are lost."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._count = 0

    def new(self) -> StateStore:
        """A store in a directory of its own."""
        return self._opened(self._next())

    def after_crash(self, store: StateStore, rng: random.Random) -> StateStore:
        """The files that are there while the crashed process has them open, in another directory."""
        del rng
        directory = self._next()
        shutil.copytree(store.directory, directory, ignore=shutil.ignore_patterns("LOCK", "lock"))
        return self._opened(directory)

    def _next(self) -> Path:
        self._count += 1
        return self._home / f"{self._count}"

    def _opened(self, directory: Path) -> StateStore:
        return StateStore(directory, block_cache_mb=1, write_buffer_mb=1)
