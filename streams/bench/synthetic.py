"""Users and catalogues beyond the real data: made, not measured, and whatever uses them says so."""

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from models.manifest import (
    BIAS_FILE,
    EMBEDDINGS_FILE,
    VOCABULARY_FILE,
    hash_files,
    load_manifest,
    version_of,
    write_manifest,
)
from models.runtime import DEFAULT_ARTEFACT, OnnxEncoder
from operators import state
from operators.batches import Chunk, decode_chunks
from operators.candidates.popularity import Popularity
from operators.events import JSON_HEADERS
from operators.interest import OUT_OF_VOCABULARY
from operators.partition import partition_of
from operators.process import process_batch
from operators.ranking import Policy
from operators.state import UserState
from streams.bench.lab import PURCHASE, StoredRecord
from streams.bench.ranking import catalogue_of

__all__ = ["artefact_with_items", "event_value", "state_values", "stored_states", "user_id"]

_STATES_MAX: Final = 256
_DAY_MS: Final = 24 * 3600 * 1000
_FIRST_MS: Final = 1_700_000_000_000


def user_id(number: int) -> str:
    """The same user for the same number."""
    return f"user-{number}"


def event_value(user: str, item: str, timestamp_ms: int) -> bytes:
    """A purchase as JSON."""
    return msgspec.json.encode({"user_id": user, "item_id": item, "timestamp": timestamp_ms})


def artefact_with_items(directory: Path, items: int) -> Path:
    """A model with so many items: the bundled one's, then rows drawn around them; returns ``directory``."""
    encoder = OnnxEncoder(providers="cpu")
    catalogue = catalogue_of(encoder, items, 1).catalogue
    shutil.copytree(DEFAULT_ARTEFACT, directory, dirs_exist_ok=True)
    manifest = load_manifest(directory)
    outside = encoder.embeddings(np.array([OUT_OF_VOCABULARY]))
    np.save(directory / EMBEDDINGS_FILE, np.concatenate([outside, catalogue.embeddings]), allow_pickle=False)
    np.save(directory / BIAS_FILE, np.concatenate([np.zeros(1, np.float32), catalogue.bias]), allow_pickle=False)
    real = encoder.manifest.items - 1
    ids = [encoder.item_at(row) for row in range(1, min(items, real) + 1)]
    ids += [f"made-{n}" for n in range(real, items)]
    (directory / VOCABULARY_FILE).write_bytes(msgspec.json.encode(["", *ids]))
    files = hash_files(directory, tuple(manifest.files))
    changed = {"items": items + 1, "files": files, "version": version_of(manifest.name, files)}
    write_manifest(directory, msgspec.structs.replace(manifest, **changed))
    return directory


def stored_states(values: Sequence[bytes], users: int, partitions: int) -> Iterator[tuple[int, bytes, bytes]]:
    """Partition, key and state of every user; the states are given to the users in turn."""
    for number in range(users):
        key = user_id(number).encode()
        yield partition_of(key, partitions), key, values[number % len(values)]


def state_values(encoder: OnnxEncoder, history_events: int, users: int) -> list[bytes]:
    """A few hundred states that the core has made of so many events of real items each: what a store would hold."""
    count = min(users, _STATES_MAX)
    random = np.random.default_rng(history_events)
    records: list[StoredRecord] = []
    for number in range(count):
        rows = random.integers(1, encoder.manifest.items, history_events).tolist()
        for n, row in enumerate(rows):
            value = event_value(user_id(number), encoder.item_at(row), _FIRST_MS + n * _DAY_MS // 8)
            records.append(StoredRecord(len(records), user_id(number).encode(), value, JSON_HEADERS))
    batch = decode_chunks([Chunk.of("purchase", PURCHASE, 0, records)], _FIRST_MS + 400 * _DAY_MS)
    states = {user: UserState() for user in batch.users}
    effects = process_batch(
        batch,
        states,
        {0: Popularity()},
        encoder,
        Policy(),
        topics=("view", "click", "purchase"),
        withdrawn=frozenset(),
        now_ms=_FIRST_MS,
    )
    made = [state.decode(put.value) for put in effects.puts]
    for each in made:  # the events that come have offsets from 0 on
        each.fences = [0] * len(each.fences)
    return [state.encode(each) for each in made]
