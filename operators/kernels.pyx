# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Inner loops of the core for which numpy has no words, or only words that leave the cache.

Those of the lists give the interpreter lock up. The thread that updates states keeps it: it would wait to have it back,
and everything waits for that thread.
"""

from cpython.bytes cimport PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.dict cimport PyDict_GetItem
from cpython.object cimport PyObject
from libc.math cimport INFINITY, pow
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.string cimport memcpy


def add_decayed(
    dict place_of,
    list items,
    double[::1] weights,
    list item_ids,
    const int64_t[::1] times_ms,
    Py_ssize_t start,
    Py_ssize_t end,
    int64_t landmark_ms,
    int64_t half_life_ms,
    double exponent_max,
    Py_ssize_t items_max,
):
    """See ``kernels.pyi``."""
    cdef Py_ssize_t at, place, count = len(items)
    cdef int64_t last_ms = 0
    cdef double exponent, weight = 0
    cdef PyObject* found
    if not 0 <= start <= end <= len(item_ids) == times_ms.shape[0]:
        raise ValueError("columns of other lengths")
    if len(place_of) != count or weights.shape[0] < count + end - start:
        raise ValueError("places of other items, or no room for more")
    for at in range(start, end):
        if weight == 0 or times_ms[at] != last_ms:  # the lines of a basket share their time
            exponent = <double>(times_ms[at] - landmark_ms) / <double>half_life_ms
            if exponent > exponent_max:
                return at
            last_ms, weight = times_ms[at], pow(2.0, exponent)
        found = PyDict_GetItem(place_of, item_ids[at])
        if found != NULL:
            place = <object>found
            weights[place] += weight
        else:
            place_of[item_ids[at]] = count
            items.append(item_ids[at])
            weights[count] = weight
            count += 1
            if count > items_max:
                return at + 1
    return end


def rows_in(dict row_of, list item_ids, int64_t[::1] rows):
    """See ``kernels.pyi``."""
    cdef Py_ssize_t at
    cdef PyObject* row
    if len(item_ids) != rows.shape[0]:
        raise ValueError("as many rows as items are wanted")
    for at in range(rows.shape[0]):
        row = PyDict_GetItem(row_of, item_ids[at])
        rows[at] = <object>row if row != NULL else 0


def occurrences(const int64_t[:, ::1] rows, int64_t[:, ::1] counts, uint8_t[:, ::1] first):
    """See ``kernels.pyi``."""
    cdef Py_ssize_t line, at, place, width = rows.shape[1]
    cdef int64_t wanted, count
    if not counts.shape[0] == first.shape[0] == rows.shape[0] or not counts.shape[1] == first.shape[1] == width:
        raise ValueError("arrays of other shapes")
    with nogil:
        for line in range(rows.shape[0]):
            for at in range(width):
                wanted, count = rows[line, at], 0
                for place in range(width):
                    count += rows[line, place] == wanted
                counts[line, at] = count
                first[line, at] = 1
                for place in range(at):
                    if rows[line, place] == wanted:
                        first[line, at] = 0
                        break


cdef inline float _dot(const float* one, const float* other, Py_ssize_t width) noexcept nogil:
    # In eight lanes, which the compiler makes vectors of; the order of the sums is the same in every batch.
    cdef float[8] lanes
    cdef float total = 0
    cdef Py_ssize_t at, lane, whole = width - width % 8
    for lane in range(8):
        lanes[lane] = 0
    for at in range(0, whole, 8):
        for lane in range(8):
            lanes[lane] += one[at + lane] * other[at + lane]
    for lane in range(8):
        total += lanes[lane]
    for at in range(whole, width):
        total += one[at] * other[at]
    return total


def dots(const float[:, ::1] vectors, const float[:, ::1] matrix, const int64_t[:, ::1] rows, float[:, ::1] scores):
    """See ``kernels.pyi``."""
    cdef Py_ssize_t line, at, width = vectors.shape[1], items = matrix.shape[0]
    cdef int64_t row
    if not rows.shape[0] == scores.shape[0] == vectors.shape[0] or rows.shape[1] != scores.shape[1]:
        raise ValueError("arrays of other shapes")
    if matrix.shape[1] != width or items == 0:
        raise ValueError("a matrix of another width, or of nothing")
    with nogil:
        for line in range(rows.shape[0]):
            for at in range(rows.shape[1]):
                row = rows[line, at]
                scores[line, at] = _dot(&vectors[line, 0], &matrix[row, 0], width) if 0 < row < items else 0


def pair_dots(
    const float[:, ::1] matrix,
    const int64_t[:, ::1] rows,
    const float[:, ::1] other,
    const int64_t[:, ::1] others,
    float[:, :, ::1] products,
):
    """See ``kernels.pyi``."""
    cdef Py_ssize_t line, at, place, width = matrix.shape[1]
    cdef int64_t row, second
    if not rows.shape[0] == others.shape[0] == products.shape[0] or matrix.shape[1] != other.shape[1]:
        raise ValueError("arrays of other shapes")
    if rows.shape[1] != products.shape[1] or others.shape[1] != products.shape[2]:
        raise ValueError("arrays of other shapes")
    with nogil:
        for line in range(rows.shape[0]):
            for at in range(rows.shape[1]):
                row = rows[line, at]
                for place in range(others.shape[1]):
                    second = others[line, place]
                    products[line, at, place] = 0
                    if 0 <= row < matrix.shape[0] and 0 <= second < other.shape[0]:
                        products[line, at, place] = _dot(&matrix[row, 0], &other[second, 0], width)


def recur(
    float[:, ::1] events, const int64_t[::1] ends, const float[:, ::1] decay, float[:, ::1] states, Py_ssize_t first
):
    """See ``kernels.pyi``."""
    cdef Py_ssize_t user, at = 0, channel, width = decay.shape[1]
    cdef const float* keep
    cdef const float* turn
    cdef const float* before
    cdef float* now
    if decay.shape[0] != 2 or events.shape[1] != 2 * width or width == 0:
        raise ValueError("events of another width than the eigenvalues")
    if ends.shape[0] != states.shape[0] or not 0 <= first <= states.shape[1] - 2 * width:
        raise ValueError("states of other users, or of another width")
    for user in range(ends.shape[0]):
        if not (0 if user == 0 else ends[user - 1]) < ends[user] <= events.shape[0]:
            raise ValueError("a user without events, or ends of other events")
    keep, turn = &decay[0, 0], &decay[1, 0]
    for user in range(ends.shape[0]):
        before = &states[user, first]
        while at < ends[user]:
            now = &events[at, 0]
            for channel in range(width):
                now[channel] += before[channel] * keep[channel] - before[width + channel] * turn[channel]
                now[width + channel] += before[channel] * turn[channel] + before[width + channel] * keep[channel]
            before = now
            at += 1
        memcpy(&states[user, first], before, 2 * width * sizeof(float))


def strongest(
    const float[:, :, ::1] effects,
    const int64_t[:, ::1] recent,
    const int64_t[:, ::1] rows,
    const float[::1] own,
    int64_t[:, ::1] causes,
    float[:, ::1] greatest,
):
    """See ``kernels.pyi``."""
    cdef Py_ssize_t line, at, place, count, named = effects.shape[2], history = recent.shape[1]
    cdef float effect, best
    cdef int64_t row, cause
    if not effects.shape[0] == recent.shape[0] == rows.shape[0] == causes.shape[0] == greatest.shape[0]:
        raise ValueError("arrays of other lengths")
    if not effects.shape[1] == rows.shape[1] == causes.shape[1] == greatest.shape[1]:
        raise ValueError("arrays of other shapes")
    if named > history or own.shape[0] <= history:
        raise ValueError("more events than the history has, or more than own counts are for")
    with nogil:
        for line in range(rows.shape[0]):
            for at in range(rows.shape[1]):
                row, cause, best, count = rows[line, at], 0, -INFINITY, 0
                for place in range(history):
                    count += recent[line, place] == row
                for place in range(named):
                    if recent[line, place] == 0:
                        continue
                    effect = effects[line, at, place]
                    if recent[line, place] == row:
                        effect += own[count]
                    if effect > best:
                        cause, best = recent[line, place], effect
                causes[line, at], greatest[line, at] = cause, best


cdef inline char* _digits(char* at, uint64_t number) noexcept:
    cdef char[20] reversed_digits
    cdef int count = 0
    while count == 0 or number:
        reversed_digits[count] = <char>(c"0" + number % 10)
        number //= 10
        count += 1
    while count:
        count -= 1
        at[0] = reversed_digits[count]
        at += 1
    return at


cdef bytes _causes(
    list openings, int64_t partition, const int64_t[::1] types, const int64_t[::1] offsets, Py_ssize_t start, Py_ssize_t end
):
    cdef Py_ssize_t at, room = 2
    cdef bytes opening, written
    cdef char* to
    for at in range(start, end):
        if not 0 <= types[at] < len(openings) or offsets[at] < 0:
            raise ValueError("an event of no topic, or without an offset")
        room += PyBytes_GET_SIZE(openings[types[at]]) + 52  # two numbers of twenty digits at most, and ,"offset":},
    written = PyBytes_FromStringAndSize(NULL, room)
    to = written
    to[0] = c"["
    to += 1
    for at in range(start, end):
        opening = openings[types[at]]
        memcpy(to, <const char*>opening, PyBytes_GET_SIZE(opening))
        to = _digits(to + PyBytes_GET_SIZE(opening), partition)
        memcpy(to, b',"offset":', 10)
        to = _digits(to + 10, offsets[at])
        to[0], to[1] = c"}", c","
        to += 2
    if end > start:
        to -= 1
    to[0] = c"]"
    return written[: to + 1 - <char*>written]


def caused_by(
    list openings,
    const int64_t[::1] partitions,
    const int64_t[::1] types,
    const int64_t[::1] offsets,
    const int64_t[::1] bounds,
):
    """See ``kernels.pyi``."""
    cdef Py_ssize_t user
    if bounds.shape[0] != partitions.shape[0] + 1 or types.shape[0] != offsets.shape[0]:
        raise ValueError("columns of other lengths")
    written = []
    for user in range(partitions.shape[0]):
        if not 0 <= bounds[user] <= bounds[user + 1] <= types.shape[0] or partitions[user] < 0:
            raise ValueError("bounds of other events, or no partition")
        written.append(_causes(openings, partitions[user], types, offsets, bounds[user], bounds[user + 1]))
    return written
