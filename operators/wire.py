"""The bytes of an event: the fields that are read, the two formats, and how deep a value is nested."""

from collections.abc import Iterable
from typing import Any, Final, Literal, cast

import msgspec

from operators import limits

__all__ = [
    "CONTENT_TYPES",
    "CONTROL",
    "JSON_HEADERS",
    "UNDECODABLE",
    "Format",
    "Wire",
    "decoders",
    "is_too_deep",
]

Format = Literal["json", "msgpack"]

CONTENT_TYPES: Final[dict[bytes, Format]] = {
    b"application/json": "json",
    b"application/msgpack": "msgpack",
    b"application/x-msgpack": "msgpack",
    b"application/vnd.msgpack": "msgpack",
}

JSON_HEADERS: Final[list[tuple[str, bytes]]] = [("content-type", b"application/json")]
"""Headers of a record whose value is JSON."""

UNDECODABLE: Final = (ValueError, OverflowError, RecursionError)
"""What msgspec raises at bytes that it cannot decode: its own error is a ValueError, and so is that of text that is not
UTF-8."""

CONTROL: Final = "[\x00-\x1f\x7f]"
"""Characters that no id may hold, as a regular expression."""


class Wire(msgspec.Struct, gc=False):
    """What an event's value holds. ``context`` and fields that are not named here are free-form and skipped."""

    user_id: str
    item_id: str
    timestamp: int | None = None
    event_id: str | None = None
    session_id: str | None = None
    value: float | None = None


decoders: Final = {
    "json": msgspec.json.Decoder(Wire).decode,
    "msgpack": msgspec.msgpack.Decoder(Wire).decode,
}
_any_decoders: Final = {"json": msgspec.json.decode, "msgpack": msgspec.msgpack.decode}

# Bytes that open a container: brackets of JSON; fixmap, fixarray, array and map of msgpack.
_OPENERS: Final = {"json": b"{[", "msgpack": bytes((*range(0x80, 0xA0), *range(0xDC, 0xE0)))}


def _openers_count(value: bytes, fmt: Format) -> int:
    """Bytes of ``value`` that may open a container: a bound of its depth."""
    return len(value) - len(value.translate(None, _OPENERS[fmt]))


def is_too_deep(value: bytes, fmt: Format) -> bool:
    """Whether a decodable value is nested deeper than ``limits.context_depth_max``."""
    # Only a suspicious value is decoded a second time.
    if _openers_count(value, fmt) <= limits.context_depth_max:
        return False
    return _depth(_any_decoders[fmt](value)) > limits.context_depth_max


def _depth(root: Any) -> int:
    depth = 0
    level: list[Any] = [root]
    while level:
        depth += 1
        level = [child for node in level for child in _children(node) if isinstance(child, (dict, list))]
    return depth


def _children(node: Any) -> Iterable[Any]:
    if isinstance(node, dict):
        return cast(dict[Any, Any], node).values()
    return cast(list[Any], node) if isinstance(node, list) else ()
