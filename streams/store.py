"""The state store: one RocksDB a partition, all of them under the same bounds of memory.

Values of a kilobyte or more, which states are, lie in files of their own (BlobDB): a compaction moves keys, and of the
values those whose file is old enough to be looked through for garbage.

A database is at every moment a prefix of its partition's changelog: values and the offset of the last applied
changelog record go in one WriteBatch. The write-ahead log is off. What a crash takes from the memtables the
changelog gives back, and a periodic flush bounds how much that is.
"""

import fcntl
import shutil
import stat
import threading
import time
from collections import Counter
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import IO, Any, Final

from rocksdict import (
    BlockBasedIndexType,
    BlockBasedOptions,
    BottommostLevelCompaction,
    Cache,
    CompactOptions,
    Options,
    Rdict,
    WriteBatch,
    WriteOptions,
)

from operators import limits
from streams.memtables import Memtables
from streams.resources import explained

__all__ = ["OFFSET_KEY", "StateStore", "StoreError"]

OFFSET_KEY: Final = b"\x00offset"
"""Holds the offset of the last applied changelog record; ids hold no control character, so no user has this key."""

_MB: Final = 1024 * 1024
_L0_FILES_MAX: Final = 96
"""Files of the first level; with so many a flush that makes room waits for a compaction, and so may writes."""
_NEVER: Final = 1 << 30
"""RocksDB holds no write up, which would be with the interpreter lock: heartbeats would stop with it."""
_MEMTABLES_MAX: Final = 8
"""Of one partition, more than are ever flushed at a time; at that number RocksDB would stop writes."""
_BLOB_BYTES_MIN: Final = 1024
_BLOB_FILE_BYTES: Final = 64 * _MB
_BLOB_READAHEAD_BYTES: Final = 2 * _MB
"""Of a compaction, which otherwise reads value by value."""
_OLD_SHARE: Final = 0.1
"""Of the files of values, the oldest; a compaction copies what it meets in them, so that they can go."""
_OLD_SHARE_OPTION: Final = "blob_garbage_collection_age_cutoff"
_GARBAGE_SHARE: Final = 0.4
"""With so much garbage in these, they are compacted although nothing else is due."""
_DATA_SUFFIXES: Final = (".sst", ".blob")
_GONE_S_MAX: Final = 10.0
_GONE_POLL_S: Final = 0.01
_ENTRY_BYTES: Final = 64
"""What a memtable needs for an entry beyond key and value."""


class StoreError(RuntimeError):
    """A store that cannot be opened, read or written; the message says which and what to do."""


class StateStore:
    """Bytes by partition and key. Reads may run in one thread while writes run in another."""

    def __init__(
        self,
        directory: Path,
        *,
        block_cache_mb: int,
        write_buffer_mb: int,
        open_files_max: int = limits.open_files_of_partition_max,
    ) -> None:
        """Take ``directory``, which is made where there is none, until ``close_all``.

        ``open_files_max``: of each partition.

        Raises:
            StoreError: it cannot be made, or another worker has it.
        """
        self.directory = directory
        self._lock = _locked(directory)
        self._cache = Cache(block_cache_mb * _MB)
        self._memtables = Memtables(write_buffer_mb * _MB, self._make_room)
        self._open_files_max = open_files_max
        self._write_buffer_bytes = write_buffer_mb * _MB
        self._databases: dict[int, Rdict] = {}
        self._released = threading.Condition()
        self._holders: Counter[int] = Counter()
        self._cleaning: dict[int, threading.Lock] = {}
        self._stained: set[int] = set()
        """Partitions of which something was deleted and may still be in a file; a file beside theirs outlives us."""
        self._staining = threading.Lock()
        self._write_options = WriteOptions()
        self._write_options.disable_wal = True  # pyright: ignore[reportAttributeAccessIssue]  # rocksdict's stub lacks it

    @property
    def partitions(self) -> frozenset[int]:
        """Partitions that are open."""
        return frozenset(self._databases)

    def path(self, partition: int) -> Path:
        """Directory of a partition's database."""
        return self.directory / f"{partition}"

    def open(self, partition: int) -> None:
        """Open a partition's database, made where there is none; an open one stays as it is."""
        if partition in self._databases:
            return
        path = self.path(partition)
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            if self._stain(partition).exists():
                self._stained.add(partition)
            options = self._options()
            # Without the last argument those of a column family are what they were when its files were made.
            self._databases[partition] = Rdict(str(path), options, {"default": options})
        except OSError as error:
            raise StoreError(f"state directory: {explained(error)}") from None
        except Exception as error:
            other = (
                "If another worker runs on this directory give each its own worker.data_dir; if the files are damaged"
                f" delete {path}: it is restored from the changelog"
            )
            raise StoreError(
                f"state of partition {partition} in {path} cannot be opened: {explained(error, other)}"
            ) from None

    def close(self, partition: int) -> None:
        """Flush and close a partition's database; one that is not open is left alone."""
        with self._released:
            database = self._databases.pop(partition, None)
            self._released.wait_for(lambda: not self._holders[partition])
        if database is not None:
            try:
                with self._explained(partition):
                    if partition in self._stained:
                        self._clean(partition, database)
                    database.close()
            finally:
                self._memtables.forget(partition)

    def close_all(self) -> None:
        """Flush and close every database."""
        try:
            for partition in list(self._databases):
                self.close(partition)
        finally:
            self._memtables.close()
            self._lock.close()

    def destroy(self, partition: int) -> None:
        """Remove a closed partition's files."""
        shutil.rmtree(self.path(partition), ignore_errors=True)
        self._stain(partition).unlink(missing_ok=True)

    def load(self, partition: int, keys: Sequence[bytes]) -> list[bytes | None]:
        """The values of ``keys``, None where there is none."""
        with self._opened(partition) as database:
            values: Any = database.get(list(keys))
        return values

    def get(self, partition: int, key: bytes) -> bytes | None:
        """The value of one key."""
        with self._opened(partition) as database:
            return database.get(key)

    def offset(self, partition: int) -> int | None:
        """Offset of the last changelog record in the database, None for an empty one."""
        value = self.get(partition, OFFSET_KEY)
        return None if value is None else int.from_bytes(value, "little", signed=True)

    def write(self, partition: int, changes: Iterable[tuple[bytes, bytes | None]], offset: int) -> None:
        """Apply changes (None deletes) and the changelog offset in one atomic WriteBatch."""
        self._memtables.make_room()
        batch = WriteBatch(raw_mode=True)
        deletes = False
        for key, value in changes:
            if value is None:
                batch.delete(key)
                deletes = True
            else:
                batch.put(key, value)
        batch.put(OFFSET_KEY, offset.to_bytes(8, "little", signed=True))
        size = batch.size_in_bytes() + _ENTRY_BYTES * batch.len()
        with self._opened(partition) as database, self._deleting(partition) if deletes else nullcontext():
            database.write(batch, self._write_options)
            self._memtables.add(partition, size)

    def flush(self, bytes_min: int = 0) -> None:
        """Write memtables of so many bytes or more to disk: the tail to restore after a crash starts anew."""
        for partition in list(self._databases):
            with self._held(partition) as database:
                if database is not None and self._memtables.bytes_of(partition) >= bytes_min:
                    self._flush(partition, database)

    def scrub(self, partitions: Iterable[int] = ()) -> None:
        """Rewrite the files of ``partitions`` and of every partition with deletions, so that no deleted byte is left.

        The whole partition: RocksDB writes the ends of a narrower range to its manifest. Writes may go on meanwhile.
        """
        for partition in {*partitions, *self._stained}:
            with self._held(partition) as database:
                if database is not None:
                    self._clean(partition, database)

    def _flush(self, partition: int, database: Rdict) -> None:
        with self._memtables.flushing(partition):
            database.flush()

    def _make_room(self, partition: int) -> bool:
        """Flush a partition whose files a compaction keeps up with; False for another."""
        with self._held(partition) as database:
            if database is None or _is_behind(database):
                return False
            self._flush(partition, database)
            return True

    def _clean(self, partition: int, database: Rdict) -> None:
        """Write every value anew: one compaction through all levels that takes every file for old."""
        options = CompactOptions()
        options.set_bottommost_level_compaction(BottommostLevelCompaction.force())
        with self._cleaning.setdefault(partition, threading.Lock()):
            self._stained.discard(partition)
            try:
                self._flush(partition, database)
                old = self._data_files(partition)
                database.set_options({_OLD_SHARE_OPTION: "1.0"})
                try:
                    database.compact_range(None, None, options)
                finally:
                    database.set_options({_OLD_SHARE_OPTION: str(_OLD_SHARE)})
                self._require_gone(partition, old)
                with self._staining:
                    if partition not in self._stained:
                        self._stain(partition).unlink(missing_ok=True)
            except BaseException:
                self._stained.add(partition)
                raise

    @contextmanager
    def _deleting(self, partition: int) -> Generator[None]:
        """Stained on the disk before a deletion, in memory after it: a scrub that runs meanwhile may have missed it."""
        with self._staining:
            self._stain(partition).touch()
            yield
            self._stained.add(partition)

    def _stain(self, partition: int) -> Path:
        return self.directory / f"{partition}.stained"

    def _data_files(self, partition: int) -> set[str]:
        return {file.name for file in self.path(partition).iterdir() if file.suffix in _DATA_SUFFIXES}

    def _require_gone(self, partition: int, files: set[str]) -> None:
        """A compaction that failed is not told by rocksdict; a file that is being read goes a moment later."""
        deadline = time.monotonic() + _GONE_S_MAX
        while left := files & self._data_files(partition):
            if time.monotonic() > deadline:
                raise StoreError(
                    f"state of partition {partition} in {self.path(partition)}: {', '.join(sorted(left))} may hold what"
                    " was deleted and cannot be written anew. The disk is full or the files are damaged: make room, or"
                    " delete that directory, which is restored from the changelog; then start this worker again"
                )
            time.sleep(_GONE_POLL_S)

    def size_bytes(self) -> int:
        """Bytes on disk."""
        return sum(_size_bytes(file) for file in self.directory.rglob("*"))

    @contextmanager
    def _held(self, partition: int) -> Generator[Rdict | None]:
        """A partition's database, which is not closed meanwhile; None where it is not open."""
        with self._released:
            database = self._databases.get(partition)
            if database is not None:
                self._holders[partition] += 1
        try:
            with self._explained(partition):
                yield database
        finally:
            if database is not None:
                with self._released:
                    self._holders[partition] -= 1
                    self._released.notify_all()

    @contextmanager
    def _opened(self, partition: int) -> Generator[Rdict]:
        """The same of a partition that must be open."""
        with self._held(partition) as database:
            if database is None:
                raise StoreError(f"partition {partition} is not open in {self.directory}")
            yield database

    @contextmanager
    def _explained(self, partition: int) -> Generator[None]:
        """RocksDB checks every block that it reads; what it finds ends the worker in one line."""
        try:
            yield
        except StoreError:
            raise
        except Exception as error:
            other = "Mend the disk; if the files are damaged delete that directory: it is restored from the changelog"
            raise StoreError(
                f"state of partition {partition} in {self.path(partition)} cannot be read or written:"
                f" {explained(error, other)}"
            ) from None

    def _options(self) -> Options:
        blocks = BlockBasedOptions()
        blocks.set_block_cache(self._cache)
        blocks.set_cache_index_and_filter_blocks(True)
        blocks.set_bloom_filter(10, False)
        # An index of one piece is read whole, 300 KB a file: of many users, more than the cache holds of all files.
        blocks.set_index_type(BlockBasedIndexType.two_level_index_search())
        blocks.set_partition_filters(True)
        options = Options(raw_mode=True)
        options.create_if_missing(True)
        options.set_block_based_table_factory(blocks)
        options.set_write_buffer_size(2 * self._write_buffer_bytes)  # never full before all of them are
        options.set_max_write_buffer_number(_MEMTABLES_MAX)
        options.set_enable_blob_files(True)
        options.set_min_blob_size(_BLOB_BYTES_MIN)
        options.set_blob_file_size(_BLOB_FILE_BYTES)
        options.set_blob_compaction_readahead_size(_BLOB_READAHEAD_BYTES)
        options.set_enable_blob_gc(True)
        options.set_blob_gc_age_cutoff(_OLD_SHARE)
        options.set_blob_gc_force_threshold(_GARBAGE_SHARE)
        options.set_max_open_files(self._open_files_max)
        options.set_level_zero_slowdown_writes_trigger(_NEVER)
        options.set_level_zero_stop_writes_trigger(_NEVER)
        options.set_soft_pending_compaction_bytes_limit(0)
        options.set_hard_pending_compaction_bytes_limit(0)
        options.set_keep_log_file_num(2)
        # A manifest names the first and last key of files that are long gone: each change begins a new one.
        options.set_max_manifest_file_size(1)
        return options


def _is_behind(database: Rdict) -> bool:
    """Not where an error has stopped the compaction: a flush or a write tells it, and nobody waits for ever."""
    files = int(database.property_value("rocksdb.num-files-at-level0") or 0)
    return files >= _L0_FILES_MAX and not database.property_int_value("rocksdb.background-errors")


def _locked(directory: Path) -> IO[str]:
    """RocksDB locks each partition; two workers of a group would share a directory until a partition moves."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        file = (directory / "lock").open("w")
    except OSError as error:
        raise StoreError(f"state directory: {explained(error)}") from None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise StoreError(
            f"state directory {directory} is in use by another worker: give each its own worker.data_dir"
        ) from None
    return file


def _size_bytes(path: Path) -> int:
    try:
        found = path.stat()
    except FileNotFoundError:  # compactions remove files at any time
        return 0
    return found.st_size if stat.S_ISREG(found.st_mode) else 0
