# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""The records of a batch as a broker stores it (format v2).

Whatever the bytes say, nothing beyond their end is looked at.
"""

from libc.stdint cimport int64_t, uint8_t, uint64_t

from operators.cursor cimport Cursor, Span, peek, take_bytes

cdef enum:
    COLUMNS = 8


cdef bint _varint(Cursor* cursor, int64_t* value) noexcept:
    """A whole number: zigzag, seven bits a byte, the lowest first, 64 bits at most."""
    cdef uint64_t bits = 0
    cdef int shift, byte
    for shift in range(0, 64, 7):
        byte = peek(cursor)
        cursor.at += 1
        if byte < 0 or (shift == 63 and byte > 1):
            return False
        bits |= <uint64_t>(byte & 0x7F) << shift
        if byte < 0x80:
            value[0] = <int64_t>(bits >> 1) ^ -<int64_t>(bits & 1)
            return True
    return False


cdef bint _part(Cursor* cursor, int64_t* start, int64_t* end) noexcept:
    """Some bytes with their number before them; -1 for a part that is null."""
    cdef int64_t count
    cdef Span span
    if not _varint(cursor, &count):
        return False
    start[0] = end[0] = -1
    if count < 0:
        return True
    if not take_bytes(cursor, count, &span):
        return False
    start[0], end[0] = span.start, span.end
    return True


cdef bint _record(Cursor* batch, int64_t* row) noexcept:
    """A record that is as long as it says; offset and time are relative to the batch's."""
    cdef int64_t count, start, end
    cdef Span whole
    cdef Cursor cursor
    if not _varint(batch, &count) or count <= 0 or not take_bytes(batch, count, &whole):
        return False
    # Behind the attributes, of which none are defined.
    cursor.bytes, cursor.at, cursor.end = batch.bytes, whole.start + 1, whole.end
    if not (
        _varint(&cursor, &row[1])
        and _varint(&cursor, &row[0])
        and _part(&cursor, &row[2], &row[3])
        and _part(&cursor, &row[4], &row[5])
    ):
        return False
    row[6] = cursor.at
    if not _varint(&cursor, &count) or count < 0:
        return False
    while count > 0:
        if not (_part(&cursor, &start, &end) and _part(&cursor, &start, &end)):
            return False
        count -= 1
    row[7] = cursor.at
    return cursor.at == cursor.end


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
    cursor.at, cursor.end = start, end
    for n in range(count):
        if not _record(&cursor, &index[n, 0]):
            return False
        index[n, 0] += first_offset
        index[n, 1] += first_timestamp_ms
    return cursor.at == end
