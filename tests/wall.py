"""Bytes that end at a page nobody may read: compiled code that looks beyond their end ends the process."""

import ctypes
import mmap
from typing import Any

__all__ = ["Wall"]

_PROT_NONE = 0


class Wall:
    """One such page, with room before it."""

    def __init__(self) -> None:
        self._room = 16 * mmap.PAGESIZE
        self._pages = mmap.mmap(-1, self._room + mmap.PAGESIZE)
        address = ctypes.addressof(ctypes.c_char.from_buffer(self._pages)) + self._room
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(mmap.PAGESIZE), _PROT_NONE):
            raise OSError(ctypes.get_errno(), "no page that nobody may read")

    def before(self, data: bytes) -> Any:
        """A view of the data there, good until the next call; it goes where a function wants bytes."""
        start = self._room - len(data)
        self._pages[start : self._room] = data
        return memoryview(self._pages)[start : self._room]
