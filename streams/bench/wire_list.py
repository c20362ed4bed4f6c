"""What the benches read of a published list."""

from typing import Final

import msgspec

from operators.ranking import Cause

__all__ = ["WireList", "decode_list"]


class WireList(msgspec.Struct):
    """When a list was made, and the events that caused it."""

    generated_at: int
    caused_by: list[Cause]


decode_list: Final = msgspec.json.Decoder(WireList).decode
