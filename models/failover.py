"""An encoder that may fail: from the GPU to the CPU at once, then made anew after longer and longer waits.

While it is down it says so by ``EncoderError`` and nothing is asked of it; who gets that answer makes do without.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from operators import limits
from operators.interest import Encoder, EncoderError, PackedJobs

__all__ = ["FailoverEncoder", "Reopenable"]

log = logging.getLogger(__name__)

_BACKOFF_S: Final = 1.0

_Result = TypeVar("_Result")


class Reopenable(Encoder, Protocol):
    """An encoder whose sessions can be made anew."""

    def reopen(self) -> None:
        """Make the sessions anew where they are."""
        ...

    def fall_back(self) -> bool:
        """Make the sessions anew on the CPU; False where they are there already."""
        ...


class FailoverEncoder:
    """An ``operators.interest.Encoder``; its ``EncoderError`` means that it is down, whatever the cause."""

    def __init__(self, inner: Reopenable, clock: Callable[[], float] = time.monotonic) -> None:
        self._inner = inner
        self._clock = clock
        self._failures = 0
        self._retry_at = 0.0
        self._place = 0
        """Of the sessions; another number after they have moved."""
        self._mending = threading.Lock()

    @property
    def is_down(self) -> bool:
        """Whether the last call failed and none has succeeded since."""
        return self._failures > 0

    @property
    def version(self) -> str:
        return self._inner.version

    @property
    def hidden_width(self) -> int:
        return self._inner.hidden_width

    @property
    def vector_width(self) -> int:
        return self._inner.vector_width

    def row_of(self, item_id: str) -> int:
        return self._inner.row_of(item_id)

    def rows_of(self, item_ids: Sequence[str]) -> NDArray[np.int64]:
        return self._inner.rows_of(item_ids)

    def scores_of(self, vectors: NDArray[np.float32], rows: NDArray[np.int64]) -> NDArray[np.float32]:
        return self._inner.scores_of(vectors, rows)

    def items_at(self, rows: Iterable[int]) -> list[str]:
        return self._inner.items_at(rows)

    def directions(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        return self._inner.directions(rows)

    def embeddings(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        return self._inner.embeddings(rows)

    def biases(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        return self._inner.biases(rows)

    def set_rule(self, item_id: str, available: bool, boost: float) -> None:
        self._inner.set_rule(item_id, available, boost)

    def advance(self, packed: PackedJobs) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        return self._guarded(lambda: self._inner.advance(packed))

    def top_k(self, vectors: NDArray[np.float32], k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        return self._guarded(lambda: self._inner.top_k(vectors, k))

    def influences(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        return self._guarded(lambda: self._inner.influences(rows))

    def effects(self, listed: NDArray[np.int64], events: NDArray[np.int64]) -> NDArray[np.float32]:
        return self._guarded(lambda: self._inner.effects(listed, events))

    def _guarded(self, call: Callable[[], _Result]) -> _Result:
        """The call's result. Calls of several threads go on side by side; sessions are made anew by one at a time.

        Raises:
            EncoderError: it failed, or it is not time yet to try again.
        """
        with self._mending:
            was_down, place = self.is_down, self._place
            if was_down and self._clock() < self._retry_at:
                raise EncoderError("the encoder is down")
        try:
            if was_down:
                with self._mending:
                    self._inner.reopen()
            result = self._result_or_fallen_back(call, place)
        except Exception as error:
            self._note_failure(error)
            raise EncoderError(str(error)) from error
        if was_down:  # one that began before another failed says nothing of the sessions
            self._note_success()
        return result

    def _note_success(self) -> None:
        with self._mending:
            if self.is_down:  # unless another thread was first
                log.warning("the encoder works again after %d failures", self._failures)
                self._failures = 0

    def _note_failure(self, error: Exception) -> None:
        with self._mending:
            self._failures += 1
            wait_s = min(_BACKOFF_S * 2 ** min(self._failures - 1, 30), limits.encoder_backoff_max_s)
            self._retry_at = self._clock() + wait_s
        log.error("the encoder fails: %s. Lists are made without it and marked; next try in %g s", error, wait_s)

    def _result_or_fallen_back(self, call: Callable[[], _Result], place: int) -> _Result:
        """``place``: where the sessions were when the call was asked for."""
        try:
            return call()
        except Exception as error:
            with self._mending:
                if self._place == place:
                    if not self._inner.fall_back():
                        raise
                    self._place += 1
                    log.warning(
                        "the encoder fails on the GPU: %s. It goes on on the CPU until the worker starts anew", error
                    )
            return call()
