import json
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")

from models import train as train_module  # noqa: E402
from models.checkpoints import load_checkpoint, save_checkpoint  # noqa: E402
from models.errors import ModelError  # noqa: E402
from models.export import ExportConfig, export  # noqa: E402
from models.leave_one_out import GAP_FED, PROTOCOL, TYPE_FED, Interactions, score_users  # noqa: E402
from models.next_item import NextItemTask  # noqa: E402
from models.packing import pack  # noqa: E402
from models.recipes import recipe  # noqa: E402
from models.runtime import OnnxEncoder  # noqa: E402
from models.train import TrainConfig, TrainingResult, build, train  # noqa: E402
from operators.interest import Job, refresh  # noqa: E402


def walkers(users: int = 120, items: int = 30) -> Interactions:
    """Everybody goes three items on from the last one, around a circle, and sometimes jumps."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(3, 25, users)
    steps = np.where(rng.random(int(lengths.sum())) < 0.1, rng.integers(1, items, int(lengths.sum())), 3)
    rows = np.cumsum(steps) % items + 1
    return Interactions(
        [str(u) for u in range(users)], ["", *map(str, range(1, items + 1))], np.cumsum([0, *lengths]), rows
    )


def config(out_dir: Path, **settings: object) -> TrainConfig:
    base = TrainConfig(
        out_dir,
        epochs=6,
        learning_rate=0.02,
        width=16,
        channels=16,
        dropout=0.1,
        average_steps=20,
        task={"dataset": "ml1m"},
        progress=False,
    )
    return replace(base, **settings)


def task() -> NextItemTask:
    return NextItemTask(walkers(), window_events=10, batch_events=150, positions_share=0.9)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> TrainingResult:
    return train(config(tmp_path_factory.mktemp("run")), task(), echo=lambda line: None)


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(checkpoint)["model"]


def test_it_learns_and_the_artefact_scores_what_training_said(trained: TrainingResult, tmp_path: Path) -> None:
    assert trained.validation.hit_rate > 0.8  # one item of thirty is almost certain; ten are a third by chance
    made = export(ExportConfig(trained.checkpoint, tmp_path / "artefact"), echo=lambda line: None)
    assert made.evaluations[0].ndcg_at_10 == round(trained.validation.ndcg, 4)
    assert made.evaluations[0].protocol == PROTOCOL
    assert made.training_command == "headwater train ml1m --data FILE --seed 0 --out DIR"
    encoder, data = OnnxEncoder(tmp_path / "artefact", providers="cpu"), walkers()
    assert [encoder.item_at(row) for row in (1, 30)] == ["1", "30"]

    def score(users: np.ndarray) -> np.ndarray:
        jobs = []
        for user in users:
            rows = data.rows[data.offsets[user] : data.ends("validation")[user]].tolist()
            jobs.append(Job(None, rows, [TYPE_FED] * len(rows), [GAP_FED] * len(rows)))
        return refresh(encoder, jobs)[1] @ encoder.embeddings(np.arange(31)).T + encoder.item_bias

    assert score_users(data, "validation", score).ndcg == pytest.approx(trained.validation.ndcg, abs=1e-4)


def test_a_checkpoint_without_a_protocol_is_of_a_leave_one_out_file(trained: TrainingResult, tmp_path: Path) -> None:
    made = export(ExportConfig(trained.checkpoint, tmp_path / "artefact"), echo=lambda line: None)
    saved = load_checkpoint(trained.checkpoint)
    del saved["protocol"], saved["arguments"]
    save_checkpoint(tmp_path / "best.pt", saved)
    assert export(ExportConfig(tmp_path / "best.pt", tmp_path / "other"), echo=lambda line: None) == made


def test_no_batch_shows_or_asks_for_a_held_out_item() -> None:
    data = walkers()
    held_out = {*(data.offsets[1:] - 1).tolist(), *(data.offsets[1:] - 2).tolist()}
    named = replace(data, rows=np.arange(len(data.rows)))  # every event an item of its own
    mine = NextItemTask(named, window_events=10, batch_events=150, positions_share=1.0)
    rng = np.random.default_rng(1)
    seen: list[int] = []
    for chosen in mine.plan(rng):
        batch = mine.batch(chosen, rng)
        assert len(batch.waves) <= 10
        assert (batch.pair_row == batch.rows[batch.places] + 1).all()
        seen += batch.pair_row.tolist()
    first = set(data.offsets[:-1].tolist())
    assert sorted(seen) == sorted(set(range(len(data.rows))) - held_out - first)  # each other event is a target once


def test_refitting_learns_from_the_validation_targets_and_keeps_the_last_epoch(tmp_path: Path) -> None:
    settings, _ = recipe("ml1m", Path("f"), refit=True)
    assert (settings.validate_epochs, settings.task["held_out_events"]) == (0, 1)
    assert settings.arguments == "ml1m --data FILE --refit --epochs 16"
    data = walkers()
    named = replace(data, rows=np.arange(len(data.rows)))
    mine = NextItemTask(named, window_events=10, batch_events=150, positions_share=1.0, held_out_events=1)
    rng = np.random.default_rng(1)
    seen = {row for chosen in mine.plan(rng) for row in mine.batch(chosen, rng).pair_row.tolist()}
    assert set((data.offsets[1:] - 2).tolist()) <= seen
    assert not set((data.offsets[1:] - 1).tolist()) & seen
    done = train(config(tmp_path, epochs=2, validate_epochs=0), task(), echo=lambda line: None)
    assert done.validation is None
    average = load_checkpoint(tmp_path / "last.pt")["average"]
    assert all(torch.equal(weights(done.checkpoint)[name], average[name]) for name in average)


@pytest.mark.parametrize("model", ["gru4rec", "sasrec"])
def test_rivals_learn_in_the_same_loop_and_are_not_exported(model: str, tmp_path: Path) -> None:
    settings = config(tmp_path, model=model, test=True, task={"dataset": "ml1m", "window_events": 10}, epochs=12)
    done = train(settings, task(), echo=lambda line: None)
    assert done.test.hit_rate > 0.8
    with pytest.raises(ModelError, match=f"holds a {model}, which has no step to export"):
        export(ExportConfig(done.checkpoint, tmp_path / "artefact"))


@pytest.mark.parametrize("model", ["gru4rec", "sasrec"])
def test_rivals_see_neither_the_future_nor_a_neighbour(model: str) -> None:
    torch.manual_seed(0)
    rival = build(config(Path(), model=model, task={"window_events": 10}), 31).eval()
    layout = pack(np.array([0, 9]), np.array([9, 5]))
    rows = torch.randint(1, 31, (14,))
    changed = torch.where(torch.from_numpy((layout.sequence == 0) & (layout.step == 4)), rows % 30 + 1, rows)
    zeros = torch.zeros_like(rows)
    with torch.no_grad():
        moved = (rival(rows, zeros, zeros, layout.waves) - rival(changed, zeros, zeros, layout.waves)).abs().amax(dim=1)
    assert ((moved > 1e-6).numpy() == ((layout.sequence == 0) & (layout.step >= 4))).all()


class StopError(Exception):
    """The kill."""


def test_a_run_killed_in_the_middle_of_an_epoch_ends_where_an_uninterrupted_one_does(
    trained: TrainingResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    update, calls = train_module._update, []

    def dies(*given: object) -> float:
        calls.append(0)
        if len(calls) == 20:
            raise StopError
        return update(*given)

    monkeypatch.setattr(train_module, "_update", dies)
    with pytest.raises(StopError):
        train(config(tmp_path, checkpoint_s=0.0), task(), echo=lambda line: None)
    saved = load_checkpoint(tmp_path / "last.pt")["run"]
    assert saved["updates"] == 19
    assert saved["step"] > 0
    said: list[str] = []
    result = train(config(tmp_path, resume=True), task(), echo=said.append)
    assert said[0] == f"resuming after epoch {saved['epoch']}, batch {saved['step']}"
    one, other = weights(trained.checkpoint), weights(result.checkpoint)
    assert all(torch.equal(one[name], other[name]) for name in one)
    losses = [[json.loads(line)["loss"] for line in r.curve.read_text().splitlines()] for r in (trained, result)]
    assert losses[0] == losses[1]


def test_another_seed_is_another_model(trained: TrainingResult, tmp_path: Path) -> None:
    other = train(config(tmp_path, seed=1), task(), echo=lambda line: None)
    assert not torch.equal(weights(trained.checkpoint)["bias"], weights(other.checkpoint)["bias"])


def test_the_curve_is_lines_and_a_picture(trained: TrainingResult) -> None:
    lines = [json.loads(line) for line in trained.curve.read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3, 4, 5, 6]
    batches = [len(task().plan(np.random.default_rng([0, epoch]))) for epoch in range(6)]
    assert [line["updates"] for line in lines] == np.cumsum(batches).tolist()  # each batch of each plan once
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert max(line["validation"]["ndcg"] for line in lines) == trained.validation.ndcg
    picture = ElementTree.fromstring(trained.picture.read_text())  # noqa: S314 (our own file)
    points = [line.get("points", "").split() for line in picture.iter("{http://www.w3.org/2000/svg}polyline")]
    assert [len(line) for line in points] == [6, 6]


def test_it_stops_when_validation_does(tmp_path: Path) -> None:
    said: list[str] = []
    still = train(config(tmp_path, learning_rate=0.0, epochs=50, patience_epochs=2), task(), echo=said.append)
    assert still.epochs == 3
    assert said[-1] == "stopping: no better epoch in 2"


def test_resuming_another_configuration_is_refused(trained: TrainingResult, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="was trained with another learning_rate"):
        train(config(trained.checkpoint.parent, resume=True, learning_rate=0.5), task(), echo=lambda line: None)
    with pytest.raises(ModelError, match=r"no checkpoint at .*last.pt; run `headwater train` first"):
        train(config(tmp_path, resume=True), task(), echo=lambda line: None)


def test_rivals_are_as_wide_as_where_they_were_published() -> None:
    widths = [recipe("ml1m", Path("f"), model=model)[0].width for model in ("lru", "sasrec", "gru4rec")]
    assert widths == [128, 64, 64]
    assert recipe("ml1m", Path("f"), model="sasrec", width=32)[0].width == 32


def test_recipes_say_which_file_they_want() -> None:
    with pytest.raises(ModelError, match="ml1m is read from a file; give it with --data"):
        recipe("ml1m", None)
    with pytest.raises(ModelError, match="complete-journey is read from its package; leave --data out"):
        recipe("complete-journey", Path("x"))
    with pytest.raises(ModelError, match="sasrec reads windows, and complete-journey is trained on whole histories;"):
        recipe("complete-journey", None, model="sasrec")


class Trap:
    """Pickled, it would run code of its writer when read."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path("trapped"),)


def test_a_checkpoint_with_code_in_it_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"model": Trap()}, tmp_path / "best.pt")
    with pytest.raises(ModelError, match="is not a checkpoint of this program"):
        load_checkpoint(tmp_path / "best.pt")
    assert not (tmp_path / "trapped").exists()


def test_a_start_from_co_occurrence_is_better_than_a_random_one(tmp_path: Path) -> None:
    losses = []
    for start in ("random", "co-occurrence"):
        done = train(config(tmp_path / start, start=start, epochs=1), task(), echo=lambda line: None)
        losses.append(json.loads(done.curve.read_text())["loss"])
    assert losses[1] < losses[0]
