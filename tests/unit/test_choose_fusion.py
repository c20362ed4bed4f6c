"""Choosing the weights of the live fusion from figures that are made up, and putting them beside a model."""

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from models.choose_fusion import GAIN_MIN, choose, variants, write_fusion
from models.runtime import OnnxEncoder
from operators.fusion import CoVisitationWeights, Fusion
from operators.ranking import Policy

ARTEFACT = Path(__file__).parents[2] / "models" / "artefact"


def chosen(gains: dict[str, float]) -> Fusion:
    """By figures of .2 for every variant, plus the gain of its kind; the second of a kind has the most."""
    tried = variants(Policy())
    seen: dict[str, int] = {}
    results: list[Any] = []
    for name, (fusion, _) in tried.items():
        weights = fusion.covisitation
        kind = "plain" if weights is None else "known" if weights.new_items is None else "new"
        seen[kind] = seen.get(kind, 0) + 1
        results.append(SimpleNamespace(ranker=name, ndcg10=0.2 + gains[kind] - (0 if seen[kind] == 2 else 1e-3)))
    return choose(tried, results, "made-up")


def kind_of(fusion: Fusion) -> tuple[bool, bool]:
    weights = fusion.covisitation
    return weights is not None, weights is not None and weights.new_items is not None


@pytest.mark.parametrize(
    ("known", "new", "expected"),
    [
        (0.0, 0.0, (False, False)),
        (GAIN_MIN * 0.9, GAIN_MIN * 0.9, (False, False)),
        (GAIN_MIN * 1.1, GAIN_MIN * 1.2, (True, False)),
        (GAIN_MIN * 1.1, GAIN_MIN * 2.2, (True, True)),
        (0.0, GAIN_MIN * 1.1, (True, True)),
    ],
)
def test_a_part_is_switched_on_where_it_gains_enough(known: float, new: float, expected: tuple[bool, bool]) -> None:
    fusion = chosen({"plain": 0.0, "known": known, "new": new})
    assert kind_of(fusion) == expected
    assert "made-up" in (fusion.chosen_on or "")


def test_the_best_of_its_kind_is_taken() -> None:
    assert chosen({"plain": 0.0, "known": 0.0, "new": 0.0}).repeat_weight == 1.0


def test_a_variant_is_tried_under_the_policy_that_has_it_and_no_repeats_where_seen_items_are_dropped() -> None:
    for fusion, policy in variants(Policy()).values():
        assert (policy.repeat_weight, policy.covisitation) == (fusion.repeat_weight, fusion.covisitation)
    assert {fusion.repeat_weight for fusion, _ in variants(Policy(seen_items="drop")).values()} == {0.0}


def test_a_model_keeps_its_version_and_serves_the_weights_that_were_put_beside_it(tmp_path: Path) -> None:
    artefact = tmp_path / "artefact"
    shutil.copytree(ARTEFACT, artefact)
    fusion = Fusion(repeat_weight=1.5, covisitation=CoVisitationWeights(weight=1.0, scale=10.0), chosen_on="a test")
    write_fusion(artefact, fusion)
    written = OnnxEncoder(artefact, providers="cpu")
    assert written.fusion == fusion
    assert written.version == OnnxEncoder(ARTEFACT, providers="cpu").version
