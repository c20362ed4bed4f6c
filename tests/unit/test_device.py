"""What a GPU runs comes to what the CPU comes to. On the CPU device everywhere, on CUDA where there is one."""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from models import runtime, sessions
from models.device import DeviceAdvance
from models.device_graphs import put_graph, step_graph
from models.errors import ModelError
from models.export import decay_of, full_pass
from models.onnx_graph import Weights
from models.runtime import OnnxEncoder, Providers
from operators import limits
from operators.interest import EVENT_TYPES, GAP_BUCKETS, PackedJobs
from tests.fakes import chunk, record
from tests.unit.test_process import Core

WIDTH = 512


@pytest.fixture(scope="module")
def cpu() -> OnnxEncoder:
    return OnnxEncoder(providers="cpu")


def opened(providers: Providers) -> OnnxEncoder:
    try:
        return OnnxEncoder(providers=providers, as_device=True)
    except ModelError:
        if providers == "cpu":
            raise
        pytest.skip("no NVIDIA GPU")


@pytest.fixture(params=["cpu", "cuda"])
def encoder(request: pytest.FixtureRequest) -> OnnxEncoder:
    return opened(request.param)


def jobs_of(lengths: list[int], seed: int = 0, hidden: NDArray[np.float32] | None = None) -> PackedJobs:
    rng = np.random.default_rng(seed)
    if hidden is None:
        hidden = rng.standard_normal((len(lengths), WIDTH), np.float32)
    columns = [rng.integers(0, high, sum(lengths)) for high in (13_344, len(EVENT_TYPES), GAP_BUCKETS)]
    return PackedJobs(hidden, *columns, np.cumsum(lengths), np.zeros(len(lengths), np.int64))


def assert_alike(theirs: tuple[NDArray[np.float32], ...], ours: tuple[NDArray[np.float32], ...]) -> None:
    for one, other in zip(theirs, ours, strict=True):
        assert np.abs(one - other).max() <= 1e-5 * max(1, np.abs(other).max())


class Watched:
    """A session; counts its calls, and fails on demand."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self.calls = 0
        self.fails_from: int | None = None

    def run_with_iobinding(self, *arguments: Any) -> None:
        self.calls += 1
        if self.fails_from is not None and self.calls >= self.fails_from:
            raise RuntimeError("the device is lost")
        self._session.run_with_iobinding(*arguments)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)


def watch(encoder: OnnxEncoder, name: str) -> Watched:
    watched = Watched(getattr(encoder._sessions.advance, name))
    setattr(encoder._sessions.advance, name, watched)
    return watched


@pytest.mark.parametrize(
    "lengths",
    [[1], [1] * 63, [1] * 64, [2, 1], [1, 2, 3, 4, 5, 8, 9, 16, 17], [64, 65, 1, 300, 128], [3_000, 1]],
    ids=len,
)
def test_the_graph_of_a_device_comes_to_the_same(cpu: OnnxEncoder, encoder: OnnxEncoder, lengths: list[int]) -> None:
    packed = jobs_of(lengths)
    packed.hidden[0] = 0
    assert_alike(encoder.advance(packed), cpu.advance(packed._replace(kept=None)))


def test_states_that_are_there_do_not_travel(cpu: OnnxEncoder, encoder: OnnxEncoder) -> None:
    put = watch(encoder, "_put")
    first = jobs_of([3, 1, 70])
    expected, _ = cpu.advance(first._replace(kept=None))
    encoder.advance(first)
    assert (first.kept != 0).all()
    assert put.calls == 1
    unread = np.full((3, WIDTH), np.nan, np.float32)
    following = jobs_of([1, 2, 1], 1, unread)._replace(kept=first.kept)
    assert_alike(encoder.advance(following), cpu.advance(following._replace(hidden=expected, kept=None)))
    assert put.calls == 1


def test_new_users_need_no_state_from_the_host(cpu: OnnxEncoder, encoder: OnnxEncoder) -> None:
    put = watch(encoder, "_put")
    packed = jobs_of([1, 5], hidden=np.zeros((2, WIDTH), np.float32))
    assert_alike(encoder.advance(packed), cpu.advance(packed))
    assert put.calls == 0


def test_a_state_whose_slot_others_have_taken_is_sent_again(cpu: OnnxEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "device_users_max", 6)
    encoder = opened("cpu")
    hidden = np.zeros((20, WIDTH), np.float32)
    kept = np.zeros(20, np.int64)
    rng = np.random.default_rng(3)
    for seed in range(40):
        users = rng.permutation(20)[: rng.integers(1, 4)]
        packed = jobs_of([1] * len(users), seed, hidden[users])._replace(kept=kept[users])
        expected = cpu.advance(packed._replace(kept=None))
        assert_alike(encoder.advance(packed), expected)
        hidden[users], kept[users] = expected[0], packed.kept


def test_names_of_before_the_sessions_were_made_anew_are_not_known(encoder: OnnxEncoder) -> None:
    first, other = jobs_of([1, 1]), jobs_of([1, 1], 1)
    encoder.advance(first)
    encoder.reopen()
    encoder.advance(other)
    put = watch(encoder, "_put")
    encoder.advance(jobs_of([1, 1], 2)._replace(kept=first.kept))
    assert put.calls == 1


def test_a_call_that_fails_changes_nothing(cpu: OnnxEncoder, encoder: OnnxEncoder) -> None:
    packed = jobs_of([1, 2, 100])
    hidden, _ = encoder.advance(packed)
    before = packed.kept.copy()
    following = jobs_of([1, 200, 1], 1, np.full((3, WIDTH), np.nan, np.float32))._replace(kept=packed.kept)
    step = watch(encoder, "_step")
    step.fails_from = step.calls + 3  # in a later round of the second user
    with pytest.raises(RuntimeError, match="the device is lost"):
        encoder.advance(following)
    assert (packed.kept == before).all()
    step.fails_from = None
    again = encoder.advance(following._replace(hidden=hidden))
    assert_alike(again, cpu.advance(following._replace(hidden=hidden, kept=None)))


def test_a_cpu_that_goes_on_leaves_no_name_of_the_state_before(cpu: OnnxEncoder, encoder: OnnxEncoder) -> None:
    packed = jobs_of([1, 1])
    encoder.advance(packed)
    cpu.advance(packed)
    assert (packed.kept == 0).all()


class Repeating:
    """A session as CUDA's that captures: a thread's first call with a graph's number is done three times."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self._captured: set[tuple[int, str]] = set()

    def run_with_iobinding(self, binding: Any, options: Any) -> None:
        graph = (threading.get_ident(), options.get_run_config_entry("gpu_graph_id"))
        for _ in range(1 if graph in self._captured else 3):
            self._session.run_with_iobinding(binding, options)
        self._captured.add(graph)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)


def test_a_call_that_is_repeated_while_its_graph_is_captured_counts_once(cpu: OnnxEncoder) -> None:
    encoder = opened("cpu")
    advance: Any = encoder._sessions.advance
    advance._step = Repeating(advance._step)
    first = jobs_of([1, 2, 90])
    encoder.advance(first)
    expected, _ = cpu.advance(first._replace(kept=None))
    following = jobs_of([2, 1, 70], 1, np.full((3, WIDTH), np.nan, np.float32))._replace(kept=first.kept)
    with ThreadPoolExecutor(1) as other_thread:
        found = other_thread.submit(encoder.advance, following).result()
    assert_alike(found, cpu.advance(following._replace(hidden=expected, kept=None)))


def test_what_cannot_be_captured_is_launched_operation_by_operation(
    cpu: OnnxEncoder, caplog: pytest.LogCaptureFixture
) -> None:
    encoder = opened("cpu")
    advance: Any = encoder._sessions.advance

    class Refusing(Repeating):
        def run_with_iobinding(self, binding: Any, options: Any) -> None:
            if options.get_run_config_entry("gpu_graph_id") != "-1":
                raise RuntimeError("operation not permitted when stream is capturing")
            self._session.run_with_iobinding(binding, options)

    advance._step = Refusing(advance._step)
    packed = jobs_of([1, 2])
    assert_alike(encoder.advance(packed), cpu.advance(packed._replace(kept=None)))
    encoder.advance(packed)
    assert caplog.text.count("cannot be captured") == 1


def test_one_size_is_bound_once(encoder: OnnxEncoder) -> None:
    encoder.advance(jobs_of([1] * 5))
    step = watch(encoder, "_step")
    encoder.advance(jobs_of([1] * 60))
    assert step.calls == 1
    encoder.advance(jobs_of([1] * 64))
    assert step.calls == 3  # 64 events and one that fills up: another size, whose first call is nobody's


def test_lists_of_a_device_are_the_same(cpu: OnnxEncoder, encoder: OnnxEncoder) -> None:
    vectors = np.random.default_rng(2).standard_normal((5, 64)).astype(np.float32)
    best = encoder.item_at(int(encoder.top_k(vectors, 1)[1][0, 0]))
    try:
        for each in (encoder, cpu):
            each.set_rule(best, False, 0.0)
        for theirs, ours in zip(encoder.top_k(vectors, 20), cpu.top_k(vectors, 20), strict=True):
            np.testing.assert_allclose(theirs, ours, rtol=1e-5)
        assert encoder.row_of(best) not in encoder.top_k(vectors, 20)[1]
    finally:
        cpu.set_rule(best, True, 0.0)


def test_batches_through_the_core_leave_the_same_states(cpu: OnnxEncoder, encoder: OnnxEncoder) -> None:
    items = [encoder.item_at(row) for row in range(1, 30)]
    encoder.influences(np.array([1]))  # made by steps of the encoder's own
    put = watch(encoder, "_put")
    cores = [Core(each) for each in (cpu, encoder)]
    rng = np.random.default_rng(5)
    offset = 0
    for batch in range(12):
        events = []
        for _ in range(20):
            time_ms = 1_000_000 * batch + int(rng.integers(900_000))
            if rng.random() < 0.05:
                time_ms -= 3_000_000  # goes into the history, which is encoded anew
            events.append(record(offset, f"user-{rng.integers(8)}", items[rng.integers(29)], max(time_ms, 0)))
            offset += 1
        for core in cores:
            core.run(chunk(0, 0, events))
    assert put.calls == 0
    for user, state in cores[0].states.items():
        other = cores[1].states[user]
        assert other.kept != 0
        assert state.kept == 0
        assert state.hidden is not None and other.hidden is not None
        np.testing.assert_allclose(other.hidden, state.hidden, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("blocks", [1, 3])
def test_a_model_of_other_blocks_comes_to_the_float64_full_pass(blocks: int) -> None:
    pytest.importorskip("onnx")
    weights, channels = random_weights(blocks)
    embeddings = np.random.default_rng(1).standard_normal((9, 8)).astype(np.float32)
    states = 2 * channels * blocks
    providers = ["CPUExecutionProvider"]
    step = sessions.open_session(onnxruntime, step_graph(weights, decay_of(weights, blocks)), providers, 1)
    put = sessions.open_session(onnxruntime, put_graph(states), providers, 1)
    held = sessions.on_device(onnxruntime, embeddings, "cpu")
    advance = DeviceAdvance(onnxruntime, step, put, held, "cpu", nullcontext())
    rng = np.random.default_rng(2)
    inputs = rng.integers(0, [[9], [3], [GAP_BUCKETS]], size=(3, 100))
    hidden = np.zeros((1, states), np.float32)
    for start, end in ((0, 1), (1, 3), (3, 99), (99, 100)):
        packed = PackedJobs(hidden, *inputs[:, start:end], np.array([end - start]))
        hidden, vectors = advance(packed)
        expected = full_pass(weights, blocks, embeddings, inputs[:, :end])[-1]
        assert np.abs(vectors[0] - expected).max() <= 1e-5


def random_weights(blocks: int, width: int = 8, channels: int = 4) -> tuple[Weights, int]:
    draw = np.random.default_rng(blocks).standard_normal
    shapes: dict[str, tuple[int, ...]] = {"type_embeddings": (3, width), "gap_embeddings": (GAP_BUCKETS, width)}
    shapes |= {"norm.scale": (width,), "norm.bias": (width,)}
    for block in range(blocks):
        shapes |= {f"{block}.{norm}.{part}": (width,) for norm in ("norm1", "norm2") for part in ("scale", "bias")}
        for name, rows, columns in (
            ("b", width, 2 * channels),
            ("c", 2 * channels, width),
            ("w1", width, 4 * width),
            ("w2", 4 * width, width),
        ):
            shapes |= {f"{block}.{name}.weight": (rows, columns), f"{block}.{name}.bias": (columns,)}
    weights = {name: (0.3 * draw(shape)).astype(np.float32) for name, shape in shapes.items()}
    for block in range(blocks):
        modulus, phase = np.linspace(0.2, 0.995, channels), np.linspace(0, 3, channels)
        weights[f"{block}.decay_real"] = (modulus * np.cos(phase)).astype(np.float32)
        weights[f"{block}.decay_imaginary"] = (modulus * np.sin(phase)).astype(np.float32)
    return weights, channels


class FakeRuntime:
    """In the place of ``onnxruntime``: says what sessions were asked for, and refuses to capture."""

    class SessionOptions:
        def add_session_config_entry(self, _key: str, _value: str) -> None: ...

    def __init__(self, *, captures: bool) -> None:
        self._captures = captures
        self.asked: list[Any] = []
        self.falls_back: set[int] = set()

    def InferenceSession(  # noqa: N802  # its name
        self, _model: bytes, _options: Any, *, providers: Any, enable_fallback: int
    ) -> str:
        self.asked.append(providers)
        self.falls_back.add(enable_fallback)
        if not self._captures and "enable_cuda_graph" in str(providers):
            raise RuntimeError("not all nodes are on CUDA")
        return "session"


@pytest.mark.parametrize(("captures", "asked"), [(True, ["1"]), (False, ["1", None])])
def test_cuda_is_asked_to_capture_and_never_to_round_factors(
    captures: bool, asked: list[str | None], caplog: pytest.LogCaptureFixture
) -> None:
    fake = FakeRuntime(captures=captures)
    wanted = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    assert sessions.open_session(fake, b"", wanted, 1, "a graph", captures=True) == "session"
    options = [dict(providers[0][1]) for providers in fake.asked]
    assert [each.get("enable_cuda_graph") for each in options] == asked
    assert all(each["use_tf32"] == "0" for each in options)
    assert ("to be captured" in caplog.text) is not captures
    assert fake.falls_back == {0}


@pytest.mark.parametrize(("providers", "error"), [("auto", None), ("cuda", "out of memory")])
def test_a_gpu_that_cannot_be_had_is_done_without_unless_it_was_asked_for(
    providers: Providers, error: str | None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    wanted = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(runtime, "_wanted_providers", lambda _ort, _providers: wanted)
    open_session, opened_on = sessions.open_session, list[list[str]]()

    def opens(ort: Any, model: bytes, providers: list[str], *rest: Any, **more: Any) -> Any:
        opened_on.append(providers)
        if providers == wanted:
            raise ModelError("out of memory")
        return open_session(ort, model, providers, *rest, **more)

    monkeypatch.setattr(runtime, "open_session", opens)
    if error:
        with pytest.raises(ModelError, match=error):
            OnnxEncoder(providers=providers)
        return
    assert OnnxEncoder(providers=providers).provider == "CPUExecutionProvider"
    assert opened_on == [wanted, *[["CPUExecutionProvider"]] * 4]
    assert "CUDA cannot be used, lists are made on the CPU: out of memory" in caplog.text
