"""Records that no worker may take for events: every way of being wrong, drawn at random."""

import json
import random
from collections.abc import Callable, Sequence
from typing import Any, Final

from streams.settings import Settings
from tests.integration.harness import Outgoing

__all__ = ["KINDS", "make_bad_records"]

_MSGPACK: Final = (("content-type", b"application/msgpack"),)

_Parts = tuple[bytes | None, bytes | None, tuple[tuple[str, bytes], ...]]


def _event(rng: random.Random, **changes: Any) -> dict[str, Any]:
    user = f"user-{rng.randrange(200)}"
    event = {"user_id": user, "item_id": "852159", "timestamp": 1_700_000_000_000 + rng.randrange(10**6)}
    return {key: value for key, value in {**event, **changes}.items() if value is not ...}


def _json(event: dict[str, Any], headers: tuple[tuple[str, bytes], ...] = ()) -> _Parts:
    key = event.get("user_id")
    return (key.encode(errors="replace") if isinstance(key, str) else b"user-1"), json.dumps(event).encode(), headers


def _changed(**changes: Any) -> Callable[[random.Random], _Parts]:
    return lambda rng: _json(_event(rng, **changes))


def _truncated(rng: random.Random) -> _Parts:
    key, value, headers = _json(_event(rng))
    return key, (value or b"")[: rng.randrange(len(value or b""))], headers


def _with(*headers: tuple[str, bytes]) -> Callable[[random.Random], _Parts]:
    return lambda rng: _json(_event(rng), headers)


def _damaged(rng: random.Random) -> _Parts:
    key, value, headers = _json(_event(rng))
    cut = rng.randrange(1, len(value or b"") - 1)
    return key, (value or b"")[:cut] + bytes([rng.choice((0, 0x80, 0xFF))]) + (value or b"")[cut:], headers


KINDS: Final[Sequence[Callable[[random.Random], _Parts]]] = (
    lambda rng: (b"user-1", None, ()),
    lambda rng: (b"user-1", b"", ()),
    lambda rng: (b"user-2", b"\xff" + rng.randbytes(rng.randrange(1, 60)), ()),
    lambda rng: (b"user-2", rng.choice((b"[1]", b'"text"', b"17", b"null", b"{}", b"nonsense")), ()),
    lambda rng: (None, _json(_event(rng))[1], ()),
    lambda rng: (b"somebody-else", _json(_event(rng))[1], ()),
    lambda rng: (b"user-3", _json(_event(rng, user_id="user-3"))[1], (("content-type", b"application/msgpack"),)),
    _truncated,
    _damaged,
    _changed(user_id=...),
    _changed(item_id=...),
    _changed(timestamp=...),
    _changed(user_id=17),
    _changed(item_id=["852159"]),
    _changed(timestamp="yesterday"),
    _changed(timestamp=1.5),
    _changed(timestamp=-1),
    _changed(timestamp=4_000_000_000_000),
    _changed(timestamp=1_700_000_000_000_000),
    _changed(timestamp=10**30),
    _changed(value=float("nan")),
    _changed(value=1e13),
    _changed(value="much"),
    _changed(user_id=""),
    _changed(item_id=""),
    _changed(user_id="u" * 200),
    _changed(item_id="ü" * 100),
    _changed(item_id="tab\tbed"),
    _changed(user_id="\x00popularity"),
    _changed(user_id="\x00offset"),
    _changed(event_id="\n"),
    lambda rng: _json(_event(rng, context=json.loads("[" * 40 + "]" * 40))),
    lambda rng: (b"user-4", b'{"user_id":"user-4","context":' + b"[" * 5000 + b"]" * 5000 + b"}", ()),
    lambda rng: _json(_event(rng, context="x" * 66_000)) if rng.random() < 0.02 else _json(_event(rng, item_id=3)),
    # What is small to send and would be huge to hold: lengths that lie, and nesting without end.
    lambda rng: (b"user-5", rng.choice((b"\xdd", b"\xdf", b"\xdb", b"\xc6")) + b"\xff\xff\xff\xff", _MSGPACK),
    lambda rng: (b"user-5", b"\x83\xa7user_id\xa6user-5\xa7context" + b"\x91" * 20_000, _MSGPACK),
    lambda rng: (b"user-5", b"\x81" * 60_000, _MSGPACK),
    _with(("content-type", b"text/html")),
    _with(("content-type", b"\xff\xfe")),
    _with(("ce_type", b"com.example.refund")),
    _with(("ce_time", b"noon")),
    _with(("ce_id", b"\xff")),
)


def make_bad_records(settings: Settings, rng: random.Random, count: int) -> list[Outgoing]:
    """``count`` bad records, every kind in turn, on random topics and partitions, each with headers of its own."""
    bad: list[Outgoing] = []
    for n in range(count):
        key, value, headers = KINDS[n % len(KINDS)](rng)
        topic = rng.choice(settings.topics.events)
        partition = rng.randrange(settings.topics.partitions)
        own = (("trace", f"bad-{n}".encode()), *headers)
        bad.append(Outgoing(topic, key, value, None, own, partition))
    return bad
