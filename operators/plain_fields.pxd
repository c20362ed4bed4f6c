# cython: language_level=3
"""The fields of an event that are read, as ``operators.wire.Wire`` has them."""

from libc.stdint cimport int64_t, uint8_t
from libc.string cimport memcmp

from operators.cursor cimport Span

cdef enum:
    SKIPPED = 0
    USER_ID = 1
    ITEM_ID = 2
    EVENT_ID = 4
    SESSION_ID = 8
    TIMESTAMP = 16
    VALUE = 32
    REQUIRED = USER_ID | ITEM_ID | TIMESTAMP

cdef struct Fields:
    int seen
    Span user_id
    Span item_id
    Span event_id
    Span session_id
    int64_t timestamp_ms
    double value


cdef inline bint is_named(const uint8_t* name, Py_ssize_t count, const char* wanted, Py_ssize_t wanted_count) noexcept:
    return count == wanted_count and memcmp(name, wanted, count) == 0


cdef inline int field_of(const uint8_t* name, Py_ssize_t count) noexcept:
    """The field of this name."""
    if is_named(name, count, b"user_id", 7):
        return USER_ID
    if is_named(name, count, b"item_id", 7):
        return ITEM_ID
    if is_named(name, count, b"event_id", 8):
        return EVENT_ID
    if is_named(name, count, b"timestamp", 9):
        return TIMESTAMP
    if is_named(name, count, b"session_id", 10):
        return SESSION_ID
    if is_named(name, count, b"value", 5):
        return VALUE
    return SKIPPED


cdef inline Span* span_of(Fields* fields, int field) noexcept:
    """Where an id is kept."""
    if field == USER_ID:
        return &fields.user_id
    if field == ITEM_ID:
        return &fields.item_id
    if field == EVENT_ID:
        return &fields.event_id
    return &fields.session_id
