"""Models in fewer bits: what is written is what is loaded, and nothing is offered whose lists differ."""

import json
import shutil
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

onnx = pytest.importorskip("onnx")

from models import compress as compress_module  # noqa: E402
from models import half_check  # noqa: E402
from models.compress import OVERLAP_MIN, compress, compression_table, overlap, overlap_in_half  # noqa: E402
from models.errors import ModelError  # noqa: E402
from models.export import ExportConfig, export  # noqa: E402
from models.half_check import lists_in_half  # noqa: E402
from models.manifest import load_manifest, stage_files, version_of, write_manifest  # noqa: E402
from models.precision import Precision, pack_rows, quantized, unpack_rows  # noqa: E402
from models.runtime import DEFAULT_ARTEFACT, OnnxEncoder  # noqa: E402
from operators.interest import Job, pack_jobs, refresh  # noqa: E402


def quiet(_line: str) -> None:
    pass


@pytest.fixture(scope="module")
def reference() -> OnnxEncoder:
    return OnnxEncoder(providers="cpu")


def test_codes_are_nearest_and_no_row_lends_another_its_scale() -> None:
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((40, 16)).astype(np.float32)
    rows[3] *= 1000
    rows[4] = 0
    codes, scales = quantized(rows, axis=1)
    assert (codes.min(), codes.max()) == (-127, 127)
    assert (np.abs(codes * scales - rows) <= scales / 2 * 1.0001).all()
    assert np.abs(unpack_rows(pack_rows(rows, "int8")) - codes * scales).max() == 0
    assert np.abs(unpack_rows(pack_rows(rows, "fp16")) - rows).max() <= np.abs(rows).max() * 2**-11
    assert unpack_rows(pack_rows(rows, "fp32")) is rows


@pytest.mark.parametrize(("precision", "share_max"), [("fp16", 0.52), ("int8", 0.32)])
def test_a_compressed_model_is_small_and_its_lists_are_those_of_float32(
    reference: OnnxEncoder, tmp_path: Path, precision: Precision, share_max: float
) -> None:
    out = tmp_path / "small"
    made = export(ExportConfig(DEFAULT_ARTEFACT, out, evaluate=False, precision=precision), echo=quiet)
    small = OnnxEncoder(out, providers="cpu")
    assert small.manifest.precision == precision
    assert small.version == made.version == version_of(made.name, made.files) != reference.version
    assert made.evaluations == []
    for name in ("item_embeddings.npy", *stage_files(2)):
        before, after = ((directory / name).stat().st_size for directory in (DEFAULT_ARTEFACT, out))
        assert after < before * (share_max if name == "item_embeddings.npy" else 0.55)
    rows = np.arange(1, reference.manifest.items)
    whole, packed = reference.embeddings(rows), small.embeddings(rows)
    error = np.abs(packed - whole).max(axis=1) / np.abs(whole).max(axis=1)
    assert 0 < error.max() <= (0.5 / 127 if precision == "int8" else 2**-11) * 1.001
    assert np.array_equal(reference.item_bias, small.item_bias)
    assert overlap(reference, small) >= OVERLAP_MIN
    assert overlap(reference, reference) == 1.0


def test_eigenvalues_stay_in_float32(tmp_path: Path) -> None:
    (tmp_path / "half").mkdir()
    compress(DEFAULT_ARTEFACT, tmp_path / "half", "fp16")

    def constants(directory: Path) -> dict[str, np.ndarray]:
        graphs = [onnx.load(str(directory / name)).graph for name in stage_files(2)]
        return {tensor.name: onnx.numpy_helper.to_array(tensor) for graph in graphs for tensor in graph.initializer}

    before, after = constants(DEFAULT_ARTEFACT), constants(tmp_path / "half")
    for name in ("0.norm1.scale", "1.b.bias"):
        assert after[name].dtype == np.float32
        assert np.array_equal(before[name], after[name])
    decays = [np.load(directory / "decay.npy") for directory in (DEFAULT_ARTEFACT, tmp_path / "half")]
    assert decays[1].dtype == np.float32
    assert np.array_equal(*decays)
    assert after["1.b.weight.half"].dtype == np.float16
    assert "1.b.weight" not in after


def test_the_products_of_a_gpu_are_in_fp16_where_the_model_is_and_its_lists_in_fp32(
    reference: OnnxEncoder, tmp_path: Path
) -> None:
    kinds = {1: "fp32", 10: "fp16"}
    products: dict[Precision, set[str]] = {}
    for precision in ("fp16", "int8"):
        (tmp_path / precision).mkdir()
        compress(DEFAULT_ARTEFACT, tmp_path / precision, precision)
        model = onnx.shape_inference.infer_shapes(onnx.load(str(tmp_path / precision / "device_step.onnx")))
        types = {value.name: kinds.get(value.type.tensor_type.elem_type) for value in model.graph.value_info}
        products[precision] = {str(types[node.output[0]]) for node in model.graph.node if node.op_type == "Gemm"}
        states = [node.output[0] for node in model.graph.node if node.op_type == "ScatterND"][:-1]
        assert {types[name] for name in states} == {"fp32"}
    assert products == {"fp16": {"fp16"}, "int8": {"fp32"}}
    assert not (tmp_path / "int8" / "device_shortlist.onnx").exists()
    half = OnnxEncoder(tmp_path / "fp16", providers="cpu", as_device=True)
    vectors = np.random.default_rng(4).standard_normal((50, 64)).astype(np.float32)
    exact = vectors.astype(np.float64) @ half.embeddings(np.arange(13_344)).T.astype(np.float64) + half.item_bias
    scores, rows = half.top_k(vectors, 10)
    assert np.abs(scores - np.take_along_axis(exact, rows, axis=1)).max() < 1e-5
    expected = np.argsort(-exact, axis=1)[:, :10]
    assert np.mean([len({*one} & {*other}) for one, other in zip(rows, expected, strict=True)]) >= 9.9
    assert half.top_k(vectors, 13_344)[1].shape == (50, 13_344)


def test_a_model_in_fp16_without_its_shortlist_is_refused(tmp_path: Path) -> None:
    (tmp_path / "half").mkdir()
    made = compress(DEFAULT_ARTEFACT, tmp_path / "half", "fp16")
    files = {name: digest for name, digest in made.files.items() if name != "device_shortlist.onnx"}
    version = version_of(made.name, files)
    write_manifest(tmp_path / "half", msgspec.structs.replace(made, files=files, version=version))
    with pytest.raises(ModelError, match=r"does not list device_shortlist.onnx; export"):
        OnnxEncoder(tmp_path / "half", providers="cpu")


def test_a_model_whose_products_fp16_would_change_is_refused(
    reference: OnnxEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[float] = []

    def changed(*arguments: Any) -> float:
        asked.append(overlap_in_half(*arguments))
        return 0.98

    monkeypatch.setattr(compress_module, "overlap_in_half", changed)
    with pytest.raises(ModelError, match=r"fp16 keeps 0\.9800 of the lists"):
        export(ExportConfig(DEFAULT_ARTEFACT, tmp_path / "out", evaluate=False, precision="fp16"), echo=quiet)
    assert 0.99 < asked[0] < 1.0, "rounded factors change some list"


def test_products_in_fp16_are_those_of_rounded_factors(tmp_path: Path) -> None:
    (tmp_path / "half").mkdir()
    compress(DEFAULT_ARTEFACT, tmp_path / "half", "fp16")
    half = OnnxEncoder(tmp_path / "half", providers="cpu")
    rng = np.random.default_rng(9)
    jobs = [Job(None, rng.integers(1, 13_344, n), np.full(n, 2), np.full(n, 5)) for n in (1, 3, 64)]
    vectors: list[np.ndarray] = []
    run = half_check._run

    def noted(file: Path, outputs: list[str], inputs: dict[str, Any]) -> list[Any]:
        found = run(file, outputs, inputs)
        vectors.append(found[0])
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(half_check, "_run", noted)
        rows = lists_in_half(
            tmp_path / "half", half.embeddings(np.arange(13_344)), half.item_bias, pack_jobs(jobs, 512), 10
        )
    error = np.abs(vectors[0] - refresh(half, jobs)[1]).max()
    assert 1e-4 < error < 2e-2  # of float32 sums of factors with 11 bits; float32 factors would give 1e-6
    assert (rows == half.top_k(vectors[0], 10)[1]).mean() > 0.9


def test_what_would_change_the_lists_is_refused_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compress_module, "_feed_forward", lambda name: name.endswith(".weight"))
    with pytest.raises(ModelError, match=r"int8 keeps 0\.97\d\d of the lists of lru-complete-journey, less than 0.99"):
        export(ExportConfig(DEFAULT_ARTEFACT, tmp_path / "out", evaluate=False, precision="int8"), echo=quiet)
    assert list(tmp_path.iterdir()) == []


def test_a_model_is_compressed_once_and_never_for_nothing(tmp_path: Path) -> None:
    export(ExportConfig(DEFAULT_ARTEFACT, tmp_path / "half", evaluate=False, precision="fp16"), echo=quiet)
    with pytest.raises(ModelError, match="is in fp16 already"):
        export(ExportConfig(tmp_path / "half", tmp_path / "out", evaluate=False, precision="int8"), echo=quiet)
    with pytest.raises(ModelError, match="is a model already; say how to compress it with --precision"):
        export(ExportConfig(tmp_path / "half", tmp_path / "out", evaluate=False), echo=quiet)
    assert [path.name for path in tmp_path.iterdir()] == ["half"]


def test_altered_codes_are_refused(tmp_path: Path) -> None:
    (tmp_path / "small").mkdir()
    compress(DEFAULT_ARTEFACT, tmp_path / "small", "int8")
    path = tmp_path / "small" / "item_embeddings.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"item_embeddings.npy is altered: SHA-256"):
        OnnxEncoder(tmp_path / "small", providers="cpu")


def test_the_table_has_every_precision_and_says_what_is_not_offered(tmp_path: Path) -> None:
    other = Path(shutil.copytree(DEFAULT_ARTEFACT, tmp_path / "other"))
    manifest = msgspec.structs.replace(load_manifest(other), dataset="of somebody")
    write_manifest(other, manifest)
    rows = {row.variant: row for row in compression_table(other)}
    assert list(rows) == ["fp32", "fp16", "int8", "int8, recurrence too"]
    assert (rows["fp32"].overlap10, rows["fp32"].ndcg10) == (1.0, None)
    assert rows["fp32"].bytes > 1.9 * rows["fp16"].bytes > 1.9 * 1.7 * rows["int8"].bytes
    assert {name: row.offered for name, row in rows.items()} == {
        "fp32": True,
        "fp16": True,
        "int8": True,
        "int8, recurrence too": False,
    }
    assert json.loads(msgspec.json.encode(rows["int8"]))["overlap10"] < rows["fp16"].overlap10
