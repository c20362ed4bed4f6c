# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""The records of a batch as a broker stores it (format v2).

Whatever the bytes say, nothing beyond their end is looked at.
"""

from libc.stdint cimport int64_t, uint8_t, uint64_t

cdef enum:
    COLUMNS = 8

cdef struct Cursor:
    const uint8_t* bytes
    Py_ssize_t at
    Py_ssize_t end
    bint is_sound


cdef int64_t _varint(Cursor* cursor) noexcept:
    cdef uint64_t value = 0
    cdef int shift = 0
    cdef uint8_t byte
    while cursor.at < cursor.end and shift < 64:
        byte = cursor.bytes[cursor.at]
        cursor.at += 1
        if shift == 63 and byte > 1:  # more than 64 bits
            break
        value |= <uint64_t>(byte & 0x7F) << shift
        if byte < 0x80:
            return <int64_t>(value >> 1) ^ -<int64_t>(value & 1)
        shift += 7
    cursor.is_sound = False
    return 0


cdef inline void _part(Cursor* cursor, int64_t* start, int64_t* end) noexcept:
    """Some bytes with their number before them; -1 for a part that is null."""
    cdef int64_t count = _varint(cursor)
    if count > cursor.end - cursor.at:
        cursor.is_sound = False
        count = -1
    if count < 0:
        start[0] = end[0] = -1
        return
    start[0] = cursor.at
    cursor.at += count
    end[0] = cursor.at


cdef void _record(Cursor* cursor, Py_ssize_t batch_end, int64_t* row) noexcept:
    cdef int64_t count, start, end
    cursor.end = batch_end
    count = _varint(cursor)
    if not cursor.is_sound or not 0 < count <= batch_end - cursor.at:
        cursor.is_sound = False
        return
    cursor.end = cursor.at + count
    cursor.at += 1  # attributes: none are defined
    row[1] = _varint(cursor)
    row[0] = _varint(cursor)
    _part(cursor, &row[2], &row[3])
    _part(cursor, &row[4], &row[5])
    row[6] = cursor.at
    count = _varint(cursor)
    if count < 0:
        cursor.is_sound = False
    while count > 0 and cursor.is_sound:
        _part(cursor, &start, &end)
        _part(cursor, &start, &end)
        count -= 1
    row[7] = cursor.at
    if cursor.at != cursor.end:
        cursor.is_sound = False


def index_records(
    const uint8_t[::1] data,
    Py_ssize_t start,
    Py_ssize_t end,
    int64_t first_offset,
    int64_t first_timestamp_ms,
    int64_t[:, ::1] index,
):
    """See ``record_batches.pyi``."""
    cdef Py_ssize_t n, count = index.shape[0]
    cdef Cursor cursor
    if not 0 <= start <= end <= data.shape[0] or index.shape[1] != COLUMNS:
        raise ValueError("no such part, or no such columns")
    cursor.bytes = &data[0] if data.shape[0] else NULL
    cursor.at, cursor.is_sound = start, True
    for n in range(count):
        _record(&cursor, end, &index[n, 0])
        if not cursor.is_sound:
            break
        index[n, 0] += first_offset
        index[n, 1] += first_timestamp_ms
    return bool(cursor.is_sound and cursor.at == end)
