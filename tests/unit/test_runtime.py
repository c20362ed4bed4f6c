import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.advance import Advance
from models.errors import ModelError
from models.manifest import load_artefact, load_manifest, model_files, stage_files, version_of
from models.runtime import DEFAULT_ARTEFACT, OnnxEncoder
from operators import limits
from operators.interest import EVENT_TYPES, GAP_BUCKETS, OUT_OF_VOCABULARY, Encoder, Job, refresh, step


@pytest.fixture(scope="module")
def encoder() -> OnnxEncoder:
    return OnnxEncoder(providers="cpu")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(DEFAULT_ARTEFACT, tmp_path / "artefact"))


def random_inputs(encoder: OnnxEncoder, shape: tuple[int, ...], seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, high, shape) for high in (encoder.manifest.items, len(EVENT_TYPES), GAP_BUCKETS)]


def run(encoder: OnnxEncoder, inputs: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Inputs (B, T) each -> hidden after the last step (B, S), vectors (B, T, D)."""
    hidden = np.zeros((len(inputs[0]), encoder.hidden_width), np.float32)
    vectors = []
    for t in range(inputs[0].shape[1]):
        hidden, vector = step(encoder, hidden, *(column[:, t] for column in inputs))
        vectors.append(vector)
    return hidden, np.stack(vectors, axis=1)


def float64_pass(artefact: Path, embeddings: np.ndarray, inputs: list[np.ndarray]) -> np.ndarray:
    """The model as its page describes it, on the graph's own constants: rows, types, gaps (T,) -> vectors (T, D)."""
    onnx = pytest.importorskip("onnx")
    graphs = [onnx.load(str(artefact / name)).graph for name in stage_files(2)]
    constants = [constant for graph in graphs for constant in graph.initializer]
    w: dict[str, Any] = {t.name: onnx.numpy_helper.to_array(t).astype(np.float64) for t in constants}
    decays = np.load(artefact / "decay.npy").astype(np.float64)

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        x = x - x.mean(-1, keepdims=True)
        return x / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * w[name + ".scale"] + w[name + ".bias"]

    rows, types, gaps = inputs
    x = norm(embeddings[rows] + w["type_embeddings"][types] + w["gap_embeddings"][gaps], "norm")
    for block, (real, imaginary) in zip("01", decays, strict=True):
        decay = real + 1j * imaginary
        u = x @ w[block + ".b.weight"] + w[block + ".b.bias"]
        h, states = np.zeros(len(decay), complex), []
        for line in u:
            h = decay * h + line[: len(decay)] + 1j * line[len(decay) :]
            states.append(np.r_[h.real, h.imag])
        z = norm(x + np.array(states) @ w[block + ".c.weight"] + w[block + ".c.bias"], block + ".norm1")
        wide = z @ w[block + ".w1.weight"] + w[block + ".w1.bias"]
        wide *= 0.5 * (1 + np.vectorize(math.erf)(wide / math.sqrt(2)))
        x = norm(z + wide @ w[block + ".w2.weight"] + w[block + ".w2.bias"], block + ".norm2")
    return x


def test_it_is_an_encoder(encoder: OnnxEncoder) -> None:
    typed: Encoder = encoder
    assert (typed.hidden_width, typed.vector_width) == (512, 64)
    assert typed.version == load_manifest(DEFAULT_ARTEFACT).version
    assert encoder.manifest.items == 13_343 + 1


def test_the_artefact_is_small_and_reports_itself(encoder: OnnxEncoder) -> None:
    assert sum(path.stat().st_size for path in DEFAULT_ARTEFACT.iterdir()) <= 12 * 1024 * 1024
    manifest = encoder.manifest
    seen = {(e.split, e.ranker) for e in manifest.evaluations}
    assert seen >= {(s, r) for s in ("validation", "test") for r in ("encoder", "popularity", "personal frequency")}
    assert all(e.protocol and e.baskets > 1000 for e in manifest.evaluations)
    assert manifest.training_command
    assert manifest.dataset


def test_stepping_is_the_float64_full_pass_and_gives_the_same_list(encoder: OnnxEncoder) -> None:
    inputs = random_inputs(encoder, (6, 120))
    _, vectors = run(encoder, inputs)
    matrix = encoder.embeddings(np.arange(encoder.manifest.items)).astype(np.float64)
    bias = encoder.item_bias.astype(np.float64)
    compared = 0
    for line in range(6):
        expected = float64_pass(DEFAULT_ARTEFACT, matrix, [column[line] for column in inputs])
        assert np.abs(vectors[line] - expected).max() <= 1e-5
        for t in range(0, 120, 7):
            scores = matrix @ expected[t] + bias
            best = np.argsort(-scores)[:11]
            if -np.diff(scores[best]).max() < 1e-4 or (-np.diff(scores[best]) < 1e-4).any():
                continue  # a tie within float32
            compared += 1
            assert encoder.top_k(vectors[line, t][None], 10)[1][0].tolist() == best[:10].tolist()
    assert compared > 50


def test_a_step_does_not_depend_on_who_else_is_in_the_batch(encoder: OnnxEncoder) -> None:
    inputs = random_inputs(encoder, (70, 30), seed=1)
    hidden, vectors = run(encoder, inputs)
    for members in ([0], [69], list(range(5)), list(range(33, 50))):
        alone = run(encoder, [column[members] for column in inputs])
        assert np.abs(alone[0] - hidden[members]).max() <= 1e-6 * max(1, np.abs(hidden).max())
        assert np.abs(alone[1] - vectors[members]).max() <= 1e-6 * max(1, np.abs(vectors).max())


def test_users_of_any_number_of_events_in_one_call_come_to_the_float64_full_pass(encoder: OnnxEncoder) -> None:
    lengths = [3, 1, 60, 17, 1, 60, 2, 33]
    histories = [random_inputs(encoder, (length,), seed=n) for n, length in enumerate(lengths)]
    embeddings = np.load(DEFAULT_ARTEFACT / "item_embeddings.npy").astype(np.float64)
    expected = [float64_pass(DEFAULT_ARTEFACT, embeddings, history)[-1] for history in histories]
    _, vectors = refresh(encoder, [Job(None, *history) for history in histories])
    assert np.abs(vectors - expected).max() <= 1e-5
    halves = [length // 2 for length in lengths]
    started = [n for n, half in enumerate(halves) if half]
    firsts = [Job(None, *(column[: halves[n]] for column in histories[n])) for n in started]
    hidden = dict(zip(started, refresh(encoder, firsts)[0], strict=True))
    rests = [Job(hidden.get(n), *(column[half:] for column in histories[n])) for n, half in enumerate(halves)]
    assert np.abs(refresh(encoder, rests)[1] - expected).max() <= 1e-5


class Counted:
    """The last stage's session; notes the users of each call."""

    def __init__(self, session: Any, users: list[int]) -> None:
        self._session, self._users = session, users

    def run(self, outputs: Any, inputs: Any) -> Any:
        self._users.append(len(inputs["places"]))
        return self._session.run(outputs, inputs)


def test_calls_of_a_few_events_each_come_to_the_same(encoder: OnnxEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = [3, 1, 60, 17, 1, 8, 2, 33]
    rng = np.random.default_rng(4)
    jobs = [
        Job(rng.standard_normal(512, np.float32), *random_inputs(encoder, (length,), seed=n))
        for n, length in enumerate(lengths)
    ]
    hidden, vectors = refresh(encoder, jobs)
    monkeypatch.setattr(limits, "encoder_call_events_max", 20)
    parts = list[int]()
    sessions = encoder._sessions
    assert isinstance(sessions.advance, Advance)
    *others, last = sessions.advance.stages
    stages = [*others, Counted(last, parts)]
    monkeypatch.setattr(encoder, "_sessions", sessions._replace(advance=sessions.advance._replace(stages=stages)))
    in_parts = refresh(encoder, jobs)
    assert parts == [2, 1, 4, 1]  # 3 + 1, 60, 17 + 1 + 8 + 2, 33 events
    assert np.abs(in_parts[0] - hidden).max() <= 1e-5
    assert np.abs(in_parts[1] - vectors).max() <= 1e-5


def test_nobody_is_advanced(encoder: OnnxEncoder) -> None:
    none = np.zeros(0, np.int64)
    hidden, vectors = step(encoder, np.zeros((0, 512), np.float32), none, none, none)
    assert (hidden.shape, vectors.shape) == ((0, 512), (0, 64))


def test_inputs_are_left_alone_and_results_are_the_callers(encoder: OnnxEncoder) -> None:
    hidden = np.ones((9, 512), np.float32)[::3]  # not contiguous
    rows, types, gaps = random_inputs(encoder, (3,))
    first, vectors = step(encoder, hidden, rows, types, gaps)
    kept = first.copy(), vectors.copy()
    step(encoder, first, rows, types, gaps)
    assert (hidden == 1).all()
    assert (first == kept[0]).all()
    assert (vectors == kept[1]).all()
    first[:] = 0  # writable


def test_top_k_is_brute_force_with_withdrawn_items_and_ties(copy: Path) -> None:
    embeddings = np.load(copy / "item_embeddings.npy")
    embeddings[500:503] = embeddings[400]  # four equal items
    bias = np.load(copy / "item_bias.npy")
    bias[500:503] = bias[400]
    np.save(copy / "item_embeddings.npy", embeddings)
    np.save(copy / "item_bias.npy", bias)
    rehash(copy)
    encoder = OnnxEncoder(copy, providers="cpu")
    rng = np.random.default_rng(2)
    vectors = rng.standard_normal((40, 64), np.float32)
    vectors[0] = 30 * embeddings[400]  # the equal items come first
    withdrawn = [3, 700, 13_343]
    for row in withdrawn:
        encoder.set_rule(encoder.item_at(row), False, 0.0)
    scores = vectors.astype(np.float64) @ embeddings.T.astype(np.float64) + bias
    scores[:, [OUT_OF_VOCABULARY, *withdrawn]] = -np.inf
    for k in (1, 10, 150, encoder.manifest.items):
        found, rows = encoder.top_k(vectors, k)
        assert found.shape == rows.shape == (40, k)
        assert (np.diff(found) <= 0).all() if k < encoder.manifest.items else True
        expected = -np.sort(-scores, axis=1)[:, :k]
        finite = np.isfinite(expected)
        assert (np.isfinite(found) == finite).all()
        assert np.abs(found[finite] - expected[finite]).max() < 2e-4
        assert np.abs(np.take_along_axis(scores, rows, axis=1)[finite] - expected[finite]).max() < 2e-4
        assert all(len(set(line)) == k for line in rows.tolist())
    beyond, _ = encoder.top_k(vectors, encoder.manifest.items + 5)
    assert beyond.shape == (40, encoder.manifest.items)
    assert encoder.top_k(vectors[:1], 4)[1][0].tolist() == [400, 500, 501, 502]


def test_withdraw_and_bring_back(copy: Path) -> None:
    encoder = OnnxEncoder(copy, providers="cpu")
    vector = np.random.default_rng(3).standard_normal((1, 64), np.float32)
    before = encoder.top_k(vector, 5)
    best = encoder.item_at(int(before[1][0, 0]))
    encoder.set_rule(best, False, 0.0)
    encoder.set_rule("no such item", False, 0.0)
    assert encoder.top_k(vector, 4)[1][0].tolist() == before[1][0, 1:].tolist()
    encoder.set_rule(best, True, 0.0)
    after = encoder.top_k(vector, 5)
    assert (after[0] == before[0]).all()
    assert (after[1] == before[1]).all()


def test_rows_and_items(encoder: OnnxEncoder) -> None:
    for row in (1, 2, 13_343):
        assert encoder.row_of(encoder.item_at(row)) == row
    assert encoder.items_at(np.array([2, 1])) == encoder.items_at([2, 1]) == [encoder.item_at(2), encoder.item_at(1)]
    assert encoder.items_at([]) == []
    for unknown in ("", "no such item"):
        assert encoder.row_of(unknown) == OUT_OF_VOCABULARY
    encoder.set_rule("", True, 0.0)
    assert np.isneginf(encoder.item_bias[OUT_OF_VOCABULARY])
    assert encoder.embeddings(np.array([[1, 2], [3, 4]])).shape == (2, 2, 64)


def rehash(artefact: Path, **changes: Any) -> None:
    """Make the manifest agree with the files again: the bytes are what they are meant to be."""
    import hashlib

    manifest = json.loads((artefact / "manifest.json").read_text())
    manifest |= changes
    for name in model_files(2):
        manifest["files"][name] = hashlib.sha256((artefact / name).read_bytes()).hexdigest()
    manifest["version"] = version_of(manifest["name"], manifest["files"])
    (artefact / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize("name", [*model_files(2), "training.json"])
def test_an_altered_or_missing_file_is_refused(copy: Path, name: str) -> None:
    data = bytearray((copy / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copy / name).write_bytes(data)
    with pytest.raises(ModelError, match=rf"{name} is altered: SHA-256 expected \w{{64}}, actual \w{{64}}; export"):
        OnnxEncoder(copy)
    (copy / name).unlink()
    with pytest.raises(ModelError, match=rf"cannot read .*{name} \(No such file"):
        OnnxEncoder(copy)


def test_a_file_that_is_replaced_after_its_hash_was_taken_is_not_read(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def replaced(directory: Path) -> Any:
        verified = load_artefact(directory)
        for name in model_files(2):
            (directory / name).write_bytes(b"not what was hashed")
        return verified

    monkeypatch.setattr("models.runtime.load_artefact", replaced)
    assert OnnxEncoder(copy, providers="cpu").version == load_manifest(DEFAULT_ARTEFACT).version


def test_hashes_are_checked_before_anything_is_parsed(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (copy / "item_bias.npy").write_bytes(b"evil")
    monkeypatch.setattr(np, "load", lambda *args, **kwargs: pytest.fail("parsed"))
    monkeypatch.setattr("msgspec.json.decode", _decode_manifest_only(copy))
    with pytest.raises(ModelError, match="altered"):
        OnnxEncoder(copy)


def _decode_manifest_only(copy: Path) -> Any:
    import msgspec

    original = msgspec.json.decode
    manifest = (copy / "manifest.json").read_bytes()

    def decode(data: bytes, **arguments: Any) -> Any:
        assert data == manifest, "parsed another file than the manifest"
        return original(data, **arguments)

    return decode


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"event_types": ["view", "purchase"]}, r"event types \['view', 'click', 'purchase'\], the model \['view'"),
        ({"gap_buckets": 12}, "gap buckets 28, the model 12"),
        ({"format": 7}, "format 7, expected 4"),
        ({"items": 12}, "must hold 12 distinct ids, has 13344"),
        (
            {"vector_width": 32},
            r"item_embeddings.npy is float32 \(13344, 64\), the manifest says float32 \(13344, 32\)",
        ),
        ({"hidden_width": 64}, r"decay.npy is float32 \(2, 2, 128\), the manifest says float32 \(2, 2, 16\)"),
        ({"hidden_width": 514}, "stage_0.onnx: u is 256 wide, the manifest says 257"),
        ({"blocks": 3}, "does not list stage_3.onnx"),
        ({"blocks": 0}, "not a manifest"),
        ({"surprise": 1}, "not a manifest"),
        ({"files": {}}, "does not list stage_0.onnx"),
        ({"version": "other"}, "has version other, but its files make lru"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(copy: Path, changes: dict[str, Any], message: str) -> None:
    manifest = json.loads((copy / "manifest.json").read_text()) | changes
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ModelError, match=message):
        OnnxEncoder(copy)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("stage_1.onnx", b"not a graph", "cannot load .*stage_1.onnx"),
        ("decay.npy", b"not an array", "decay.npy is not a numpy array"),
        ("item_bias.npy", b"not an array", "item_bias.npy is not a numpy array"),
        ("vocabulary.json", b'{"a": 1}', "vocabulary.json is not a list of item ids"),
    ],
)
def test_a_file_that_is_no_model_is_refused(copy: Path, name: str, content: bytes, message: str) -> None:
    (copy / name).write_bytes(content)
    rehash(copy)
    with pytest.raises(ModelError, match=message):
        OnnxEncoder(copy)


def test_pickles_are_not_loaded(copy: Path) -> None:
    np.save(copy / "item_bias.npy", np.array([{"a": 1}], object), allow_pickle=True)
    rehash(copy)
    with pytest.raises(ModelError, match=r"item_bias.npy is not a numpy array \(Object arrays cannot be loaded"):
        OnnxEncoder(copy)


def test_values_that_are_not_finite_are_refused(copy: Path) -> None:
    bias = np.load(copy / "item_bias.npy")
    bias[7] = np.nan
    np.save(copy / "item_bias.npy", bias)
    rehash(copy)
    with pytest.raises(ModelError, match="not finite"):
        OnnxEncoder(copy)


def test_the_provider_is_the_real_one(monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    assert OnnxEncoder(providers="cpu").provider == "CPUExecutionProvider"
    assert OnnxEncoder().provider in ("CPUExecutionProvider", "CUDAExecutionProvider")
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(ModelError, match="CUDA was asked for"):
        OnnxEncoder(providers="cuda")
