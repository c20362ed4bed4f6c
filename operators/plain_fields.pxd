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


cdef inline int field_of(const uint8_t* name, Py_ssize_t count) noexcept:
    """The field of this name."""
    if count == 7:
        if memcmp(name, b"user_id", 7) == 0:
            return USER_ID
        if memcmp(name, b"item_id", 7) == 0:
            return ITEM_ID
    elif count == 8:
        if memcmp(name, b"event_id", 8) == 0:
            return EVENT_ID
    elif count == 9:
        if memcmp(name, b"timestamp", 9) == 0:
            return TIMESTAMP
    elif count == 10:
        if memcmp(name, b"session_id", 10) == 0:
            return SESSION_ID
    elif count == 5:
        if memcmp(name, b"value", 5) == 0:
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
