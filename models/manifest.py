"""manifest.json: what a model artefact is, and the hashes of its files."""

import hashlib
from pathlib import Path
from typing import Annotated, Final

import msgspec

from models.errors import ModelError
from models.precision import Precision
from operators.interest import EVENT_TYPES, GAP_BUCKETS
from operators.wire import UNDECODABLE

__all__ = [
    "BIAS_FILE",
    "DECAY_FILE",
    "DEVICE_PUT_FILE",
    "DEVICE_STEP_FILE",
    "EMBEDDINGS_FILE",
    "FORMAT",
    "FUSION_FILE",
    "LOG_FILE",
    "RANK_FILE",
    "SHORTLIST_FILE",
    "VOCABULARY_FILE",
    "Evaluation",
    "Manifest",
    "hash_files",
    "load_artefact",
    "load_manifest",
    "model_files",
    "stage_files",
    "version_of",
    "write_manifest",
]

MANIFEST_FILE: Final = "manifest.json"
DECAY_FILE: Final = "decay.npy"
RANK_FILE: Final = "rank.onnx"
DEVICE_STEP_FILE: Final = "device_step.onnx"
DEVICE_PUT_FILE: Final = "device_put.onnx"
SHORTLIST_FILE: Final = "device_shortlist.onnx"
"""Of a model in fp16, in the place of ``RANK_FILE`` on a device."""
EMBEDDINGS_FILE: Final = "item_embeddings.npy"
BIAS_FILE: Final = "item_bias.npy"
VOCABULARY_FILE: Final = "vocabulary.json"
LOG_FILE: Final = "training.json"
FUSION_FILE: Final = "fusion.json"
"""Weights of the parts of a list; a model may come without."""
FORMAT: Final = 4


class Evaluation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Metrics of one ranker on one split; ``protocol`` says in words what was ranked against what."""

    split: str
    protocol: str
    ranker: str
    ndcg_at_10: float
    hit_rate_at_10: float
    recall_at_10: float
    baskets: int


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The contents of manifest.json."""

    format: int
    name: str
    version: str
    """Derived from the hashes of the model's files: another weight or item is another version."""
    items: int
    """Rows of the item matrix (N), with row 0 for every item outside the vocabulary."""
    vector_width: int
    hidden_width: int
    blocks: Annotated[int, msgspec.Meta(ge=1)]
    """Recurrent units, one behind the other; ``hidden`` is theirs in this order."""
    event_types: tuple[str, ...]
    gap_buckets: int
    files: dict[str, str]
    """File name -> SHA-256 in hexadecimal."""
    dataset: str
    training_command: str
    seed: int
    precision: Precision = "fp32"
    """Of the item matrix, and of the encoder as far as `models.compress` says."""
    evaluations: list[Evaluation] = []


def stage_files(blocks: int) -> tuple[str, ...]:
    """The files of ``models.graphs.stage_graph``, in order."""
    return tuple(f"stage_{stage}.onnx" for stage in range(blocks + 1))


def model_files(blocks: int) -> tuple[str, ...]:
    """The files that every model of so many blocks has."""
    of_encoder = (*stage_files(blocks), DECAY_FILE, DEVICE_STEP_FILE, DEVICE_PUT_FILE)
    return (*of_encoder, RANK_FILE, EMBEDDINGS_FILE, BIAS_FILE, VOCABULARY_FILE)


def hash_files(directory: Path, names: tuple[str, ...]) -> dict[str, str]:
    """SHA-256 of each file of ``directory``.

    Raises:
        ModelError: a file is missing.
    """
    return {name: hashlib.sha256(_read(directory / name)).hexdigest() for name in names}


def version_of(name: str, files: dict[str, str]) -> str:
    """Name and twelve digits over the hashes of what makes vectors and scores."""
    text = "\n".join(f"{file} {files[file]}" for file in sorted(files.keys() - {LOG_FILE, FUSION_FILE}))
    return f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Write manifest.json, readable and with a stable order."""
    text = msgspec.json.format(msgspec.json.encode(manifest), indent=1)
    (directory / MANIFEST_FILE).write_bytes(text + b"\n")


def load_manifest(directory: Path) -> Manifest:
    """The manifest of an artefact, all of whose files are as it says; raises as ``load_artefact`` does."""
    return load_artefact(directory)[0]


def load_artefact(directory: Path) -> tuple[Manifest, dict[str, bytes]]:
    """Read manifest.json and every file it names, and verify them before any of them is parsed.

    Returns the manifest, and the very bytes that were hashed by file name: a file that is replaced afterwards is
    never read again.

    Raises:
        ModelError: a file is missing or altered, or the model was made for other inputs than this program's.
    """
    path = directory / MANIFEST_FILE
    try:
        manifest = msgspec.json.decode(_read(path), type=Manifest)
    except UNDECODABLE as error:
        raise ModelError(f"{path} is not a manifest ({error}); {_FIX}") from error
    if manifest.format != FORMAT:
        raise ModelError(f"{path} has format {manifest.format}, expected {FORMAT}; {_FIX}")
    for name in (*model_files(manifest.blocks), *((SHORTLIST_FILE,) if manifest.precision == "fp16" else ())):
        if name not in manifest.files:
            raise ModelError(f"{path} does not list {name}; {_FIX}")
    contents: dict[str, bytes] = {}
    for name, expected in manifest.files.items():
        if Path(name).name != name:
            raise ModelError(f"{path} names {name!r}, which is not a plain file name; {_FIX}")
        contents[name] = _read(directory / name)
        actual = hashlib.sha256(contents[name]).hexdigest()
        if actual != expected:
            raise ModelError(f"{directory / name} is altered: SHA-256 expected {expected}, actual {actual}; {_FIX}")
    derived = version_of(manifest.name, manifest.files)
    if manifest.version != derived:
        raise ModelError(f"{path} has version {manifest.version}, but its files make {derived}; {_FIX}")
    _check("event types", list(EVENT_TYPES), list(manifest.event_types), path)
    _check("gap buckets", GAP_BUCKETS, manifest.gap_buckets, path)
    return manifest, contents


_FIX: Final = "export the model again with `headwater export`, or restore the directory"


def _check(what: str, expected: object, actual: object, path: Path) -> None:
    if expected != actual:
        raise ModelError(f"{path}: this program has {what} {expected}, the model {actual}; train and export it again")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ModelError(f"cannot read {path} ({error.strerror}); {_FIX}") from error
