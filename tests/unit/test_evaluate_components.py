"""models.evaluate_components: a whole evaluation on a tiny file, honest about what it chose on."""

import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import orjson
import pytest

from models import evaluate_components as module
from models.components import specs
from models.errors import ModelError
from models.evaluate_components import FUSION, Protocol, Row, Trial, evaluate_components, item_texts
from models.fitted import Setting, Spec, varied
from models.held_out import ranks_of
from models.manifest import EMBEDDINGS_FILE, VOCABULARY_FILE, hash_files, load_manifest, version_of, write_manifest
from models.metrics import gains
from models.runtime import DEFAULT_ARTEFACT
from operators.candidates.component import Component, Histories
from streams.cli import run

COMPONENTS = ("co-visitation", "ease", "popularity")


@pytest.fixture
def chain(tmp_path: Path) -> Path:
    """120 users who walk the items 1 to 30 in their order, each from a place of its own."""
    rng = np.random.default_rng(0)
    walks = [[1 + (start + n) % 30 for n in range(length)] for start, length in rng.integers(5, 20, (120, 2))]
    path = tmp_path / "chain.txt"
    path.write_text("".join(f"{n} {' '.join(map(str, walk))}\n" for n, walk in enumerate(walks)))
    return path


@pytest.fixture
def noise(tmp_path: Path) -> Path:
    """60 users who walk a few of the items 1 to 20 in an order of their own."""
    rng = np.random.default_rng(0)
    walks = [(1 + rng.permutation(20)[:length]).tolist() for length in rng.integers(5, 12, 60)]
    path = tmp_path / "noise.txt"
    path.write_text("".join(f"{n} {' '.join(map(str, walk))}\n" for n, walk in enumerate(walks)))
    return path


def test_every_component_and_the_fusion_have_a_row(chain: Path) -> None:
    report = evaluate_components(Trial("ml1m", chain, components=COMPONENTS))
    rows = {row.component: row for row in report.results}
    assert set(rows) == {*COMPONENTS, FUSION}
    assert rows["co-visitation"].hr10 == 1.0
    assert rows["co-visitation"].ndcg10 > 0.9
    assert rows["popularity"].ndcg10 < 0.8
    assert rows[FUSION].ndcg10 > 0.9
    for row in report.results:
        assert row.ndcg10_ci[0] <= row.ndcg10 <= row.ndcg10_ci[1]
    assert report.users == 120
    assert report.items == 30


def test_the_test_items_change_no_choice(chain: Path) -> None:
    before = evaluate_components(Trial("ml1m", chain, components=COMPONENTS))
    lines = [line.split() for line in chain.read_text().splitlines()]
    drawn = np.random.default_rng(1).integers(1, 31, len(lines))  # no option is best for these and for the walks
    others = [[*line[:-1], str(item)] for line, item in zip(lines, drawn, strict=True)]
    chain.write_text("".join(" ".join(line) + "\n" for line in others))
    after = evaluate_components(Trial("ml1m", chain, components=COMPONENTS))
    chosen = [{row.component: (row.options_seeds, row.validation_ndcg10) for row in r.results} for r in (before, after)]
    assert chosen[0] == chosen[1]
    assert {row.component: row.ndcg10 for row in before.results} != {row.component: row.ndcg10 for row in after.results}


def by_hand(noise: Path, row: Row, held_out: int) -> float:
    """Test NDCG@10 of the component of the row, fitted on all but the last ``held_out`` items of every user."""
    walks = [[int(item) for item in line.split()[1:]] for line in noise.read_text().splitlines()]
    (spec,) = (spec for spec in specs() if spec.name == row.component)
    component = varied(spec.build(Setting(21, ["", *map(str, range(1, 21))])), row.options_seeds[0])
    component.fit(Histories.of([walk[: len(walk) - held_out] for walk in walks]))
    asked, targets = Histories.of([walk[:-1] for walk in walks]), np.array([walk[-1] for walk in walks])
    return round(float(gains(ranks_of(component.scores, asked, targets), 10).mean()), 4)


@pytest.mark.parametrize(("protocol", "held_out"), [("strict", 2), ("refit", 1)])
def test_what_is_judged_has_learned_what_its_protocol_allows_and_no_more(
    noise: Path, protocol: Protocol, held_out: int
) -> None:
    report = evaluate_components(Trial("ml1m", noise, components=COMPONENTS, protocol=protocol))
    rows = [row for row in report.results if row.component != FUSION]
    assert {row.component for row in rows} == {*COMPONENTS}
    for row in rows:
        figures = [by_hand(noise, row, events) for events in range(3)]
        assert row.ndcg10 == figures[held_out]
        assert len({*figures}) == 3


def test_refit_learns_its_weights_from_components_that_have_not_seen_the_validation_items(noise: Path) -> None:
    strict, refit = (
        next(row for row in evaluate_components(trial).results if row.component == FUSION)
        for trial in (Trial("ml1m", noise, components=COMPONENTS, protocol=p) for p in ("strict", "refit"))
    )
    assert strict.options_seeds == refit.options_seeds
    assert strict.validation_ndcg10 == refit.validation_ndcg10 > 0
    assert strict.ndcg10 != refit.ndcg10


@dataclass
class Slow(Component):
    """Takes long to learn what is right, and no time to learn what is wrong."""

    fits: list[tuple[bool, int]]
    right: bool = True

    def fit(self, histories: Histories) -> None:
        self.fits.append((self.right, len(histories.rows)))
        time.sleep(0.3 if self.right else 0)

    def scores(self, users: Histories) -> np.ndarray:
        scores = np.zeros((users.users, 31), np.float32)
        scores[np.arange(users.users), 1 + users.newest(1)[:, 0] % 30] = 1 if self.right else -1
        return scores


def test_each_fit_is_made_once_and_the_time_is_that_of_the_chosen_one(
    chain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fits: list[tuple[bool, int]] = []
    slow = Spec("slow", lambda _: Slow(fits), fitting=({"right": True}, {"right": False}))
    popular = next(spec for spec in specs() if spec.name == "popularity")
    monkeypatch.setattr(module, "specs", lambda: [slow, popular])
    report = evaluate_components(Trial("ml1m", chain, protocol="refit"))
    events = sum(len(line.split()) - 1 for line in chain.read_text().splitlines())
    assert fits == [(True, events - 2 * 120), (False, events - 2 * 120), (True, events - 120)]
    rows = {row.component: row for row in report.results}
    assert set(rows) == {"slow", "popularity", FUSION}
    assert rows["slow"].options_seeds == ({"right": True},)
    assert rows["slow"].fit_s >= 0.3


def encoder_of_seed(directory: Path, seed: int) -> Path:
    """A model of the items 1 to 30 that says it was trained with ``seed``: the bundled one with its vectors turned."""
    shutil.copytree(DEFAULT_ARTEFACT, directory)
    known = load_manifest(directory)
    names = ["", *map(str, range(1, known.items))]
    (directory / VOCABULARY_FILE).write_bytes(msgspec.json.encode(names))
    vectors = np.load(directory / EMBEDDINGS_FILE)
    np.save(directory / EMBEDDINGS_FILE, np.roll(vectors, seed, axis=0))
    files = hash_files(directory, tuple(known.files))
    version = version_of(known.name, files)
    write_manifest(directory, msgspec.structs.replace(known, files=files, version=version, seed=seed))
    return directory


def test_several_encoders_are_seeds_of_one_row(chain: Path, tmp_path: Path) -> None:
    artefacts = [encoder_of_seed(tmp_path / str(seed), seed) for seed in (7, 3)]
    components = ("encoder", "co-visitation")

    def rows(*encoders: Path) -> dict[str, Row]:
        return {row.component: row for row in evaluate_components(trial(*encoders)).results}

    def trial(*encoders: Path) -> Trial:
        return Trial("ml1m", chain, encoders=encoders, components=components)

    alone = [rows(artefact) for artefact in artefacts]
    report = evaluate_components(trial(*artefacts))
    assert report.seeds == [7, 3]
    for row in report.results:
        each = [one[row.component] for one in alone]
        assert row.ndcg10 == pytest.approx(np.mean([one.ndcg10 for one in each]), abs=1e-4)
        assert row.hr10 == pytest.approx(np.mean([one.hr10 for one in each]), abs=1e-4)
        assert row.ndcg10_ci[0] <= row.ndcg10 <= row.ndcg10_ci[1]
        if row.component != FUSION:  # its weights are learned from another sample of the users for each seed
            assert row.ndcg10_seeds == tuple(one.ndcg10 for one in each)
            assert row.hr10_seeds == tuple(one.hr10 for one in each)
            assert row.options_seeds == tuple(one.options_seeds[0] for one in each)
    (fused,) = (row for row in report.results if row.component == FUSION)
    assert fused.options_seeds[0] == alone[0][FUSION].options_seeds[0] != fused.options_seeds[1]
    assert len({one["encoder"].ndcg10 for one in alone}) == 2
    assert len({one["co-visitation"].ndcg10 for one in alone}) == 1


def test_encoders_that_are_not_one_a_seed_are_refused(chain: Path, tmp_path: Path) -> None:
    artefact = encoder_of_seed(tmp_path / "five", 5)
    with pytest.raises(ModelError, match=r"the encoders are of seeds \[5, 5\]; train one a seed"):
        evaluate_components(Trial("ml1m", chain, encoders=(artefact, artefact)))
    with pytest.raises(ModelError, match="3 seeds need as many encoders, not 1; give --encoder once a seed"):
        evaluate_components(Trial("ml1m", chain, encoders=(artefact,), seeds=3))


def test_a_refitted_encoder_is_judged_and_the_other_one_chooses(chain: Path, tmp_path: Path) -> None:
    strict, refitted = (encoder_of_seed(tmp_path / str(seed), seed) for seed in (7, 3))

    def rows(encoder: Path, *refit: Path) -> dict[str, Row]:
        components = ("encoder", "co-visitation", "popularity")
        trial = Trial("ml1m", chain, None, (encoder,), refit, components, "refit")
        return {row.component: row for row in evaluate_components(trial).results}

    both, as_trained, other = rows(strict, refitted), rows(strict), rows(refitted)
    assert both["encoder"].validation_ndcg10 == as_trained["encoder"].validation_ndcg10
    assert both["encoder"].validation_ndcg10 != other["encoder"].validation_ndcg10
    assert both["encoder"].ndcg10 == other["encoder"].ndcg10
    assert both["encoder"].ndcg10 != as_trained["encoder"].ndcg10
    assert (both["encoder"].protocol, as_trained["encoder"].protocol) == ("refit", "as trained")
    assert (both[FUSION].protocol, as_trained[FUSION].protocol) == ("refit", "refit, the encoder as trained")
    assert both["co-visitation"].protocol == as_trained["co-visitation"].protocol == "refit"
    assert both[FUSION].options_seeds == as_trained[FUSION].options_seeds
    assert both[FUSION].options_seeds != other[FUSION].options_seeds
    assert both["co-visitation"].ndcg10 == as_trained["co-visitation"].ndcg10


def test_a_refitted_encoder_needs_the_protocol_and_the_encoder_that_chooses(chain: Path) -> None:
    refused = [Trial("ml1m", chain, None, (chain,), (chain,)), Trial("ml1m", chain, None, (), (chain,), (), "refit")]
    for trial in refused:
        with pytest.raises(ModelError, match="under --protocol refit only, one beside each --encoder"):
            evaluate_components(trial)


def test_the_command_ends_with_one_line_of_json(chain: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["evaluate", "ml1m", "--data", str(chain), "--components", "popularity,co-visitation", "--json"]) == 0
    captured = capsys.readouterr()
    report = orjson.loads(captured.out.splitlines()[-1])
    assert {"dataset", "protocol", "seeds", "results"} <= set(report)
    assert {"component", "hr10", "ndcg10", "ndcg10_ci"} <= set(report["results"][0])
    assert "co-visitation" in captured.err


def test_unknown_and_lacking_components_are_one_clear_line(chain: Path) -> None:
    with pytest.raises(ModelError, match="no component 'magic'; there are co-visitation, content"):
        evaluate_components(Trial("ml1m", chain, components=("magic",)))
    with pytest.raises(ModelError, match="'content' needs texts of the items"):
        evaluate_components(Trial("ml1m", chain, components=("content",)))


def test_texts_come_by_item_number(tmp_path: Path) -> None:
    path = tmp_path / "items.tsv"
    path.write_text("item\ttitle\tgenres\n2\tHeat (1995)\tAction|Crime\n9\tbeyond\t\n")
    assert item_texts(path, 4) == ["", "", "Heat (1995) Action Crime", ""]
    path.write_text("item\ttitle\nHeat\t2\n")
    with pytest.raises(ModelError, match="line 2: expected an item number"):
        item_texts(path, 4)


def test_every_component_has_a_name_of_its_own_and_a_test_file() -> None:
    names = [spec.name for spec in specs()]
    assert len(names) == len(set(names))
    here = Path(__file__).parent / "components"
    modules = (Path(__file__).parents[2] / "models" / "components").glob("[a-z]*.py")
    assert all((here / f"test_{module.name}").is_file() for module in modules)
