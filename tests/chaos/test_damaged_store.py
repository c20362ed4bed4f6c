"""A store whose files were damaged holds what the changelog had at its offset, or refuses: never anything else."""

# pyright: reportPrivateUsage=false

import random
import shutil
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest

from streams.store import StateStore, StoreError

_USERS: Final = 400
_WRITES: Final = 40
_VALUE_BYTES: Final = (700, 1_500)
"""Some lie beside their key, some in files of their own."""
_KINDS: Final = ("sst", "blob", "MANIFEST", "CURRENT")
_MAY_BE_GONE: Final = ("sst", "blob")

Prefixes = dict[int | None, dict[bytes, bytes]]
"""What the changelog has up to each offset at which a write ended."""


def _new_store(directory: Path) -> StateStore:
    return StateStore(directory, block_cache_mb=8, write_buffer_mb=8)


def _filled(directory: Path, rng: random.Random) -> Prefixes:
    """A store of several files (no deletions: after one a store closes with a single file), closed."""
    content: dict[bytes, bytes] = {}
    prefixes: Prefixes = {None: {}}
    store, offset = _new_store(directory), -1
    store.open(0)
    # Or a compaction may leave a single file before it is closed.
    store._databases[0].set_options({"disable_auto_compactions": "true"})
    for number in range(_WRITES):
        changes = [
            (b"user-%d" % user, rng.randbytes(rng.choice(_VALUE_BYTES))) for user in rng.sample(range(_USERS), 60)
        ]
        offset += len(changes)
        store.write(0, changes, offset)
        content.update(changes)
        prefixes[offset] = dict(content)
        if number % 9 == 8:
            store.flush()
    store.close_all()
    return prefixes


def _flip(data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.randrange(1, 9)):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _cut(data: bytearray, rng: random.Random) -> None:
    del data[rng.randrange(len(data)) :]


def _blank(data: bytearray, rng: random.Random) -> None:
    start = rng.randrange(len(data))
    end = min(len(data), start + rng.randrange(1, 4_096))
    data[start:end] = bytes(end - start)


def _empty(data: bytearray, _: random.Random) -> None:
    data.clear()


_DAMAGES: Final[tuple[Callable[[bytearray, random.Random], None], ...]] = (_flip, _flip, _cut, _blank, _empty)


def _damage(directory: Path, kind: str, rng: random.Random) -> None:
    """Change one file of the kind; one that holds data may also be gone."""
    files = sorted(directory.glob(f"0/*.{kind}" if kind in _MAY_BE_GONE else f"0/{kind}*"))
    file = rng.choice(files)
    if kind in _MAY_BE_GONE and rng.random() < 0.1:
        file.unlink()
        return
    before = file.read_bytes()
    data = bytearray(before)
    while data == before:
        rng.choice(_DAMAGES)(data, rng)
    file.write_bytes(data)


def _outcome(directory: Path, prefixes: Prefixes) -> str:
    store = _new_store(directory)
    try:
        with ExitStack() as stack:
            stack.callback(store.close_all)
            store.open(0)
            offset = store.offset(0)
            keys = [b"user-%d" % user for user in range(_USERS)]
            found = {key: value for key, value in zip(keys, store.load(0, keys), strict=True) if value is not None}
    except StoreError as error:  # also of a compaction that comes upon the damage before a read does
        assert str(directory) in str(error), "a refusal says which files"
        return "refused"
    assert offset in prefixes, f"offset {offset} is none at which a write ended"
    assert found == prefixes[offset], f"not what the changelog has at {offset}"
    return "identical" if offset == max(at for at in prefixes if at is not None) else "earlier"


@pytest.mark.parametrize("cases", [60, pytest.param(200, marks=pytest.mark.slow)])
def test_damaged_files_never_give_a_wrong_state(tmp_path: Path, cases: int) -> None:
    rng = random.Random(7)
    prefixes = _filled(tmp_path / "whole", rng)
    for kind in _MAY_BE_GONE:
        assert len(list((tmp_path / "whole").glob(f"0/*.{kind}"))) > 1, "several files, or there is little to damage"
    outcomes: Counter[tuple[str, str]] = Counter()
    for number in range(cases):
        directory, kind = tmp_path / f"case-{number}", _KINDS[number % len(_KINDS)]
        shutil.copytree(tmp_path / "whole", directory)
        _damage(directory, kind, rng)
        outcomes[kind, _outcome(directory, prefixes)] += 1
        shutil.rmtree(directory)
    print(dict(outcomes))
    assert outcomes.total() == cases
    assert sum(count for (_, outcome), count in outcomes.items() if outcome == "refused") > cases // 4
