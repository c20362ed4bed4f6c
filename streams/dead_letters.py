"""Dead letters: the original record under headers that say what was wrong and where it came from.

A compressed batch can hold a larger record than the dead-letter topic takes: what is too large is cut or left out, a
header says so, and the source topic still has the whole at the offset that the headers name.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

from operators import limits
from operators.batches import DeadLetter

__all__ = ["headers_of", "key_of", "value_of", "withheld"]

_HEADER_FRAME_BYTES_MAX: Final = 10
"""Of a header in a record: how long its name is, and its value."""


def headers_of(letter: DeadLetter) -> list[tuple[str, bytes]]:
    """``dl_*`` headers in UTF-8, then the record's own: all of them, or none where they do not fit beside the rest."""
    code, reason = letter.rejected
    key, value = key_of(letter), value_of(letter)
    own = [(name, value) for name, value in (letter.record.headers or ()) if not name.startswith("dl_")]
    room = limits.dead_letter_record_bytes_max - _size(value) - _size(key)
    kept = own if sum(map(_header_size, own)) <= room else []
    return [
        ("dl_code", code.encode()),
        ("dl_reason", _cut(reason)),
        ("dl_topic", letter.topic.encode()),
        ("dl_partition", str(letter.partition).encode()),
        ("dl_offset", str(letter.record.offset).encode()),
        *_reduction("dl_truncated_from", _size(letter.record.value), _size(value)),
        *_reduction("dl_key_truncated_from", _size(letter.record.key), _size(key)),
        *_reduction("dl_headers_left_out", len(own), len(kept)),
        *kept,
    ]


class _Withheld(NamedTuple):
    """The place of a record, and nothing else of it."""

    offset: int
    key: bytes | None = None
    value: bytes | None = None
    headers: Sequence[tuple[str, bytes]] = ()


def withheld(letter: DeadLetter) -> DeadLetter:
    """The letter without its record: where user ids are pseudonyms, a plain one must not leave by this door."""
    return letter._replace(record=_Withheld(letter.record.offset))


def value_of(letter: DeadLetter) -> bytes | None:
    """The original value, cut at ``limits.dead_letter_bytes_max``."""
    value: bytes | None = letter.record.value
    return value if value is None else value[: limits.dead_letter_bytes_max]


def key_of(letter: DeadLetter) -> bytes | None:
    """The original key, cut where it and the value would exceed ``limits.dead_letter_record_bytes_max``."""
    key: bytes | None = letter.record.key
    return key if key is None else key[: limits.dead_letter_record_bytes_max - _size(value_of(letter))]


def _size(part: bytes | None) -> int:
    return len(part or b"")


def _header_size(header: tuple[str, bytes | None]) -> int:
    name, value = header
    return len(name.encode()) + _size(value) + _HEADER_FRAME_BYTES_MAX


def _reduction(name: str, original: int, kept: int) -> list[tuple[str, bytes]]:
    return [(name, str(original).encode())] if kept < original else []


def _cut(reason: str) -> bytes:
    # A character of several bytes may stand across the bound: it is left out whole.
    return reason.encode(errors="replace")[: limits.reason_bytes_max].decode(errors="ignore").encode()
