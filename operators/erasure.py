"""Erasure requests: records of the erase topic in, and the trace that a forgotten user leaves.

A user's state goes; what stays is a *husk* under a digest of the id: an empty state that carries the fences and the
time up to which events are refused, so that neither a crash nor a replay of older events brings the user back.
"""

from collections.abc import Sequence
from hashlib import blake2b
from typing import Any, Final, NamedTuple

import msgspec

from operators import limits
from operators.events import Rejected, checked_time, id_problem, read_headers
from operators.interest import EVENT_TYPES

__all__ = ["ERASURE", "ErasureRequest", "Receipt", "decode_erasure", "digest_of", "encode_receipt", "husk_key"]

ERASURE: Final = len(EVENT_TYPES)
"""Stands for the erase topic where an event type stands for an event topic; its slot in a state's fences."""

_HUSK_PREFIX: Final = b"\x00erased\x00"
_DIGEST_BYTES: Final = 16
_PERSON: Final = b"headwater-erased"


class ErasureRequest(NamedTuple):
    """One accepted record of the erase topic."""

    key: bytes
    """User id in UTF-8."""
    until_ms: int
    """Events up to this event time are refused from now on."""
    offset: int
    request_id: str | None


class Receipt(msgspec.Struct):
    """The value of a record on the receipts topic, keyed by ``request_id``; it does not name the user."""

    request_id: str
    digest: str
    """Of the user id: ``digest_of`` in hexadecimal."""
    erased_until: int
    """Event time in ms up to which events of the user are refused."""
    erased_at: int
    """The worker's clock, in ms."""
    partition: int
    offset: int
    """Of the request on the erase topic."""


encode_receipt = msgspec.json.Encoder().encode


class _Wire(msgspec.Struct):
    user_id: str
    timestamp: int | None = None
    request_id: str | None = None


_decoders: Final = {
    "json": msgspec.json.Decoder(_Wire).decode,
    "msgpack": msgspec.msgpack.Decoder(_Wire).decode,
}


def digest_of(key: bytes) -> bytes:
    """16 bytes by which an erased user id is known again: BLAKE2b, with its own domain."""
    return blake2b(key, digest_size=_DIGEST_BYTES, person=_PERSON).digest()


def husk_key(key: bytes) -> bytes:
    """Key of an erased user's husk; ids hold no control character, so no user has this key."""
    return _HUSK_PREFIX + digest_of(key)


def decode_erasure(
    value: bytes | None, key: bytes | None, headers: Sequence[tuple[str, bytes]], offset: int, now_ms: int
) -> ErasureRequest | Rejected:
    """Check one record of the erase topic; JSON or msgpack as an event's. Nothing raises on bad input."""
    if value is None:
        return Rejected("malformed", "the record has no value")
    if len(value) > limits.event_bytes_max:
        return Rejected("too_large", f"{len(value)} bytes, at most {limits.event_bytes_max} are taken")
    envelope = read_headers(headers, "erase")
    if isinstance(envelope, Rejected):
        return envelope
    try:
        wire: Any = _decoders[envelope.format](value)
    except msgspec.ValidationError as error:
        return Rejected("schema", str(error))
    except RecursionError:
        return Rejected("too_deep", f"nested deeper than {limits.context_depth_max}")
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError, OverflowError) as error:
        return Rejected("malformed", f"not {envelope.format}: {error}")
    until_ms = wire.timestamp if wire.timestamp is not None else envelope.timestamp_ms
    return _check(wire, until_ms, key, offset, now_ms)


def _check(wire: _Wire, until_ms: int | None, key: bytes | None, offset: int, now_ms: int) -> ErasureRequest | Rejected:
    until = checked_time(until_ms, now_ms)
    if isinstance(until, Rejected):
        return until
    for name, text in (("user_id", wire.user_id), ("request_id", wire.request_id)):
        problem = None if text is None else id_problem(text)
        if problem is not None:
            return Rejected("bad_id", f"{name} {problem}")
    if wire.request_id is not None and wire.request_id == wire.user_id:
        return Rejected("bad_id", "request_id is the user id: receipts would keep what is to be erased")
    if key is None or key != wire.user_id.encode():
        return Rejected("key_mismatch", "the record's key is not its user_id")
    return ErasureRequest(key, until, offset, wire.request_id)
