"""An encoder that fails: what is tried, when, and what is told."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest

from models.failover import FailoverEncoder
from operators import limits
from operators.interest import EncoderError, PackedJobs
from tests.fakes import FakeEncoder, items


class Failing(FakeEncoder):
    """Fails in every call while ``is_broken``; on the GPU until it falls back."""

    def __init__(
        self, *, on_gpu: bool = False, is_broken: Iterable[str] = (), error: type[Exception] = RuntimeError
    ) -> None:
        super().__init__(items(9))
        self.device = "gpu" if on_gpu else "cpu"
        self.is_broken = set(is_broken)
        self.error = error
        self.reopened = self.calls = 0
        self.meanwhile: Callable[[], object] | None = None
        """Done once within the next step: what another thread does at the same time."""

    def _may_fail(self) -> None:
        self.calls += 1
        if self.device in self.is_broken:
            raise self.error(f"no {self.device}")

    def advance(self, packed: PackedJobs) -> Any:
        device = self.device
        if self.meanwhile is not None:
            meanwhile, self.meanwhile = self.meanwhile, None
            meanwhile()
        if device in self.is_broken:
            raise self.error(f"no {device}")
        return super().advance(packed)

    def top_k(self, vectors: Any, k: int) -> Any:
        self._may_fail()
        return super().top_k(vectors, k)

    def influences(self, rows: Any) -> Any:
        self._may_fail()
        return super().influences(rows)

    def reopen(self) -> None:
        self.reopened += 1

    def fall_back(self) -> bool:
        falls, self.device = self.device == "gpu", "cpu"
        return falls


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


VECTORS = np.ones((2, 6), np.float32)
ONE = np.ones(1, np.int64)
CALLS: dict[str, Callable[[FailoverEncoder], Any]] = {
    "advance": lambda encoder: encoder.advance(PackedJobs(np.zeros((1, 12), np.float32), ONE, ONE, ONE, ONE)),
    "top_k": lambda encoder: encoder.top_k(VECTORS, 3),
    "influences": lambda encoder: encoder.influences(ONE),
}
"""What asks the model."""


def test_a_sound_encoder_is_asked_and_nothing_else() -> None:
    inner = Failing()
    encoder = FailoverEncoder(inner, Clock())
    scores, rows = encoder.top_k(VECTORS, 3)
    assert scores.shape == rows.shape == (2, 3)
    assert (encoder.is_down, inner.reopened, encoder.version) == (False, 0, "fake-1")


def test_a_lost_gpu_is_replaced_by_the_cpu_within_the_call(caplog: pytest.LogCaptureFixture) -> None:
    inner = Failing(on_gpu=True, is_broken=["gpu"])
    encoder = FailoverEncoder(inner, Clock())
    assert encoder.top_k(VECTORS, 3)[1].shape == (2, 3)
    assert (inner.device, encoder.is_down) == ("cpu", False)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "no gpu" in caplog.text


@pytest.mark.parametrize("error", [RuntimeError, ValueError, MemoryError])
@pytest.mark.parametrize("call", CALLS)
def test_whatever_the_model_is_asked_and_however_it_fails(call: str, error: type[Exception]) -> None:
    lost = FailoverEncoder(Failing(on_gpu=True, is_broken=["gpu"], error=error), Clock())
    found, sound = (CALLS[call](encoder) for encoder in (lost, FailoverEncoder(Failing(), Clock())))
    assert all(np.array_equal(*parts) for parts in zip(found, sound, strict=True))
    broken = FailoverEncoder(Failing(is_broken=["cpu"], error=error), Clock())
    with pytest.raises(EncoderError, match="no cpu"):
        CALLS[call](broken)
    assert broken.is_down


def test_it_is_down_until_a_call_succeeds_however_long_that_takes() -> None:
    inner, clock = Failing(is_broken=["cpu"]), Clock()
    encoder = FailoverEncoder(inner, clock)
    for _ in range(1_200):  # twenty hours
        with pytest.raises(EncoderError, match="no cpu"):
            encoder.top_k(VECTORS, 3)
        clock.now_s += limits.encoder_backoff_max_s
        assert encoder.is_down


def test_where_the_cpu_fails_too_it_is_down() -> None:
    inner = Failing(on_gpu=True, is_broken=["gpu", "cpu"])
    encoder = FailoverEncoder(inner, Clock())
    with pytest.raises(EncoderError, match="no cpu"):
        encoder.top_k(VECTORS, 3)
    assert encoder.is_down


def test_it_is_tried_again_after_longer_and_longer_waits_with_sessions_made_anew() -> None:
    inner, clock = Failing(is_broken=["cpu"]), Clock()
    encoder = FailoverEncoder(inner, clock)
    tries: list[float] = []
    for _ in range(2_000):
        before = inner.calls
        with pytest.raises(EncoderError):
            encoder.top_k(VECTORS, 3)
        if inner.calls > before:
            tries.append(clock.now_s)
        clock.now_s += 0.25
    waits = np.diff(tries)
    assert waits[:5].tolist() == [1, 2, 4, 8, 16]
    assert set(waits[6:].tolist()) == {limits.encoder_backoff_max_s}
    assert inner.reopened == len(tries) - 1
    inner.is_broken.clear()
    clock.now_s += limits.encoder_backoff_max_s
    assert encoder.top_k(VECTORS, 3)[1].shape == (2, 3)
    assert not encoder.is_down
    reopened = inner.reopened
    encoder.top_k(VECTORS, 3)
    assert inner.reopened == reopened


def test_two_threads_that_lose_the_gpu_at_once_both_go_on_on_the_cpu(caplog: pytest.LogCaptureFixture) -> None:
    inner = Failing(on_gpu=True, is_broken=["gpu"])
    encoder = FailoverEncoder(inner, Clock())
    inner.meanwhile = lambda: CALLS["top_k"](encoder)
    vectors = CALLS["advance"](encoder)[1]
    assert np.array_equal(vectors, CALLS["advance"](FailoverEncoder(Failing(), Clock()))[1])
    assert (inner.device, encoder.is_down) == ("cpu", False)
    assert len(caplog.records) == 1, "it fell back twice"


def test_a_call_that_began_before_another_failed_does_not_end_the_wait() -> None:
    inner = Failing()
    encoder = FailoverEncoder(inner, Clock())

    def fail() -> None:
        inner.is_broken.add("cpu")
        with pytest.raises(EncoderError, match="no cpu"):
            CALLS["top_k"](encoder)
        inner.is_broken.clear()

    inner.meanwhile = fail
    CALLS["advance"](encoder)
    assert encoder.is_down
    with pytest.raises(EncoderError, match="is down"):
        CALLS["advance"](encoder)


def test_what_needs_no_session_goes_on_while_it_is_down() -> None:
    inner = Failing(is_broken=["cpu"])
    encoder = FailoverEncoder(inner, Clock())
    with pytest.raises(EncoderError):
        encoder.top_k(VECTORS, 3)
    assert encoder.rows_of(["item-0", "?"]).tolist() == [1, 0]
    encoder.set_rule("item-0", False, 0.0)
    assert encoder.biases(np.array([1]))[0] == -np.inf
