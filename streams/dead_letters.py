"""Dead letters: the original record under headers that say what was wrong and where it came from."""

from operators import limits
from operators.process import DeadLetter

__all__ = ["headers_of"]


def headers_of(letter: DeadLetter) -> list[tuple[str, bytes]]:
    """``dl_*`` headers in UTF-8, then the record's own."""
    code, reason = letter.rejected
    own = [(name, value) for name, value in (letter.record.headers or ()) if not name.startswith("dl_")]
    return [
        ("dl_code", code.encode()),
        ("dl_reason", reason.encode(errors="replace")[: limits.reason_bytes_max]),
        ("dl_topic", letter.topic.encode()),
        ("dl_partition", str(letter.partition).encode()),
        ("dl_offset", str(letter.record.offset).encode()),
        *own,
    ]
