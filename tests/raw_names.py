"""Header names that no client sends and brokers take: bytes that are no UTF-8, put into batches that are built."""

import gzip
import struct
from typing import Final

from aiokafka.record.util import calc_crc32c

__all__ = ["RAW_NAME", "READ_NAME", "STAND_IN", "put_raw_names"]

STAND_IN: Final = "<not utf-8>"
"""The name to build the batch with; nothing else in it may say so."""
RAW_NAME: Final = b"\xffnot utf-8\xfe"
READ_NAME: Final = "\ufffdnot utf-8\ufffd"

_FRAME: Final = struct.Struct(">qiib")
"""Base offset, length, leader epoch, magic."""
_CRC: Final = struct.Struct(">I")
_ATTRIBUTES: Final = struct.Struct(">h")
_HEADER_BYTES: Final = 61
_GZIP: Final = 1


def put_raw_names(batch: bytes, *, base_offset: int = 0, compress: bool = False) -> bytearray:
    """An uncompressed batch with ``RAW_NAME`` wherever it has ``STAND_IN``, placed at an offset as by a broker."""
    header, records = batch[:_HEADER_BYTES], batch[_HEADER_BYTES:].replace(STAND_IN.encode(), RAW_NAME)
    (attributes,) = _ATTRIBUTES.unpack_from(header, _FRAME.size + _CRC.size)
    checked = bytearray(header[_FRAME.size + _CRC.size :])
    if compress:
        records = gzip.compress(records)
        _ATTRIBUTES.pack_into(checked, 0, attributes | _GZIP)
    checked += records
    # The length counts everything behind itself.
    length = _FRAME.size - 12 + _CRC.size + len(checked)
    return bytearray(_FRAME.pack(base_offset, length, -1, 2) + _CRC.pack(calc_crc32c(bytes(checked))) + checked)
