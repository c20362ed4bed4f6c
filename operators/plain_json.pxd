# cython: language_level=3
"""An event as a JSON object (RFC 8259), where it holds nothing that needs a second thought.

Not taken, though it may be valid: an escape in an id or a name, ``\\u`` of half a character anywhere, an exponent,
numbers of more digits than a double holds, a field that is there twice, deeper nesting than half the bound.
"""

from libc.string cimport memcmp

from operators.cursor cimport Cursor, Span, is_utf8, peek, take
from operators.plain_fields cimport (
    EVENT_ID, ITEM_ID, REQUIRED, SESSION_ID, SKIPPED, TIMESTAMP, USER_ID, VALUE, Fields, field_of, span_of
)

cdef enum:
    DIGITS_MAX = 15


cdef inline void space(Cursor* cursor) noexcept:
    cdef int byte = peek(cursor)
    while byte == c" " or byte == c"\n" or byte == c"\r" or byte == c"\t":
        cursor.at += 1
        byte = peek(cursor)


cdef inline bint code_point(Cursor* cursor) noexcept:
    """Four hexadecimal digits of a character, not of a surrogate, which is half of one."""
    cdef int n, byte, code = 0
    for n in range(4):
        byte = peek(cursor)
        if c"0" <= byte <= c"9":
            code = 16 * code + byte - c"0"
        elif c"a" <= byte | 0x20 <= c"f":
            code = 16 * code + (byte | 0x20) - c"a" + 10
        else:
            return False
        cursor.at += 1
    return not 0xD800 <= code <= 0xDFFF


cdef inline bint escape(Cursor* cursor) noexcept:
    cdef int byte
    cursor.at += 1
    byte = peek(cursor)
    cursor.at += 1
    if byte == c"u":
        return code_point(cursor)
    return (
        byte == c'"' or byte == c"\\" or byte == c"/" or byte == c"n" or byte == c"t" or byte == c"r"
        or byte == c"b" or byte == c"f"
    )


cdef inline bint string(Cursor* cursor, Span* span, bint escapes) noexcept:
    """A string in UTF-8 without control characters (not even DEL), and with escapes only where they are allowed."""
    cdef int byte, bits = 0
    if not take(cursor, c'"'):
        return False
    span.start = cursor.at
    byte = peek(cursor)
    while byte != c'"':
        if byte < 0x20 or byte == 0x7F:
            return False
        bits |= byte
        if byte != c"\\":
            cursor.at += 1
        elif not escapes or not escape(cursor):
            return False
        byte = peek(cursor)
    span.end = cursor.at
    cursor.at += 1
    return bits < 0x80 or is_utf8(cursor.bytes + span.start, span.end - span.start)


cdef inline bint digits(Cursor* cursor, long long* whole) noexcept:
    cdef Py_ssize_t first = cursor.at
    cdef int byte = peek(cursor)
    whole[0] = 0
    while c"0" <= byte <= c"9":
        if cursor.at - first == DIGITS_MAX:
            return False
        whole[0] = 10 * whole[0] + (byte - c"0")
        cursor.at += 1
        byte = peek(cursor)
    return cursor.at > first


cdef inline bint number(Cursor* cursor, long long* whole, bint* is_whole) noexcept:
    """A number and its whole part, towards zero."""
    cdef bint negative = take(cursor, c"-")
    cdef long long fraction
    cdef Py_ssize_t first = cursor.at
    cdef bint leading_zero = peek(cursor) == c"0"
    cdef int byte
    if not digits(cursor, whole) or (leading_zero and cursor.at > first + 1):
        return False
    if negative:
        whole[0] = -whole[0]
    is_whole[0] = not take(cursor, c".")
    if not is_whole[0] and not digits(cursor, &fraction):
        return False
    byte = peek(cursor)
    return byte != c"e" and byte != c"E"


cdef inline bint word(Cursor* cursor, const char* wanted, Py_ssize_t count) noexcept:
    if cursor.end - cursor.at < count or memcmp(cursor.bytes + cursor.at, wanted, count) != 0:
        return False
    cursor.at += count
    return True


cdef inline bint name(Cursor* cursor, Span* span) noexcept:
    space(cursor)
    if not string(cursor, span, False):
        return False
    space(cursor)
    if not take(cursor, c":"):
        return False
    space(cursor)
    return True


cdef inline bint skip(Cursor* cursor, int depth_left) noexcept:
    """Any value, of at most that many containers in each other."""
    cdef int first = peek(cursor)
    cdef Span span
    cdef long long whole
    cdef bint is_whole
    if first == c'"':
        return string(cursor, &span, True)
    if first == c"t":
        return word(cursor, b"true", 4)
    if first == c"f":
        return word(cursor, b"false", 5)
    if first == c"n":
        return word(cursor, b"null", 4)
    if first != c"{" and first != c"[":
        return number(cursor, &whole, &is_whole)
    if depth_left == 0:
        return False
    cursor.at += 1
    space(cursor)
    if take(cursor, first + 2):  # in ASCII a bracket closes two behind where it opens
        return True
    while True:
        if first == c"{" and not name(cursor, &span):
            return False
        space(cursor)
        if not skip(cursor, depth_left - 1):
            return False
        space(cursor)
        if take(cursor, first + 2):
            return True
        if not take(cursor, c","):
            return False


cdef inline bint json_field(Cursor* cursor, int field, Fields* fields, int depth_left) noexcept:
    cdef long long whole
    cdef bint is_whole
    if field == SKIPPED:
        return skip(cursor, depth_left)
    if fields.seen & field:
        return False
    if field & (EVENT_ID | SESSION_ID | VALUE) and peek(cursor) == c"n":
        return word(cursor, b"null", 4)
    fields.seen |= field
    if field == TIMESTAMP:
        if not number(cursor, &whole, &is_whole):
            return False
        fields.timestamp_ms = whole
        return is_whole
    if field == VALUE:
        if not number(cursor, &whole, &is_whole):
            return False
        # One more than the whole part bounds it without a look at its fraction.
        fields.value = <double>whole + (0 if is_whole else 1 if whole > 0 else -1)
        return True
    return string(cursor, span_of(fields, field), False)


cdef inline bint json_event(Cursor* cursor, Fields* fields, int depth_max) noexcept:
    """Whether all that is left is such an event."""
    cdef Span of_name
    fields.seen = 0
    space(cursor)
    if not take(cursor, c"{"):
        return False
    while True:
        if not name(cursor, &of_name):
            return False
        if not json_field(
            cursor, field_of(cursor.bytes + of_name.start, of_name.end - of_name.start), fields, depth_max // 2
        ):
            return False
        space(cursor)
        if take(cursor, c"}"):
            break
        if not take(cursor, c","):
            return False
    space(cursor)
    return cursor.at == cursor.end and fields.seen & REQUIRED == REQUIRED
