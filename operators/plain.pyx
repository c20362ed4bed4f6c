# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""Plain events, nearly all there are, decoded and checked.

A record is plain if it has headers that only name a format, a key, and an event beyond doubt. Whatever is taken here
``operators.events.decode`` takes alike; what is not is left to that, which knows the reasons.

The interpreter lock is kept: a chunk takes a tenth of a millisecond, and a thread that gives the lock up for so little
waits for it longer than that.
"""

from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport int64_t, uint8_t
from libc.string cimport memcmp

from operators.cursor cimport Cursor, Span
from operators.plain_fields cimport EVENT_ID, SESSION_ID, VALUE, Fields
from operators.plain_json cimport json_event
from operators.plain_msgpack cimport msgpack_event

from operators import limits
from operators.records import JSON_RECORD_HEADERS, MSGPACK_RECORD_HEADERS, NO_RECORD_HEADERS

cdef const uint8_t[::1] _json = JSON_RECORD_HEADERS
cdef const uint8_t[::1] _msgpack = MSGPACK_RECORD_HEADERS
cdef const uint8_t[::1] _none = NO_RECORD_HEADERS
cdef Py_ssize_t _event_bytes_max = limits.event_bytes_max
cdef Py_ssize_t _id_bytes_max = limits.id_bytes_max
cdef int _depth_max = limits.context_depth_max
cdef double _value_max = limits.value_max
cdef int64_t _earliest_ms = limits.timestamp_ms_min

# Columns of operators.records.Records.index.
cdef enum:
    KEY = 2
    KEY_END = 3
    VALUE_AT = 4
    VALUE_END = 5
    HEADERS = 6
    HEADERS_END = 7
    COLUMNS = 8


cdef inline bint _are(const uint8_t* headers, Py_ssize_t count, const uint8_t[::1] wanted) noexcept:
    return count == wanted.shape[0] and memcmp(headers, &wanted[0], count) == 0


cdef inline bint _is_id(const uint8_t* data, const Span* span) noexcept:
    cdef Py_ssize_t at
    if not 0 < span.end - span.start <= _id_bytes_max:
        return False
    for at in range(span.start, span.end):
        if data[at] < 0x20 or data[at] == 0x7F:
            return False
    return True


cdef inline bint _is_part(int64_t start, int64_t end, Py_ssize_t total) noexcept:
    return 0 <= start <= end <= total


cdef bint _read(
    const uint8_t* data, Py_ssize_t total, const int64_t* place, int64_t latest_ms, Fields* fields
) noexcept:
    cdef Cursor cursor
    cdef const uint8_t* headers = data + place[HEADERS]
    cdef Py_ssize_t key_bytes = place[KEY_END] - place[KEY], headers_bytes = place[HEADERS_END] - place[HEADERS]
    if not (
        _is_part(place[KEY], place[KEY_END], total)
        and _is_part(place[VALUE_AT], place[VALUE_END], total)
        and _is_part(place[HEADERS], place[HEADERS_END], total)
        and place[VALUE_END] - place[VALUE_AT] <= _event_bytes_max
    ):
        return False
    cursor.bytes, cursor.at, cursor.end = data, place[VALUE_AT], place[VALUE_END]
    if _are(headers, headers_bytes, _json) or _are(headers, headers_bytes, _none):
        if not json_event(&cursor, fields, _depth_max):
            return False
    elif not (_are(headers, headers_bytes, _msgpack) and msgpack_event(&cursor, fields, _depth_max)):
        return False
    return (
        fields.user_id.end - fields.user_id.start == key_bytes
        and memcmp(data + fields.user_id.start, data + place[KEY], key_bytes) == 0
        and _earliest_ms <= fields.timestamp_ms <= latest_ms
        and (not fields.seen & VALUE or -_value_max <= fields.value <= _value_max)
        and _is_id(data, &fields.user_id)
        and _is_id(data, &fields.item_id)
        and (not fields.seen & EVENT_ID or _is_id(data, &fields.event_id))
        and (not fields.seen & SESSION_ID or _is_id(data, &fields.session_id))
    )


cdef inline bint _is_same(const uint8_t* data, const Span* one, const Span* other) noexcept:
    cdef Py_ssize_t count = one.end - one.start
    return count == other.end - other.start and memcmp(data + one.start, data + other.start, count) == 0


cdef inline object _bytes(const uint8_t* data, const Span* span):
    return PyBytes_FromStringAndSize(<const char*>data + span.start, span.end - span.start)


def decode_plain(
    const uint8_t[::1] data, const int64_t[:, ::1] index, int64_t latest_ms, uint8_t[::1] is_plain, int64_t[::1] times_ms
):
    """See ``plain.pyi``."""
    cdef Py_ssize_t n, last = -1, count = index.shape[0], total = data.shape[0]
    cdef const uint8_t* start = &data[0] if total else NULL
    cdef list keys = [None] * count, item_ids = [None] * count, event_ids = [None] * count
    cdef Fields* fields
    if not is_plain.shape[0] == times_ms.shape[0] == count or index.shape[1] != COLUMNS:
        raise ValueError("columns of other shapes")
    fields = <Fields*>PyMem_Malloc(max(count, 1) * sizeof(Fields))
    if fields == NULL:
        raise MemoryError
    try:
        for n in range(count):
            is_plain[n] = _read(start, total, &index[n, 0], latest_ms, &fields[n])
            times_ms[n] = fields[n].timestamp_ms if is_plain[n] else 0
        for n in range(count):
            if is_plain[n]:
                # The lines of a basket share their key, and so its hash, which an object is asked for only once.
                if last >= 0 and _is_same(start, &fields[n].user_id, &fields[last].user_id):
                    keys[n] = keys[last]
                else:
                    keys[n] = _bytes(start, &fields[n].user_id)
                last = n
                item_ids[n] = PyUnicode_DecodeUTF8(
                    <const char*>start + fields[n].item_id.start, fields[n].item_id.end - fields[n].item_id.start, NULL
                )
                if fields[n].seen & EVENT_ID:
                    event_ids[n] = _bytes(start, &fields[n].event_id)
    finally:
        PyMem_Free(fields)
    return keys, item_ids, event_ids
