"""What a GPU runs comes to what the CPU comes to. On the CPU device everywhere, on CUDA where there is one."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from models import sessions
from models.device import DeviceAdvance
from models.device_graphs import USER_ROWS, step_graph
from models.errors import ModelError
from models.export import decay_of, full_pass
from models.onnx_graph import Weights
from models.runtime import OnnxEncoder, Providers
from models.slots import SCRATCH
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
        self.is_broken = False

    def run_with_iobinding(self, *arguments: Any) -> None:
        self.calls += 1
        if self.is_broken:
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
    assert_alike(encoder.advance(packed), cpu.advance(packed))


def test_states_that_are_there_do_not_travel(cpu: OnnxEncoder, encoder: OnnxEncoder) -> None:
    put = watch(encoder, "_put")
    first = jobs_of([3, 1, 70])
    expected, _ = cpu.advance(first)
    encoder.advance(first)
    assert (first.kept != 0).all()
    assert put.calls == 1
    unread = np.full((3, WIDTH), np.nan, np.float32)
    following = jobs_of([1, 2, 1], 1, unread)._replace(kept=first.kept)
    assert_alike(encoder.advance(following), cpu.advance(following._replace(hidden=expected)))
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
        users = rng.permutation(20)[: rng.integers(1, 7)]
        packed = jobs_of([1] * len(users), seed, hidden[users])._replace(kept=kept[users])
        expected = cpu.advance(packed)
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


def test_a_call_that_fails_names_nothing(encoder: OnnxEncoder) -> None:
    packed = jobs_of([1, 2])
    encoder.advance(packed)
    before = packed.kept.copy()
    step = watch(encoder, "_step")
    step.is_broken = True
    with pytest.raises(RuntimeError, match="the device is lost"):
        encoder.advance(packed)
    assert (packed.kept == before).all()
    step.is_broken = False
    put = watch(encoder, "_put")
    encoder.advance(packed)
    assert put.calls == 1  # what the failed call left in the slots is not trusted


def test_what_captures_a_graph_is_done_to_nobody(encoder: OnnxEncoder) -> None:
    advance = encoder._sessions.advance
    assert isinstance(advance, DeviceAdvance)
    call = advance._new_call(64, 128)
    users = call.users.numpy()
    assert (users[USER_ROWS.index("target")] == SCRATCH).all()
    hold = advance._hold.numpy()
    assert not hold[0].any()


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
    onnxruntime: Any = pytest.importorskip("onnxruntime")
    weights, channels = random_weights(blocks)
    embeddings = np.random.default_rng(1).standard_normal((9, 8)).astype(np.float32)
    states = 2 * channels * blocks
    providers = ["CPUExecutionProvider"]
    from models.device_graphs import put_graph

    step = sessions.open_session(onnxruntime, step_graph(weights, decay_of(weights, blocks)), providers, 1)
    put = sessions.open_session(onnxruntime, put_graph(states), providers, 1)
    held = sessions.on_device(onnxruntime, embeddings, "cpu")
    advance = DeviceAdvance(onnxruntime, step, put, held, "cpu")
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

    def InferenceSession(self, _model: bytes, _options: Any, *, providers: Any, **_more: Any) -> str:  # noqa: N802  # its name
        self.asked.append(providers)
        if not self._captures and "enable_cuda_graph" in str(providers):
            raise RuntimeError("not all nodes are on CUDA")
        return "session"


@pytest.mark.parametrize(("captures", "asked"), [(True, ["1"]), (False, ["1", None])])
def test_cuda_is_asked_to_capture_and_never_to_round_factors(
    captures: bool, asked: list[str | None], caplog: pytest.LogCaptureFixture
) -> None:
    runtime = FakeRuntime(captures=captures)
    wanted = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    assert sessions.open_session(runtime, b"", wanted, 1, "a graph", captures=True) == "session"
    options = [dict(providers[0][1]) for providers in runtime.asked]
    assert [each.get("enable_cuda_graph") for each in options] == asked
    assert all(each["use_tf32"] == "0" for each in options)
    assert ("cannot capture" in caplog.text) is not captures
