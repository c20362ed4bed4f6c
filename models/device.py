"""The encoder's pass over new events on a GPU: states stay there, and every call is one replayed graph.

What crosses to the device are the events' numbers and the states that it does not have yet; what crosses back are the
new states, which the changelog needs in any case, and the vectors. The same calls run on a CPU, to be tested.
"""

import logging
from contextlib import AbstractContextManager
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.advance import calls_of
from models.device_graphs import EVENT_ROWS, ROUND_EVENTS_MAX, USER_ROWS, step_inputs
from models.slots import FRESH, SCRATCH, Slots
from operators.interest import PackedJobs

__all__ = ["DeviceAdvance"]

log = logging.getLogger(__name__)

_NOT_CAPTURED: Final = "-1"
_SIZE_MIN: Final = 64
"""Events and users that a call is filled up to at least; then powers of two: each size is a graph of its own."""


class _Call(NamedTuple):
    """What a call of one size is bound to: a graph that is replayed finds its tensors where they were."""

    events: Any
    users: Any
    hidden: Any
    vector: Any
    binding: Any
    options: Any


class _Round(NamedTuple):
    """Up to ``ROUND_EVENTS_MAX`` events of each user who has some left."""

    users: NDArray[np.int64]
    """(B,) which of the call's users."""
    places: NDArray[np.int64]
    """(P,) of their events among the call's, user by user."""
    lengths: NDArray[np.int64]
    """(B,) how many of each."""


class DeviceAdvance:
    """``operators.interest.Encoder.advance`` on one device, with the states of ``limits.device_users_max`` users.

    A call writes no slot that it reads. So one that fails changes nothing, and one that is repeated does no more than
    one that is not: ONNX Runtime repeats a thread's first call of a size until its graph is captured.

    Args:
        ort: the module ``onnxruntime``.
        step: session of ``models.device_graphs.step_graph``; where it captures graphs, one for each size of a call.
        put: session of ``models.device_graphs.put_graph``.
        item_embeddings: (N, D) ``OrtValue`` on the device.
        device: "cpu" or "cuda".
        lock: held in every call. A graph cannot be captured while another thread uses the device.
    """

    def __init__(
        self, ort: Any, step: Any, put: Any, item_embeddings: Any, device: str, lock: AbstractContextManager[object]
    ) -> None:
        self._ort, self._step, self._put, self._device, self._lock = ort, step, put, device, lock
        self._item_embeddings = item_embeddings
        widths = {tensor.name: tensor.shape[-1] for tensor in step.get_outputs()}
        self._hidden_width, self._vector_width = int(widths["hidden"]), int(widths["vector"])
        self._slots = Slots()
        self._hold = self._tensor((self._slots.count, self._hidden_width), np.float32)
        self._calls: dict[tuple[int, int], _Call] = {}
        self._upload(np.array([FRESH, SCRATCH]), np.zeros((2, self._hidden_width), np.float32))

    def __call__(self, packed: PackedJobs) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        hidden = np.empty((len(packed.ends), self._hidden_width), np.float32)
        vectors = np.empty((len(packed.ends), self._vector_width), np.float32)
        names = np.zeros(len(packed.ends), np.int64)
        with self._lock:
            for users, part in calls_of(packed):
                names[users] = self._advance(part, hidden[users], vectors[users])
        if packed.kept is not None:
            packed.kept[:] = names
        return hidden, vectors

    def _advance(
        self, packed: PackedJobs, hidden: NDArray[np.float32], vectors: NDArray[np.float32]
    ) -> NDArray[np.int64]:
        """Fills hidden (B, S) and vectors (B, D); returns the names of the states (B,)."""
        names = np.zeros(len(packed.ends), np.int64) if packed.kept is None else packed.kept.copy()
        slots = self._slots.found(names)
        absent = np.flatnonzero(slots == FRESH)
        new = absent[packed.hidden[absent].any(axis=1)]
        if len(new):
            uploaded = self._slots.taken(len(new), keep=slots)
            self._upload(uploaded, packed.hidden[new])
            self._slots.name(uploaded, instead_of=slots[new])
            slots[new] = uploaded
        for users, places, lengths in _rounds(packed.ends):
            columns = [column[places] for column in (packed.rows, packed.types, packed.gaps)]
            targets = self._slots.taken(len(users), keep=slots)
            hidden[users], vectors[users] = self._run(columns, lengths, slots[users], targets)
            names[users] = self._slots.name(targets, instead_of=slots[users])
            slots[users] = targets
        return names

    def _run(
        self,
        columns: list[NDArray[np.int64]],
        lengths: NDArray[np.int64],
        sources: NDArray[np.int64],
        targets: NDArray[np.int64],
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """One call of the graph, filled up with users of one event that nobody reads."""
        size, count = int(lengths.sum()), len(lengths)
        call = self._call(_size_of(size + 1), _size_of(count))
        events, users = np.zeros(call.events.shape(), np.int64), np.empty(call.users.shape(), np.int64)
        last = len(events[0]) - 1
        events[EVENT_ROWS.index("first")] = np.arange(last + 1)
        users[:] = np.array([FRESH, SCRATCH, last, last])[:, None]
        events[:, :size], users[:, :count] = step_inputs(columns, lengths, sources, targets)
        call.events.update_inplace(events)
        call.users.update_inplace(users)
        self._step.run_with_iobinding(call.binding, call.options)
        return call.hidden.numpy()[:count], call.vector.numpy()[:count]

    def _call(self, size: int, users: int) -> _Call:
        """What a call of so many events and users is bound to."""
        if (size, users) not in self._calls:
            self._calls[size, users] = self._new_call(size, users)
        return self._calls[size, users]

    def _new_call(self, size: int, users: int) -> _Call:
        events = self._tensor((len(EVENT_ROWS), size), np.int64)
        of_users = self._tensor((len(USER_ROWS), users), np.int64)
        hidden = self._tensor((users, self._hidden_width), np.float32)
        vector = self._tensor((users, self._vector_width), np.float32)
        binding = self._step.io_binding()
        inputs = {"hold": self._hold, "item_embeddings": self._item_embeddings, "events": events, "users": of_users}
        for name, value in inputs.items():
            binding.bind_ortvalue_input(name, value)
        for name, value in {"hidden": hidden, "vector": vector, "hold_after": self._hold}.items():
            binding.bind_ortvalue_output(name, value)
        events.update_inplace(np.zeros(events.shape(), np.int64))
        of_users.update_inplace(np.repeat([[FRESH], [SCRATCH], [0], [0]], users, axis=1))
        return _Call(events, of_users, hidden, vector, binding, self._tried(binding, len(self._calls) + 1))

    def _tried(self, binding: Any, number: int) -> Any:
        """How calls of a size are run: as a captured graph, or, where that fails, one operation after the other."""
        options = self._ort.RunOptions()
        options.add_run_config_entry("gpu_graph_id", str(number))
        try:
            self._step.run_with_iobinding(binding, options)
        except Exception as error:
            log.warning("a call of the encoder cannot be captured, its operations are launched one by one: %s", error)
            options = self._ort.RunOptions()
            options.add_run_config_entry("gpu_graph_id", _NOT_CAPTURED)
            self._step.run_with_iobinding(binding, options)
        return options

    def _upload(self, slots: NDArray[np.int64], hidden: NDArray[np.float32]) -> None:
        binding = self._put.io_binding()
        binding.bind_ortvalue_input("hold", self._hold)
        binding.bind_cpu_input("slots", np.ascontiguousarray(slots[:, None]))
        binding.bind_cpu_input("hidden", np.ascontiguousarray(hidden, np.float32))
        binding.bind_ortvalue_output("hold_after", self._hold)
        self._put.run_with_iobinding(binding)

    def _tensor(self, shape: tuple[int, ...], kind: type[np.generic]) -> Any:
        return self._ort.OrtValue.ortvalue_from_shape_and_type(shape, kind, self._device, 0)


def _rounds(ends: NDArray[np.int64]) -> list[_Round]:
    """The events of a call in the rounds that they take."""
    lengths = np.diff(ends, prepend=0)
    firsts = ends - lengths
    rounds: list[_Round] = []
    for start in range(0, int(lengths.max(initial=0)), ROUND_EVENTS_MAX):
        users = np.flatnonzero(lengths > start)
        now = np.minimum(lengths[users] - start, ROUND_EVENTS_MAX)
        before = np.cumsum(now) - now
        places = np.arange(int(now.sum())) + np.repeat(firsts[users] + start - before, now)
        rounds.append(_Round(users, places, now))
    return rounds


def _size_of(count: int) -> int:
    return max(_SIZE_MIN, 1 << (count - 1).bit_length())
