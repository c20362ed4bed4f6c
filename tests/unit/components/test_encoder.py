"""The encoder component is the served encoder: the last vector of a full pass, times the item matrix."""

import numpy as np
import pytest

from models.components.encoder import SPECS, EncoderScores
from models.fitted import Setting
from models.leave_one_out import GAP_FED, TYPE_FED
from models.runtime import DEFAULT_ARTEFACT, OnnxEncoder
from operators.candidates.component import Histories
from operators.interest import step


def test_scores_are_those_of_stepping_through_the_history() -> None:
    encoder = OnnxEncoder(DEFAULT_ARTEFACT, providers="cpu")
    ids = ["", *(encoder.item_at(row) for row in (900, 5, 77, 3))]
    component = SPECS[0].build(Setting(5, ids, encoder=DEFAULT_ARTEFACT))
    assert isinstance(component, EncoderScores)
    scores = component.scores(Histories.of([[1, 2, 4], [3]]))
    for history, line in (([900, 5, 3], scores[0]), ([77], scores[1])):
        hidden = np.zeros((1, encoder.hidden_width), np.float32)
        vector = np.zeros((1, encoder.vector_width), np.float32)
        for row in history:
            hidden, vector = step(encoder, hidden, np.array([row]), np.array([TYPE_FED]), np.array([GAP_FED]))
        expected = encoder.embeddings(np.array([900, 5, 77, 3])) @ vector[0] + encoder.item_bias[[900, 5, 77, 3]]
        assert line[1:] == pytest.approx(expected, abs=1e-4)


def test_without_an_artefact_it_says_what_it_needs() -> None:
    assert "--encoder" in SPECS[0].missing(Setting(5, ["", "1"]))
