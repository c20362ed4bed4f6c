"""A history for the prequential judge: users drawn, time split, and what is known of the items."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Literal

import numpy as np

from models.dataset import complete_journey_products, split_bounds
from models.event_histories import EventHistories, event_histories, split_by_share
from streams.clients.errors import InputError
from streams.importers.sorting import TimedEvent
from streams.importers.source import COMPLETE_JOURNEY, Period, open_source

__all__ = ["Stream", "open_history", "open_stream"]


@dataclass(frozen=True, slots=True)
class Stream:
    """Events of the drawn users; the period to judge is ``start_ms`` up to ``end_ms``."""

    events: Sequence[TimedEvent]
    """In time order."""
    held_out_ms: int
    """From here on no model of it was fitted."""
    start_ms: int
    end_ms: int
    attributes: Mapping[str, frozenset[str]]
    """Item id -> its kinds."""


def open_stream(name: str, split: Literal["validation", "test"], users: int, attributes: Path | None) -> Stream:
    """Complete Journey or a file, with at most ``users`` users drawn by the hash of their id.

    Complete Journey is split as for training: eight weeks of validation, eight of test. The events of a file are
    split by share: the first 80 % are history, the next 10 % validation, the last 10 % test.

    Raises:
        InputError: a file cannot be read or its format is unknown.
        ModelError: Complete Journey is not installed.
    """
    with open_source(name, "auto", Period(), skip_bad=False) as source:
        times: list[int] = []
        keys: set[bytes] = set()
        for event in source.events(0):
            times.append(event.timestamp_ms)
            keys.add(event.key)
        drawn = {*sorted(keys, key=lambda key: blake2b(key, digest_size=8).digest())[:users]}
        events = [event for event in source.events(0) if event.key in drawn]
    validation_ms, test_ms = _bounds(name, times)
    start, end = (validation_ms, test_ms) if split == "validation" else (test_ms, times[-1] + 1)
    return Stream(events, validation_ms, start, end, _attributes(name, attributes))


def open_history(name: str, count_min: int) -> EventHistories:
    """Every event of a file, split by share, for a training.

    Raises:
        InputError: the file cannot be read or its format is unknown.
        ModelError: there is nothing to learn from.
    """
    with open_source(name, "auto", Period(), skip_bad=False) as source:
        events = list(source.events(0))
    if not events:
        raise InputError(f"{name}: no events")
    validation_ms, test_ms = _bounds(name, [event.timestamp_ms for event in events])
    return event_histories(events, validation_ms, test_ms, count_min=count_min)


def _bounds(name: str, times_ms: list[int]) -> tuple[int, int]:
    if name == COMPLETE_JOURNEY:
        return split_bounds(np.array(times_ms, np.int64))
    return split_by_share(times_ms)


def _attributes(name: str, path: Path | None) -> dict[str, frozenset[str]]:
    if path is None:
        products = complete_journey_products() if name == COMPLETE_JOURNEY else {}
        return {item_id: frozenset({product.category} - {""}) for item_id, product in products.items()}
    try:
        lines = path.read_text().splitlines()[1:]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot read it ({error}); expected a TSV with a header") from error
    columns = [line.split("\t") for line in lines]
    return {fields[0]: frozenset(fields[-1].replace("|", " ").split()) for fields in columns}
