"""Dead letters: the original record under headers that say what was wrong and where it came from."""

from collections.abc import Sequence
from typing import NamedTuple

from operators import limits
from operators.batches import DeadLetter

__all__ = ["headers_of", "value_of", "withheld"]


def headers_of(letter: DeadLetter) -> list[tuple[str, bytes]]:
    """``dl_*`` headers in UTF-8, then the record's own."""
    code, reason = letter.rejected
    own = [(name, value) for name, value in (letter.record.headers or ()) if not name.startswith("dl_")]
    return [
        ("dl_code", code.encode()),
        ("dl_reason", _cut(reason)),
        ("dl_topic", letter.topic.encode()),
        ("dl_partition", str(letter.partition).encode()),
        ("dl_offset", str(letter.record.offset).encode()),
        *_truncation(letter.record.value),
        *own,
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
    """The original value, cut at ``limits.dead_letter_bytes_max``: a compressed batch can hold a larger one than
    the dead-letter topic takes, and the source topic still has it at the offset that the headers name."""
    value: bytes | None = letter.record.value
    return value if value is None else value[: limits.dead_letter_bytes_max]


def _truncation(value: bytes | None) -> list[tuple[str, bytes]]:
    if value is None or len(value) <= limits.dead_letter_bytes_max:
        return []
    return [("dl_truncated_from", str(len(value)).encode())]


def _cut(reason: str) -> bytes:
    # A character of several bytes may stand across the bound: it is left out whole.
    return reason.encode(errors="replace")[: limits.reason_bytes_max].decode(errors="ignore").encode()
