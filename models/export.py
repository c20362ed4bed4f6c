"""Checkpoint to artefact (``headwater export``)."""

import importlib
import json
import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.compress import compress
from models.dataset import COMPLETE_JOURNEY
from models.device_graphs import put_graph, step_graph
from models.errors import ModelError
from models.evaluate import evaluate
from models.graphs import rank_graph, stage_graph
from models.leave_one_out import PROTOCOL
from models.manifest import (
    BIAS_FILE,
    DECAY_FILE,
    DEVICE_PUT_FILE,
    DEVICE_STEP_FILE,
    EMBEDDINGS_FILE,
    FORMAT,
    LOG_FILE,
    RANK_FILE,
    VOCABULARY_FILE,
    Evaluation,
    Manifest,
    hash_files,
    load_manifest,
    model_files,
    stage_files,
    version_of,
    write_manifest,
)
from models.onnx_graph import Weights
from models.precision import Precision
from models.runtime import OnnxEncoder
from operators.interest import EVENT_TYPES, GAP_BUCKETS, Job, refresh

__all__ = ["PARITY_MAX", "ExportConfig", "export", "fold", "full_pass"]

PARITY_MAX: Final = 1e-5
"""Largest difference between the exported step and the float64 full pass."""
NORM_EPSILON: Final = 1e-5


@dataclass(frozen=True, slots=True)
class ExportConfig:
    """What to export, and what the manifest says of it."""

    source: Path
    """A checkpoint, or the directory of a model to compress."""
    out_dir: Path
    evaluate: bool = True
    """Put validation and test metrics into the manifest of a Complete Journey model; others get those of training."""
    precision: Precision = "fp32"


def export(config: ExportConfig, echo: Callable[[str], None] = print) -> Manifest:
    """Write the artefact to ``out_dir``, replacing one that is there only when the new one is complete and checked.

    Raises:
        ModelError: the source is unusable, the graph differs from the float64 pass by more than ``PARITY_MAX``, or
            the lists of ``precision`` differ too much from those of float32.
    """
    is_model = config.source.is_dir()
    if is_model and config.precision == "fp32":
        raise ModelError(f"{config.source} is a model already; say how to compress it with --precision")
    config.out_dir.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=config.out_dir.parent, prefix=".export-") as scratch:
        made = config.source if is_model else Path(scratch) / "artefact"
        manifest = load_manifest(made) if is_model else _write(config.source, made, echo)
        if config.precision != "fp32":
            made, source = Path(scratch) / "compressed", made
            made.mkdir()
            manifest = compress(source, made, config.precision)
        if config.evaluate and manifest.dataset.startswith(COMPLETE_JOURNEY):
            figures = [*evaluate(made, "validation", echo=echo), *evaluate(made, "test", echo=echo)]
            manifest = msgspec.structs.replace(manifest, evaluations=figures)
            write_manifest(made, manifest)
        _swap(made, config.out_dir, Path(scratch))
    echo(f"{manifest.version} in {config.out_dir}")
    return manifest


def _write(checkpoint: Path, directory: Path, echo: Callable[[str], None]) -> Manifest:
    """The artefact of a checkpoint, in float32 and checked."""
    saved = _load(checkpoint)
    if saved["config"].get("model", "lru") != "lru":
        raise ModelError(f"{checkpoint} holds a {saved['config']['model']}, which has no step to export")
    weights, embeddings, bias = fold(saved["model"])
    blocks = int(saved["config"]["blocks"])
    directory.mkdir()
    for stage, file in enumerate(stage_files(blocks)):
        (directory / file).write_bytes(stage_graph(weights, stage, blocks))
    decay = decay_of(weights, blocks)
    np.save(directory / DECAY_FILE, decay, allow_pickle=False)
    (directory / DEVICE_STEP_FILE).write_bytes(step_graph(weights, decay))
    (directory / DEVICE_PUT_FILE).write_bytes(put_graph(2 * decay.shape[2] * blocks))
    (directory / RANK_FILE).write_bytes(rank_graph(embeddings.shape[1]))
    np.save(directory / EMBEDDINGS_FILE, embeddings, allow_pickle=False)
    np.save(directory / BIAS_FILE, bias, allow_pickle=False)
    (directory / VOCABULARY_FILE).write_bytes(msgspec.json.encode(saved["items"]))
    log = {"config": saved["config"], "epochs": saved["log"]}
    (directory / LOG_FILE).write_text(json.dumps(log, indent=1) + "\n", encoding="utf-8")
    files = hash_files(directory, (*model_files(blocks), LOG_FILE))
    dataset = str(saved["config"]["task"]["dataset"])
    name = f"lru-{dataset}"
    manifest = Manifest(
        format=FORMAT,
        name=name,
        version=version_of(name, files),
        items=len(embeddings),
        vector_width=embeddings.shape[1],
        hidden_width=2 * blocks * len(weights["0.decay_real"]),
        blocks=blocks,
        event_types=EVENT_TYPES,
        gap_buckets=GAP_BUCKETS,
        files=files,
        dataset=dataset,
        training_command=_command(dataset, saved.get("arguments", ""), int(saved["config"]["seed"])),
        seed=int(saved["config"]["seed"]),
        evaluations=_of_training(dataset, saved.get("protocol", PROTOCOL), saved["log"]),
    )
    write_manifest(directory, manifest)
    echo(f"parity with the float64 pass: {check_parity(directory, weights, embeddings, blocks):.1e}")
    return manifest


def _load(checkpoint: Path) -> dict[str, Any]:
    try:
        importlib.import_module("onnx")
        checkpoints: Any = importlib.import_module("models.checkpoints")
    except ImportError as error:
        raise ModelError(f"export needs {error.name}; install the extra: pip install 'headwater[train]'") from error
    return checkpoints.load_checkpoint(checkpoint)


def _command(dataset: str, arguments: str, seed: int) -> str:
    arguments = arguments or (dataset if dataset == COMPLETE_JOURNEY else f"{dataset} --data FILE")
    return f"headwater train {arguments} --seed {seed} --out DIR"


def _of_training(dataset: str, protocol: str, log: list[dict[str, Any]]) -> list[Evaluation]:
    """What the exported weights scored when they were chosen; a sample of Complete Journey is left to ``evaluate``."""
    best = log[-1].get("validation")
    if dataset == COMPLETE_JOURNEY or best is None:
        return []
    figures = (round(best[name], 4) for name in ("ndcg", "hit_rate", "recall"))
    return [Evaluation("validation", protocol, "encoder", *figures, baskets=best["baskets"])]


def fold(state: dict[str, Any]) -> tuple[Weights, NDArray[np.float32], NDArray[np.float32]]:
    """Torch weights -> those of ``stage_graph`` and eigenvalues, item embeddings (N, D), biases (N,), all float32.

    Eigenvalues are computed once, gamma goes into B, and matrices are laid out as (in, out).
    """
    wide = {name: np.asarray(value, np.float64) for name, value in state.items()}
    folded: dict[str, NDArray[np.float64]] = {
        "type_embeddings": wide["types.weight"],
        "gap_embeddings": wide["gaps.weight"],
        "norm.scale": wide["norm.weight"],
        "norm.bias": wide["norm.bias"],
    }
    for block in range(1 + max(int(name.split(".")[1]) for name in wide if name.startswith("blocks."))):
        unit, here = f"blocks.{block}.unit.", f"blocks.{block}."
        memory = np.exp(wide[unit + "memory_low"] + wide[unit + "memory_span"] / (1 + np.exp(-wide[unit + "memory"])))
        modulus = 1 - 1 / memory
        gamma = np.tile(np.sqrt(1 - modulus**2 + 1e-6), 2)  # (2H,)
        folded |= {
            f"{block}.decay_real": modulus * np.cos(wide[unit + "phase"]),
            f"{block}.decay_imaginary": modulus * np.sin(wide[unit + "phase"]),
            f"{block}.b.weight": (wide[unit + "b.weight"] * gamma[:, None]).T,
            f"{block}.b.bias": wide[unit + "b.bias"] * gamma,
            f"{block}.c.weight": wide[unit + "c.weight"].T,
            f"{block}.c.bias": wide[unit + "c.bias"],
        }
        for name in ("w1", "w2"):
            folded[f"{block}.{name}.weight"] = wide[f"{here}{name}.weight"].T
            folded[f"{block}.{name}.bias"] = wide[f"{here}{name}.bias"]
        for name in ("norm1", "norm2"):
            folded[f"{block}.{name}.scale"] = wide[f"{here}{name}.weight"]
            folded[f"{block}.{name}.bias"] = wide[f"{here}{name}.bias"]
    weights = {name: value.astype(np.float32) for name, value in folded.items()}
    return weights, wide["items.weight"].astype(np.float32), wide["bias"].astype(np.float32)


def decay_of(weights: Weights, blocks: int) -> NDArray[np.float32]:
    """Eigenvalues (blocks, 2, H), real parts first."""
    return np.array([[weights[f"{block}.decay_{part}"] for part in ("real", "imaginary")] for block in range(blocks)])


def full_pass(
    weights: Weights, blocks: int, embeddings: NDArray[np.float32], inputs: NDArray[np.int64]
) -> NDArray[np.float64]:
    """The whole of one history in float64: inputs (3, T) rows, types, gaps -> vectors (T, D).

    Solves each unit by explicit powers of the complex eigenvalues, not by stepping.
    """
    w = {name: value.astype(np.float64) for name, value in weights.items()}
    rows, types, gaps = inputs
    x = _norm(embeddings[rows].astype(np.float64) + w["type_embeddings"][types] + w["gap_embeddings"][gaps], w, "norm")
    steps = np.arange(len(rows))
    lag = steps[:, None] - steps  # (T, T)
    for block in range(blocks):
        decay = w[f"{block}.decay_real"] + 1j * w[f"{block}.decay_imaginary"]
        real, imaginary = np.split(x @ w[f"{block}.b.weight"] + w[f"{block}.b.bias"], 2, axis=1)  # (T, H) each
        powers = np.where(lag[:, :, None] >= 0, decay ** np.maximum(lag, 0)[:, :, None], 0)  # (T, T, H)
        h = np.einsum("tsh,sh->th", powers, real + 1j * imaginary)  # (T, H)
        y = np.concatenate([h.real, h.imag], axis=1) @ w[f"{block}.c.weight"] + w[f"{block}.c.bias"]  # (T, D)
        z = _norm(x + y, w, f"{block}.norm1")
        wide = z @ w[f"{block}.w1.weight"] + w[f"{block}.w1.bias"]  # (T, 4D)
        gelu = 0.5 * wide * (1 + np.vectorize(math.erf)(wide / math.sqrt(2)))
        x = _norm(z + gelu @ w[f"{block}.w2.weight"] + w[f"{block}.w2.bias"], w, f"{block}.norm2")
    return x


def check_parity(artefact: Path, weights: Weights, embeddings: NDArray[np.float32], blocks: int) -> float:
    """Largest difference of the vectors of random histories, on the CPU and as on a device, from ``full_pass``.

    Raises:
        ModelError: the difference is over ``PARITY_MAX``.
    """
    encoders = [OnnxEncoder(artefact, providers="cpu", as_device=as_device) for as_device in (False, True)]
    rng = np.random.default_rng(0)
    worst = 0.0
    for _ in range(4):
        inputs = rng.integers(0, [[len(embeddings)], [len(EVENT_TYPES)], [GAP_BUCKETS]], size=(3, 96))
        expected = full_pass(weights, blocks, embeddings, inputs)
        for end in (1, 2, 50, 96):
            for encoder in encoders:
                _, vectors = refresh(encoder, [Job(None, *inputs[:, :end])])
                worst = max(worst, float(np.abs(vectors[0] - expected[end - 1]).max()))
    if not worst <= PARITY_MAX:
        raise ModelError(f"the exported step differs from the float64 pass by {worst:.1e} (at most {PARITY_MAX})")
    return worst


def _norm(x: NDArray[np.float64], w: dict[str, NDArray[np.float64]], name: str) -> NDArray[np.float64]:
    centred = x - x.mean(axis=-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + NORM_EPSILON)
    return scaled * w[f"{name}.scale"] + w[f"{name}.bias"]


def _swap(new: Path, target: Path, scratch: Path) -> None:
    if target.exists():
        target.rename(scratch / "replaced")
    new.rename(target)
