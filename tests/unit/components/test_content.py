"""Content finds what is described alike."""

import importlib.util
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from models.components.content import LANGUAGE_PACKAGE, SPECS, Content, language_vectors, tfidf_vectors
from models.fitted import Setting
from operators.candidates.component import Histories

TEXTS = ["", "space war film", "romantic comedy", "space war sequel", "documentary of bees", ""]


def test_the_item_described_alike_is_first() -> None:
    component = Content(tfidf_vectors(TEXTS))
    scores = component.scores(Histories.of([[1], [4, 3], []]))
    assert scores[0].argsort()[::-1][:2].tolist() == [1, 3]
    assert scores[1, 3] > scores[1, 4] > 0
    assert not scores[2].any()
    assert not scores[:, [0, 5]].any()


def test_scores_are_decayed_inner_products() -> None:
    vectors = np.random.default_rng(0).standard_normal((6, 3)).astype(np.float32)
    scores = Content(vectors, decay=0.5).scores(Histories.of([[2, 4, 1]]))
    expected = vectors @ (0.25 * vectors[2] + 0.5 * vectors[4] + vectors[1])
    assert scores[0] == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_without_texts_it_says_what_it_needs() -> None:
    for spec in SPECS:
        assert "--items" in spec.missing(Setting(6, TEXTS))


def test_an_empty_text_is_like_nothing_whatever_the_language_model_says(monkeypatch: pytest.MonkeyPatch) -> None:
    def encode(texts: list[str], *, normalize_embeddings: bool) -> np.ndarray:
        assert normalize_embeddings
        return np.ones((len(texts), 4)) / 2  # a real model has a vector for nothing, too

    model = SimpleNamespace(load_model=lambda device: SimpleNamespace(encode=encode))
    monkeypatch.setitem(sys.modules, LANGUAGE_PACKAGE, model)
    vectors = language_vectors(TEXTS)
    assert vectors.any(axis=1).tolist() == [bool(text) for text in TEXTS]


@pytest.mark.skipif(importlib.util.find_spec(LANGUAGE_PACKAGE) is None, reason="the extra `language` is not installed")
def test_the_language_model_needs_no_word_in_common() -> None:
    vectors = language_vectors(["", "a war between starships", "a love story", "an interstellar battle"])
    assert vectors[1] @ vectors[3] > vectors[2] @ vectors[3]
    assert not vectors[0].any()
