# cython: language_level=3
"""Reading untrusted bytes: whatever they say, nothing beyond their end is looked at."""

from libc.stdint cimport uint8_t, uint64_t

cdef struct Cursor:
    const uint8_t* bytes
    Py_ssize_t at
    Py_ssize_t end

cdef struct Span:
    Py_ssize_t start
    Py_ssize_t end


cdef inline int peek(const Cursor* cursor) noexcept:
    """The next byte, or -1 at the end."""
    return cursor.bytes[cursor.at] if cursor.at < cursor.end else -1


cdef inline bint take(Cursor* cursor, int wanted) noexcept:
    """Whether ``wanted`` comes next; the cursor is then behind it."""
    if peek(cursor) != wanted:
        return False
    cursor.at += 1
    return True


cdef inline bint take_bytes(Cursor* cursor, uint64_t count, Span* span) noexcept:
    """Whether there are ``count`` bytes more; ``span`` is then where they are, and the cursor behind them."""
    if cursor.at > cursor.end or count > <uint64_t>(cursor.end - cursor.at):
        return False
    span.start = cursor.at
    cursor.at += <Py_ssize_t>count
    span.end = cursor.at
    return True


cdef inline bint is_utf8(const uint8_t* text, Py_ssize_t count) noexcept:
    """Whether the bytes are UTF-8 (RFC 3629): shortest forms, no surrogates, nothing beyond U+10FFFF."""
    cdef Py_ssize_t at = 0, follow, n
    cdef uint8_t first, second
    while at < count:
        first = text[at]
        if first < 0x80:
            at += 1
            continue
        follow = 1 if 0xC2 <= first <= 0xDF else 2 if 0xE0 <= first <= 0xEF else 3 if 0xF0 <= first <= 0xF4 else 0
        if follow == 0 or follow > count - at - 1:
            return False
        for n in range(1, follow + 1):
            if text[at + n] & 0xC0 != 0x80:
                return False
        second = text[at + 1]
        if (first == 0xE0 and second < 0xA0) or (first == 0xED and second > 0x9F):
            return False
        if (first == 0xF0 and second < 0x90) or (first == 0xF4 and second > 0x8F):
            return False
        at += follow + 1
    return True
