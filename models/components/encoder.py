"""The sequence encoder of an artefact, stepped through the histories by the runtime that serves it."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.fitted import Setting, Spec
from models.leave_one_out import GAP_FED, TYPE_FED
from models.runtime import DEFAULT_ARTEFACT, OnnxEncoder
from operators.candidates.component import Component, Histories
from operators.interest import Job, refresh

__all__ = ["SPECS", "EncoderScores"]


@dataclass
class EncoderScores(Component):
    """Scores ``vector @ embedding + bias``; ``rows`` (N,) are the artefact's rows of the evaluation's items."""

    encoder: OnnxEncoder
    rows: NDArray[np.int64]
    event_type: int = TYPE_FED

    def fit(self, histories: Histories) -> None:
        """Nothing: it was trained by ``headwater train``."""

    def scores(self, users: Histories) -> NDArray[np.float32]:
        rows = self.rows[users.rows]
        jobs = [
            Job(None, rows[a:b].tolist(), [self.event_type] * (b - a), [GAP_FED] * (b - a))
            for a, b in pairwise(users.offsets.tolist())
        ]
        _, vectors = refresh(self.encoder, jobs)
        return vectors @ self.encoder.embeddings(self.rows).T + self.encoder.item_bias[self.rows]


def _build(setting: Setting) -> EncoderScores:
    encoder = OnnxEncoder(setting.encoder or DEFAULT_ARTEFACT)
    return EncoderScores(encoder, encoder.rows_of(setting.item_ids))


def _missing(setting: Setting) -> str:
    return "" if setting.encoder is not None else "an artefact of `headwater train` (--encoder DIR)"


SPECS: Final = (Spec("encoder", _build, missing=_missing, seeded=True),)
