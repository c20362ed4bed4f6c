# cython: language_level=3
"""An event as a msgpack map, where it holds nothing that needs a second thought.

Not taken, though it may be valid: names that are no strings, extensions, a field that is there twice, a time that is
no integer, deeper nesting than half the bound.
"""

from libc.stdint cimport INT64_MAX, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from operators.cursor cimport Cursor, Span, is_utf8, peek, take, take_bytes
from operators.plain_fields cimport (
    EVENT_ID, REQUIRED, SESSION_ID, SKIPPED, TIMESTAMP, VALUE, Fields, field_of, span_of
)

cdef enum:
    NIL = 0xC0


cdef inline bint big_endian(Cursor* cursor, int count, uint64_t* value) noexcept:
    cdef Span span
    cdef Py_ssize_t at
    if not take_bytes(cursor, count, &span):
        return False
    value[0] = 0
    for at in range(span.start, span.end):
        value[0] = value[0] << 8 | cursor.bytes[at]
    return True


cdef inline bint length(Cursor* cursor, int first, int fix, int fix_max, int sized, uint64_t* count) noexcept:
    """The length of a string, an array or a map: in its first byte, or in the 1, 2 or 4 behind it."""
    cdef int offset = first - sized
    if fix <= first <= fix + fix_max:
        count[0] = first - fix
        return True
    return 0 <= offset <= 2 and big_endian(cursor, 1 << offset, count)


cdef inline bint text(Cursor* cursor, Span* span) noexcept:
    """A string in UTF-8."""
    cdef int first = peek(cursor)
    cdef uint64_t count
    cursor.at += 1
    return (
        first >= 0
        and length(cursor, first, 0xA0, 31, 0xD9, &count)
        and take_bytes(cursor, count, span)
        and is_utf8(cursor.bytes + span.start, span.end - span.start)
    )


cdef inline bint integer(Cursor* cursor, int first, int64_t* value) noexcept:
    """An integer whose first byte was taken."""
    cdef uint64_t bits
    cdef int count
    if first < 0x80:
        value[0] = first
        return first >= 0
    if first >= 0xE0:
        value[0] = first - 0x100
        return True
    if not 0xCC <= first <= 0xD3:
        return False
    count = 1 << ((first - 0xCC) & 3)
    if not big_endian(cursor, count, &bits):
        return False
    if first < 0xD0:
        value[0] = <int64_t>bits
        return bits <= <uint64_t>INT64_MAX
    value[0] = <int64_t>(bits << (64 - 8 * count)) >> (64 - 8 * count)
    return True


cdef inline bint real(Cursor* cursor, int first, double* value) noexcept:
    """A number whose first byte was taken."""
    cdef int64_t whole
    cdef uint64_t bits
    cdef uint32_t half
    cdef float single
    if first == 0xCA:
        if not big_endian(cursor, 4, &bits):
            return False
        half = <uint32_t>bits
        memcpy(&single, &half, 4)
        value[0] = single
        return True
    if first == 0xCB:
        if not big_endian(cursor, 8, &bits):
            return False
        memcpy(value, &bits, 8)
        return True
    if not integer(cursor, first, &whole):
        return False
    value[0] = <double>whole
    return True


cdef inline bint skip_values(Cursor* cursor, uint64_t count, int depth_left) noexcept:
    """That many values of any kind, of at most so many containers in each other."""
    cdef int first, step
    cdef uint64_t inside
    cdef double ignored
    cdef Span span
    while count:
        count -= 1
        first = peek(cursor)
        if 0xA0 <= first <= 0xBF or 0xD9 <= first <= 0xDB:
            if not text(cursor, &span):
                return False
            continue
        cursor.at += 1
        if first == NIL or first == 0xC2 or first == 0xC3:
            continue
        if 0xC4 <= first <= 0xC6:
            if not (length(cursor, first, 0x100, 0, 0xC4, &inside) and take_bytes(cursor, inside, &span)):
                return False
            continue
        if 0x80 <= first <= 0x9F or 0xDC <= first <= 0xDF:
            step = 2 if first <= 0x8F or first >= 0xDE else 1
            if first <= 0x9F:
                inside = first & 0x0F
            elif not big_endian(cursor, 2 << (first & 1), &inside):
                return False
            if depth_left == 0:
                return False
            if step == 2:
                if not skip_map(cursor, inside, depth_left - 1):
                    return False
            elif not skip_values(cursor, inside, depth_left - 1):
                return False
            continue
        if not real(cursor, first, &ignored):
            return False
    return True


cdef inline bint skip_map(Cursor* cursor, uint64_t count, int depth_left) noexcept:
    cdef Span span
    while count:
        count -= 1
        if not text(cursor, &span) or not skip_values(cursor, 1, depth_left):
            return False
    return True


cdef inline bint msgpack_field(Cursor* cursor, int field, Fields* fields, int depth_left) noexcept:
    cdef int first = peek(cursor)
    if field == SKIPPED:
        return skip_values(cursor, 1, depth_left)
    if fields.seen & field:
        return False
    if field & (EVENT_ID | SESSION_ID | VALUE) and take(cursor, NIL):
        return True
    fields.seen |= field
    if field == TIMESTAMP:
        cursor.at += 1
        return integer(cursor, first, &fields.timestamp_ms)
    if field == VALUE:
        cursor.at += 1
        return real(cursor, first, &fields.value)
    return text(cursor, span_of(fields, field))


cdef inline bint msgpack_event(Cursor* cursor, Fields* fields, int depth_max) noexcept:
    """Whether all that is left is such an event."""
    cdef int first = peek(cursor)
    cdef uint64_t count
    cdef Span name
    fields.seen = 0
    cursor.at += 1
    if 0x80 <= first <= 0x8F:
        count = first & 0x0F
    elif (first != 0xDE and first != 0xDF) or not big_endian(cursor, 2 << (first & 1), &count):
        return False
    while count:
        count -= 1
        if not text(cursor, &name):
            return False
        if not msgpack_field(
            cursor, field_of(cursor.bytes + name.start, name.end - name.start), fields, depth_max // 2
        ):
            return False
    return cursor.at == cursor.end and fields.seen & REQUIRED == REQUIRED
