"""RocksDB behind ``StateStore``: round trips, locks, and a crash at any moment."""

# pyright: reportPrivateUsage=false

import re
import secrets
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rocksdict import Rdict

from streams.store import OFFSET_KEY, StateStore, StoreError

KEYS = 37
WRITER = """
import sys
from pathlib import Path
from streams.store import StateStore
store = StateStore(Path(sys.argv[1]), block_cache_mb=8, write_buffer_mb=1)
store.open(0)
for offset in range(1_000_000):
    value = offset.to_bytes(8, "little") * 500
    store.write(0, [(b"key-%d" % (offset % 37), value), (b"twin-%d" % (offset % 37), value)], offset)
    if offset % 500 == 0:
        print(offset, flush=True)
"""


def new_store(directory: Path) -> StateStore:
    return StateStore(directory, block_cache_mb=8, write_buffer_mb=8)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[StateStore]:
    opened = new_store(tmp_path / "state")
    opened.open(0)
    yield opened
    opened.close_all()


def test_values_and_the_offset_come_back(store: StateStore) -> None:
    assert store.offset(0) is None
    store.write(0, [(b"a", b"1"), (b"b", b"2" * 5_000), ("é".encode(), b"\x00\xff")], 41)
    assert store.load(0, [b"b", b"absent", b"a", "é".encode()]) == [b"2" * 5_000, None, b"1", b"\x00\xff"]
    assert store.load(0, []) == []
    assert (store.get(0, b"a"), store.get(0, b"absent"), store.offset(0)) == (b"1", None, 41)


class Recorder:
    """A database that notes how it is changed."""

    def __init__(self, *arguments: Any) -> None:
        self.changes: list[str] = []
        self._database: Any = Rdict(*arguments)
        RECORDERS.append(self)

    def __getattr__(self, name: str) -> Any:
        if name in ("write", "put", "put_entity", "delete", "delete_range", "merge"):
            self.changes.append(name)
        return getattr(self._database, name)


RECORDERS: list[Recorder] = []


def test_values_and_offset_are_one_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streams.store.Rdict", Recorder)
    store = new_store(tmp_path)
    store.open(0)
    store.write(0, [(b"a", b"1"), (b"b", None)], 5)
    # Two would now and then be parted by a flush and a crash, too seldom for a test that kills a writer to see.
    assert RECORDERS.pop().changes == ["write"]
    assert (store.get(0, b"a"), store.offset(0)) == (b"1", 5)
    store.close_all()


def test_none_deletes_and_the_last_change_of_a_key_wins(store: StateStore) -> None:
    store.write(0, [(b"a", b"1"), (b"a", b"2"), (b"b", b"1")], 0)
    store.write(0, [(b"b", None), (b"never", None)], 7)
    assert store.load(0, [b"a", b"b", b"never"]) == [b"2", None, None]
    assert store.offset(0) == 7
    store.write(0, [], 9)
    assert store.offset(0) == 9


def test_partitions_are_apart(store: StateStore) -> None:
    store.open(5)
    store.write(0, [(b"a", b"of 0")], 1)
    store.write(5, [(b"a", b"of 5")], 2)
    assert (store.get(0, b"a"), store.get(5, b"a")) == (b"of 0", b"of 5")
    assert (store.offset(0), store.offset(5)) == (1, 2)
    assert store.partitions == {0, 5}


def test_closing_keeps_everything(tmp_path: Path, store: StateStore) -> None:
    store.write(0, [(b"a", b"1")], 3)
    store.open(0)  # open already: nothing is lost
    store.close(0)
    store.close(0)
    assert store.partitions == frozenset()
    store.close_all()
    again = new_store(tmp_path / "state")
    again.open(0)
    assert (again.get(0, b"a"), again.offset(0)) == (b"1", 3)
    again.close_all()


def test_a_destroyed_partition_is_empty(store: StateStore) -> None:
    store.write(0, [(b"a", b"1")], 3)
    store.close(0)
    store.destroy(0)
    store.destroy(0)
    store.open(0)
    assert (store.get(0, b"a"), store.offset(0)) == (None, None)


def test_a_closed_partition_is_named(store: StateStore, tmp_path: Path) -> None:
    for use in (lambda: store.load(4, [b"a"]), lambda: store.get(4, b"a"), lambda: store.write(4, [], 0)):
        with pytest.raises(StoreError, match="partition 4 is not open") as caught:
            use()
        assert str(tmp_path) in str(caught.value)


def test_a_directory_in_use_is_refused_with_the_way_out(store: StateStore, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"in use by another worker: .*worker\.data_dir") as caught:
        new_store(tmp_path / "state")
    assert str(tmp_path / "state") in str(caught.value)
    store.write(0, [(b"a", b"1")], 0)  # the first one is unharmed
    store.close_all()
    second = new_store(tmp_path / "state")
    second.open(0)
    assert second.get(0, b"a") == b"1"
    second.close_all()


def test_a_database_in_use_is_refused_with_the_way_out(store: StateStore, tmp_path: Path) -> None:
    other = Rdict(str(tmp_path / "state" / "3"))
    with pytest.raises(StoreError) as caught:
        store.open(3)
    other.close()
    for told in ("partition 3", str(tmp_path / "state" / "3"), "worker.data_dir"):
        assert told in str(caught.value)
    assert store.partitions == {0}


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match="file"):
        new_store(tmp_path / "file" / "state")


def test_damaged_files_are_refused_with_the_way_out(store: StateStore, tmp_path: Path) -> None:
    store.write(0, [(b"a", b"1")], 0)
    store.close(0)
    (tmp_path / "state" / "0" / "CURRENT").write_text("MANIFEST-999999\n")
    with pytest.raises(StoreError, match="restored from the changelog"):
        store.open(0)


def test_the_size_on_disk_counts_the_files(store: StateStore) -> None:
    store.write(0, [(b"a", bytes(range(256)) * 4_000)], 0)
    before = store.size_bytes()
    store.flush()
    assert store.size_bytes() > before
    assert store.size_bytes() > 10_000


def assert_is_prefix(store: StateStore, values_of: int) -> int:
    """What the store holds is all of the writes up to its offset and none after; returns that offset."""
    offset = store.offset(0)
    assert offset is not None
    for n in range(KEYS):
        expected = offset - (offset - n) % KEYS
        wanted = None if expected < 0 else expected.to_bytes(8, "little") * values_of
        assert store.get(0, b"key-%d" % n) == wanted
        assert store.get(0, b"twin-%d" % n) == wanted
    return offset


def test_without_a_write_ahead_log_a_crash_leaves_what_was_flushed(store: StateStore, tmp_path: Path) -> None:
    for offset in range(200):
        value = offset.to_bytes(8, "little")
        store.write(0, [(b"key-%d" % (offset % KEYS), value), (b"twin-%d" % (offset % KEYS), value)], offset)
        if offset == 123:
            store.flush()
    shutil.copytree(tmp_path / "state", tmp_path / "crashed")  # what the disk holds were the worker to die now
    crashed = new_store(tmp_path / "crashed")
    crashed.open(0)
    assert assert_is_prefix(crashed, 1) == 123
    crashed.close_all()


def test_killed_while_writing_the_store_is_a_prefix_of_the_changelog(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        written = 0
        for line in writer.stdout:
            written = int(line)
            if written >= 6_000:
                break
        writer.send_signal(signal.SIGKILL)
    survived = new_store(tmp_path)
    survived.open(0)
    assert assert_is_prefix(survived, 500) > 0  # memtables of 1 MB were written out on the way
    survived.close_all()


def test_the_offset_is_no_users_key() -> None:
    assert OFFSET_KEY[0] == 0  # ids hold no control character


def _named_in(directory: Path, text: bytes) -> list[str]:
    return [path.name for path in directory.rglob("*") if path.is_file() and text in path.read_bytes()]


@pytest.mark.parametrize("place", ["first", "middle", "last"])
@pytest.mark.parametrize("how", ["told", "stained", "closed"])
@pytest.mark.parametrize("size", [48, 1_100])  # the larger ones lie in files of their own
def test_a_scrub_leaves_no_byte_of_what_was_deleted(store: StateStore, place: str, how: str, size: int) -> None:
    # Random marks beside the keys: prefixes that keys share, and compression, would hide what is still there.
    keys = sorted(secrets.token_bytes(16) for _ in range(1_000))
    marks = {key: secrets.token_bytes(24) for key in keys}
    victim = keys[{"first": 0, "middle": 500, "last": -1}[place]]
    for round_ in range(3):
        store.write(0, [(key, secrets.token_bytes(size) + marks[key]) for key in keys], round_)
        store.flush()
    assert len(_named_in(store.directory, marks[victim])) == 3
    store.write(0, [(victim, None)], 3)
    if how == "told":
        store.scrub({0})
    elif how == "stained":
        store.scrub()
    else:
        store.close(0)
        store.open(0)
    assert _named_in(store.directory, victim) + _named_in(store.directory, marks[victim]) == []
    assert store.get(0, victim) is None
    assert store.load(0, keys[1:3] if place == "first" else keys[:2]) != [None, None]
    assert store.offset(0) == 3
    assert not store._stained


@pytest.mark.parametrize("is_scrubbed", [False, True])
def test_what_was_deleted_before_a_crash_is_scrubbed_after_it(
    store: StateStore, tmp_path: Path, *, is_scrubbed: bool
) -> None:
    mark = secrets.token_bytes(24)
    store.write(0, [(b"ann", secrets.token_bytes(48) + mark), (b"bob", b"b")], 0)
    store.flush()
    store.write(0, [(b"ann", None)], 1)
    store.flush()
    if is_scrubbed:
        store.scrub()
    shutil.copytree(tmp_path / "state", tmp_path / "crashed")
    assert bool(_named_in(tmp_path / "crashed", mark)) is not is_scrubbed
    crashed = new_store(tmp_path / "crashed")
    crashed.open(0)
    assert crashed._stained == (set() if is_scrubbed else {0})
    crashed.scrub()
    assert not _named_in(tmp_path / "crashed", mark)
    crashed.close(0)
    crashed.destroy(0)
    assert [path.name for path in (tmp_path / "crashed").iterdir()] == ["lock"]
    crashed.close_all()


def test_only_memtables_of_some_size_are_flushed_where_that_is_asked_for(store: StateStore) -> None:
    store.open(1)
    store.write(0, [(b"a", bytes(1_000))], 0)
    store.write(1, [(b"a", bytes(3_000))], 0)
    store.flush(2_000)
    assert [len(list(store.path(partition).glob("*.blob"))) for partition in (0, 1)] == [0, 1]
    store.flush()
    assert store._memtables.bytes == 0


class Meddled:
    """A database in which something happens at a compaction, in its place or at its end."""

    def __init__(self, database: Any, happens: Callable[[], None], *, is_compacted: bool) -> None:
        self._database = database
        self._happens = happens
        self._is_compacted = is_compacted

    def compact_range(self, *arguments: Any) -> None:
        if self._is_compacted:
            self._database.compact_range(*arguments)
        self._happens()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)


def test_what_is_deleted_while_a_scrub_runs_is_scrubbed_the_next_time(store: StateStore) -> None:
    mark = secrets.token_bytes(24)
    store.write(0, [(b"ann", secrets.token_bytes(48) + mark), (b"bob", b"b")], 0)
    store.flush()
    databases: dict[int, Any] = store._databases
    plain = databases[0]
    databases[0] = Meddled(plain, lambda: store.write(0, [(b"ann", None)], 1), is_compacted=True)
    store.scrub({0})
    assert _named_in(store.directory, mark)
    databases[0] = plain
    store.scrub()
    assert not _named_in(store.directory, mark)


def test_a_scrub_that_fails_is_made_up_for(store: StateStore) -> None:
    def fail() -> None:
        raise OSError(28, "No space left on device")

    mark = secrets.token_bytes(24)
    store.write(0, [(b"ann", secrets.token_bytes(48) + mark), (b"bob", b"b")], 0)
    store.flush()
    store.write(0, [(b"ann", None)], 1)
    databases: dict[int, Any] = store._databases
    plain = databases[0]
    databases[0] = Meddled(plain, fail, is_compacted=False)
    with pytest.raises(StoreError, match="partition 0"):
        store.scrub()
    databases[0] = plain
    store.scrub()
    assert not _named_in(store.directory, mark)


def test_a_writer_waits_for_a_compaction_that_is_behind_and_nobody_else_does(
    store: StateStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streams.store._L0_FILES_MAX", 3)
    database = store._databases[0]
    database.set_options({"disable_auto_compactions": "true"})
    for offset in range(3):
        store.write(0, [(b"a", b"%d" % offset)], offset)
        store.flush()
    store.write(0, [(b"b", secrets.token_bytes(9_000_000))], 3)
    writer = threading.Thread(target=store.write, args=(0, [(b"c", b"c")], 4), daemon=True)
    writer.start()
    writer.join(0.3)  # a writer that kept the interpreter lock would be waited for without an end
    assert writer.is_alive()
    assert store.offset(0) == 3
    database.set_options({"disable_auto_compactions": "false", "level0_file_num_compaction_trigger": "2"})
    writer.join(20)
    assert store.offset(0) == 4


class Slow:
    """A database of which one call takes as long as a test wants."""

    def __init__(self, database: Any, name: str) -> None:
        self._database = database
        self._name = name
        self.begun, self.may_end = threading.Event(), threading.Event()
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        self.calls.append(name)
        return self._slow if name == self._name else getattr(self._database, name)

    def _slow(self, *arguments: Any) -> Any:
        self.begun.set()
        assert self.may_end.wait(10)
        return getattr(self._database, self._name)(*arguments)


@pytest.mark.parametrize("name", ["flush", "get", "write"])
def test_a_partition_is_closed_when_nobody_is_at_it(store: StateStore, name: str) -> None:
    uses: dict[str, Callable[[], object]] = {
        "flush": store.flush,
        "get": lambda: store.load(0, [b"a"]),
        "write": lambda: store.write(0, [(b"b", b"2")], 1),
    }
    store.write(0, [(b"a", b"1")], 0)
    databases: dict[int, Any] = store._databases
    databases[0] = slow = Slow(databases[0], name)
    use = threading.Thread(target=uses[name], daemon=True)
    use.start()
    assert slow.begun.wait(10)
    close = threading.Thread(target=store.close, args=(0,), daemon=True)
    close.start()
    close.join(0.2)
    assert slow.calls == [name]
    slow.may_end.set()
    close.join(10)
    assert not close.is_alive()
    assert store._memtables.bytes == 0
    store.open(0)
    assert store.get(0, b"a") == b"1"


def test_an_open_database_has_the_settings_of_now_and_not_of_when_it_was_made(tmp_path: Path) -> None:
    before = StateStore(tmp_path, block_cache_mb=8, write_buffer_mb=8)
    before.open(0)
    before.write(0, [(b"a", b"1")], 0)
    before._databases[0].set_options({"blob_garbage_collection_age_cutoff": "1.0", "min_blob_size": "7"})
    before.close_all()
    now = StateStore(tmp_path, block_cache_mb=16, write_buffer_mb=32)
    now.open(0)
    written = max(tmp_path.glob("0/OPTIONS-*"), key=lambda path: path.name).read_text()
    of_now = ("blob_garbage_collection_age_cutoff=0.1", "min_blob_size=1024", f"write_buffer_size={64 << 20}")
    for option in of_now:
        assert re.search(rf"\b{option}0*;?$", written, re.MULTILINE), option
    assert now._databases[0].property_int_value("rocksdb.block-cache-capacity") == 16 << 20
    assert now.get(0, b"a") == b"1"
    now.close_all()


def test_a_compaction_that_left_a_file_is_no_scrub(store: StateStore, monkeypatch: pytest.MonkeyPatch) -> None:
    # As after a failed one, of which rocksdict says nothing.
    monkeypatch.setattr("streams.store._GONE_S_MAX", 0.05)
    mark = secrets.token_bytes(24)
    store.write(0, [(b"ann", secrets.token_bytes(1_100) + mark)], 0)
    store.flush()
    store.write(0, [(b"ann", None)], 1)
    databases: dict[int, Any] = store._databases
    plain = databases[0]
    databases[0] = Meddled(plain, lambda: None, is_compacted=False)
    with pytest.raises(StoreError, match="may hold what was deleted"):
        store.scrub()
    databases[0] = plain
    store.scrub()
    assert not _named_in(store.directory, mark)
