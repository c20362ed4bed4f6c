# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""What is done event by event with the histories of many users.

The interpreter lock is kept: everything waits for the thread that updates states, and it would wait to have it back.
"""

from cpython cimport array
from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_GET_SIZE, PyByteArray_Resize
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.string cimport memchr, memcpy, memmove


cdef extern from "Python.h":
    const char* PyUnicode_AsUTF8AndSize(object text, Py_ssize_t* size) except NULL


cdef bytes _joined(const char* kept, Py_ssize_t kept_size, list item_ids, Py_ssize_t start, Py_ssize_t end):
    # The ids from `start` up to `end` behind those that are kept, which end with their separator.
    cdef Py_ssize_t at, size, room = kept_size + end - start - 1
    cdef const char* text
    for at in range(start, end):
        PyUnicode_AsUTF8AndSize(item_ids[at], &size)
        room += size
    cdef bytes joined = PyBytes_FromStringAndSize(NULL, room)
    cdef char* to = PyBytes_AS_STRING(joined)
    memcpy(to, kept, kept_size)
    to += kept_size
    for at in range(start, end):
        if at > start:
            to[0] = 0
            to += 1
        text = PyUnicode_AsUTF8AndSize(item_ids[at], &size)
        memcpy(to, text, size)
        to += size
    return joined


cdef int _move_on(array.array history, Py_ssize_t excess, bytes added, Py_ssize_t start, Py_ssize_t end) except -1:
    # Words: without the first `excess` ones, and with those from `start` up to `end` behind them.
    cdef Py_ssize_t kept = len(history) - excess
    if excess:
        memmove(history.data.as_ulonglongs, history.data.as_ulonglongs + excess, 8 * kept)
    array.resize_smart(history, kept + end - start)
    memcpy(history.data.as_ulonglongs + kept, PyBytes_AS_STRING(added) + 8 * start, 8 * (end - start))
    return 0


cdef bytes _extended(
    bytes item_ids,
    bytearray types,
    array.array times_ms,
    array.array fingerprints,
    array.array rows,
    object events,
    Py_ssize_t start,
    Py_ssize_t end,
    Py_ssize_t events_max,
):
    cdef list new_ids
    cdef bytes new_types, new_times, new_fingerprints, new_rows
    cdef Py_ssize_t n, count, excess, kept_size
    cdef const char* kept
    cdef const char* separator
    if item_ids is None or types is None:
        raise TypeError("a history without ids or types")
    count, kept, kept_size = PyByteArray_GET_SIZE(types), PyBytes_AS_STRING(item_ids), PyBytes_GET_SIZE(item_ids)
    excess = max(count + end - start - events_max, 0)
    new_ids, new_types, new_times, new_fingerprints, new_rows = events
    if not 0 <= start < end <= len(new_ids):
        raise ValueError("no such events")
    if not 8 * len(new_ids) == len(new_times) == len(new_fingerprints) == 8 * len(new_types):
        raise ValueError("columns of other lengths")
    if not count == len(times_ms) == len(fingerprints) or (rows is not None and len(rows) != count):
        raise ValueError("a history of other lengths")
    if rows is not None and (new_rows is None or len(new_rows) != len(new_times)):
        raise ValueError("a history with rows is given events with rows")
    for history in (times_ms, fingerprints, rows):
        if history is not None and history.itemsize != 8:
            raise TypeError("a history of other numbers")
    if excess >= count:
        kept_size = 0
    else:
        for n in range(excess):
            separator = <const char*>memchr(kept, 0, kept_size)
            if separator == NULL:
                raise ValueError("fewer ids than events")
            kept_size -= separator + 1 - kept
            kept = separator + 1
    # The terminating zero of a bytes object stands for the separator behind the last id.
    joined = _joined(kept, kept_size + 1 if excess < count else 0, new_ids, start, end)
    # Before anything is changed: it is refused while somebody looks at the bytes.
    PyByteArray_Resize(types, count + end - start)
    memmove(PyByteArray_AS_STRING(types), PyByteArray_AS_STRING(types) + excess, count - excess)
    memcpy(PyByteArray_AS_STRING(types) + count - excess, PyBytes_AS_STRING(new_types) + start, end - start)
    PyByteArray_Resize(types, count - excess + end - start)
    _move_on(times_ms, excess, new_times, start, end)
    _move_on(fingerprints, excess, new_fingerprints, start, end)
    if rows is not None:
        _move_on(rows, excess, new_rows, start, end)
    return joined


cpdef extend_history(object state, object events, Py_ssize_t start, Py_ssize_t end, Py_ssize_t events_max):
    """See ``histories.pyi``."""
    state.item_ids = _extended(
        state.item_ids,
        state.types,
        state.times_ms,
        state.fingerprints,
        state.rows,
        events,
        max(start, end - events_max),
        end,
        events_max,
    )


def extend_histories(
    list states, object events, const int64_t[::1] bounds, const uint8_t[::1] wanted, Py_ssize_t events_max
):
    """See ``histories.pyi``."""
    cdef Py_ssize_t user
    if not bounds.shape[0] - 1 == len(states) == wanted.shape[0]:
        raise ValueError("bounds of other states")
    for user in range(wanted.shape[0]):
        if wanted[user]:
            extend_history(states[user], events, bounds[user], bounds[user + 1], events_max)


def any_known(const uint64_t[::1] fingerprints, const int64_t[::1] bounds, list histories, uint8_t[::1] known):
    """See ``histories.pyi``."""
    cdef Py_ssize_t user, at, place, count
    cdef uint64_t wanted
    cdef array.array history
    if not bounds.shape[0] - 1 == len(histories) == known.shape[0]:
        raise ValueError("columns of other lengths")
    for user in range(known.shape[0]):
        if not 0 <= bounds[user] <= bounds[user + 1] <= fingerprints.shape[0]:
            raise ValueError("bounds of other events")
        history = histories[user]
        if history.ob_descr.typecode != c"Q":
            raise TypeError("a history of other numbers")
        count = len(history)
        known[user] = 0
        for at in range(bounds[user], bounds[user + 1]):
            wanted = fingerprints[at]
            if wanted == 0:
                continue
            for place in range(count):
                if history.data.as_ulonglongs[place] == wanted:
                    known[user] = 1
            for place in range(bounds[user], at):
                if fingerprints[place] == wanted:
                    known[user] = 1


def newest_first(list histories, int64_t[:, ::1] newest):
    """See ``histories.pyi``."""
    cdef Py_ssize_t line, at, count, width = newest.shape[1]
    cdef array.array history
    if len(histories) != newest.shape[0]:
        raise ValueError("as many histories as lines are wanted")
    for line in range(newest.shape[0]):
        history = histories[line]
        if history.ob_descr.typecode != c"q":
            raise TypeError("a history of other numbers")
        count = len(history)
        for at in range(width):
            newest[line, at] = history.data.as_longlongs[count - 1 - at] if at < count else 0
