"""A partition's co-visitation as records of the changelog: a head, and a part for every 256 items."""

from collections.abc import Callable, Iterator
from typing import Any, Final, TypeVar

import msgspec
import numpy as np

from operators.candidates.live_covisitation import WINDOW_EVENTS, LiveCoVisitation
from operators.wire import UNDECODABLE

__all__ = ["HEAD", "CoVisitationError", "changed_parts", "restore"]

HEAD: Final = ""
"""Name of the head; those of the parts are numbers."""
_PART_SLOTS: Final = 256
_SCHEMA: Final = 1
_SLOT: Final = "<u2"
_WEIGHT: Final = "<i8"
_SLOT_BYTES: Final = 2
_WEIGHT_BYTES: Final = 8
_EVENT_BYTES: Final = _SLOT_BYTES * (1 + WINDOW_EVENTS)
_SLOTS_MAX: Final = 2**16


class CoVisitationError(ValueError):
    """Bytes that are no part of a snapshot."""


class _Head(msgspec.Struct, array_like=True):
    schema: int
    generation: int
    events: int
    slots: int
    pending: bytes


class _Part(msgspec.Struct, array_like=True):
    schema: int
    generation: int
    item_ids: list[str]
    counts: bytes
    used: bytes
    successors: bytes
    """Of the places in use, one item after the other."""
    weights: bytes


_Record = TypeVar("_Record", _Head, _Part)


def changed_parts(of: LiveCoVisitation) -> Iterator[tuple[str, bytes]]:
    """Name and value of what is not as it was when this was last asked; all of it together makes ``of`` again.

    The head comes first: cut off anywhere, the rest names no slot that it does not know.
    """
    table, slots = of.table, len(of.item_ids)
    learned = np.flatnonzero(of.changed[:slots])
    of.changed[:] = False
    pending = of.pending.astype(_SLOT).tobytes()
    yield HEAD, msgspec.msgpack.encode(_Head(_SCHEMA, of.generation, of.events, slots, pending))
    for number in np.unique(learned // _PART_SLOTS).tolist():
        part = slice(number * _PART_SLOTS, min((number + 1) * _PART_SLOTS, slots))
        used = table.used[part]
        in_use = np.arange(table.successors_max) < used[:, None]
        yield (
            str(number),
            msgspec.msgpack.encode(
                _Part(
                    _SCHEMA,
                    of.generation,
                    of.item_ids[part],
                    table.counts[part].astype(_WEIGHT).tobytes(),
                    used.astype(np.uint8).tobytes(),
                    table.successors[part][in_use].astype(_SLOT).tobytes(),
                    table.weights[part][in_use].astype(_WEIGHT).tobytes(),
                )
            ),
        )


def restore(read: Callable[[str], bytes | None]) -> LiveCoVisitation:
    """What ``changed_parts`` wrote, from the newest value of each name; empty where there is no head.

    A part of other items than the head's, or of more, as a crash between them leaves it, is left out.

    Raises:
        CoVisitationError: a value is no part of schema 1, or does not fit together.
    """
    restored = LiveCoVisitation()
    value = read(HEAD)
    if value is None:
        return restored
    head = _decoded(value, _Head)
    _require(0 < head.slots <= _SLOTS_MAX and len(head.pending) % _EVENT_BYTES == 0)
    pending = np.frombuffer(head.pending, _SLOT).reshape(-1, 1 + WINDOW_EVENTS).astype(np.int64)
    _require(pending.max(initial=0) < head.slots)
    restored.generation, restored.events, restored.pending = head.generation, head.events, pending
    for number in range(-(-head.slots // _PART_SLOTS)):
        first = number * _PART_SLOTS
        names = [""] * (min(first + _PART_SLOTS, head.slots) - first)
        value = read(str(number))
        part = None if value is None else _checked(_decoded(value, _Part), restored.table.successors_max)
        if part is not None and (part.generation != head.generation or _slots_named(part, first) > head.slots):
            part = None
        if part is not None:
            names[: len(part.item_ids)] = part.item_ids
        restored.reserve(names[1:] if number == 0 else names)
        if part is not None:
            _put(restored, first, part)
    return restored


def _checked(part: _Part, successors_max: int) -> _Part:
    """A part whose columns fit together."""
    count, used = len(part.item_ids), np.frombuffer(part.used, np.uint8)
    places = int(used.sum())
    _require(count <= _PART_SLOTS and len(used) == count and used.max(initial=0) <= successors_max)
    _require(len(part.counts) == _WEIGHT_BYTES * count and len(part.weights) == _WEIGHT_BYTES * places)
    _require(len(part.successors) == _SLOT_BYTES * places)
    _require(min(np.frombuffer(column, _WEIGHT).min(initial=0) for column in (part.counts, part.weights)) >= 0)
    return part


def _require(fits: bool) -> None:
    if not fits:
        raise CoVisitationError("no part of a co-visitation snapshot: what it holds does not fit together")


def _slots_named(part: _Part, first: int) -> int:
    """How many slots there must be for the part that begins at ``first``."""
    return max(first + len(part.item_ids), int(np.frombuffer(part.successors, _SLOT).max(initial=0)) + 1)


def _put(of: LiveCoVisitation, first: int, part: _Part) -> None:
    table, count = of.table, len(part.item_ids)
    used = np.frombuffer(part.used, np.uint8).astype(np.int64)
    in_use = np.arange(table.successors_max) < used[:, None]
    table.counts[first : first + count] = np.frombuffer(part.counts, _WEIGHT)
    table.used[first : first + count] = used
    table.successors[first : first + count][in_use] = np.frombuffer(part.successors, _SLOT)
    table.weights[first : first + count][in_use] = np.frombuffer(part.weights, _WEIGHT)


def _decoded(value: bytes, kind: type[_Record]) -> _Record:
    try:
        read: Any = msgspec.msgpack.decode(value, type=kind)
    except UNDECODABLE as error:
        raise CoVisitationError(f"no part of a co-visitation snapshot: {error}") from None
    if read.schema != _SCHEMA:
        raise CoVisitationError(f"co-visitation snapshot of schema {read.schema}; this version reads schema {_SCHEMA}")
    return read
