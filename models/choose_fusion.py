"""Weights of the live fusion, chosen on the validation period of a replay and put beside the model."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from models.list_quality import ListQuality
from models.manifest import FUSION_FILE, hash_files, load_manifest, write_manifest
from operators.fusion import CoVisitationWeights, Fusion
from operators.ranking import Policy

__all__ = ["choose", "variants", "write_fusion"]

GAIN_MIN: Final = 5e-4
"""Of NDCG@10, that a part must bring to be switched on: less is noise of the validation users."""
REPEAT_WEIGHTS: Final = (0.0, 1.0, 2.0)
COVISITATION: Final = ((0.5, 100.0), (1.0, 10.0), (1.0, 100.0), (2.0, 10.0))
"""Weight and scale."""
NEW_ITEMS: Final = (None, -2.0, 0.0)


def variants(policy: Policy) -> dict[str, tuple[Fusion, Policy]]:
    """Every fusion that is tried, by a name, with the policy that has it."""
    found: dict[str, tuple[Fusion, Policy]] = {}
    for repeat in REPEAT_WEIGHTS if policy.seen_items == "keep" else (0.0,):
        for weights in (
            None,
            *(CoVisitationWeights(weight=w, scale=s, new_items=n) for w, s in COVISITATION for n in NEW_ITEMS),
        ):
            fusion = Fusion(repeat_weight=repeat, covisitation=weights)
            name = msgspec.json.encode(fusion).decode()
            found[name] = fusion, msgspec.structs.replace(policy, repeat_weight=repeat, covisitation=weights)
    return found


def choose(tried: Mapping[str, tuple[Fusion, Policy]], results: Sequence[ListQuality], source: str) -> Fusion:
    """The best fusion by NDCG@10, with co-visitation and with new items only where each gains ``GAIN_MIN``."""
    scores = {row.ranker: row.ndcg10 for row in results}

    def best(parts: int) -> tuple[float, Fusion]:
        of_parts = [(scores[name], fusion) for name, (fusion, _) in tried.items() if _parts_of(fusion) == parts]
        return max(of_parts, key=lambda pair: pair[0])

    chosen = plain = best(0)
    for parts in (1, 2):
        found = best(parts)
        if found[0] - chosen[0] >= GAIN_MIN:
            chosen = found
    words = f"validation of {source}: NDCG@10 {chosen[0]:.4f}, without co-visitation {plain[0]:.4f}"
    return msgspec.structs.replace(chosen[1], chosen_on=words)


def _parts_of(fusion: Fusion) -> int:
    """0 without co-visitation, 1 with it, 2 where new items come by it too."""
    weights = fusion.covisitation
    return 0 if weights is None else 1 + (weights.new_items is not None)


def write_fusion(artefact: Path, fusion: Fusion) -> None:
    """Put ``fusion`` beside the model and its hash into the manifest; the model's version stays.

    Raises:
        ModelError: there is no model, or it is altered.
    """
    manifest = load_manifest(artefact)
    (artefact / FUSION_FILE).write_bytes(msgspec.json.format(msgspec.json.encode(fusion), indent=1) + b"\n")
    files = manifest.files | hash_files(artefact, (FUSION_FILE,))
    write_manifest(artefact, msgspec.structs.replace(manifest, files=files))
