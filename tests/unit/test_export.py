from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")

from models import export as export_module  # noqa: E402
from models.checkpoints import load_checkpoint  # noqa: E402
from models.dataset import NextBaskets, Purchases, next_baskets, sequences  # noqa: E402
from models.errors import ModelError  # noqa: E402
from models.evaluate import evaluate, score_lists, vectors_before  # noqa: E402
from models.export import ExportConfig, export, fold, full_pass  # noqa: E402
from models.manifest import load_manifest  # noqa: E402
from models.next_basket import NextBasketTask, next_basket_task  # noqa: E402
from models.runtime import OnnxEncoder  # noqa: E402
from models.train import TrainConfig, TrainingResult, build, train  # noqa: E402
from operators.interest import Job, refresh  # noqa: E402

DAY_MS = 24 * 3600 * 1000


def households(count: int = 30, weeks: int = 30) -> Purchases:
    """Every household buys its three staples of 40 items each week, in a basket with one random item."""
    rng = np.random.default_rng(0)
    lines = []
    for user in range(count):
        for week in range(weeks):
            when = (7 * week + user % 7) * DAY_MS + 1
            bought = [user % 10, 10 + user % 10, 20 + user // 3, int(rng.integers(30, 40))]
            lines += [(user, item, when, user * 1000 + week) for item in bought]
    lines.sort(key=lambda line: line[2])
    user, item, time, basket = (np.array(column) for column in zip(*lines, strict=True))
    ones = np.ones(len(lines), np.int64)
    names = [f"i{n}" for n in range(40)]
    return Purchases([f"u{n}" for n in range(count)], names, user, item, time, ones * 1.0, ones, basket)


def config(out_dir: Path) -> TrainConfig:
    return TrainConfig(
        out_dir,
        epochs=6,
        learning_rate=0.01,
        width=16,
        channels=16,
        task={"dataset": "complete-journey"},
        progress=False,
    )


def task() -> NextBasketTask:
    return next_basket_task(
        households(), seed=0, count_min=1, validation_users_share=1.0, batch_events=512, retyped_share=0.1
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> TrainingResult:
    return train(config(tmp_path_factory.mktemp("run")), task(), echo=lambda line: None)


def test_train_export_load_and_rank(trained: TrainingResult, tmp_path: Path) -> None:
    out = tmp_path / "artefact"
    made = export(ExportConfig(trained.checkpoint, out, evaluate=False), echo=lambda line: None)
    encoder = OnnxEncoder(out, providers="cpu")
    assert encoder.version == made.version == load_manifest(out).version
    assert (encoder.hidden_width, encoder.vector_width, made.items) == (64, 16, 41)
    figures = {e.ranker: e for e in evaluate(out, "test", households(), echo=lambda line: None)[:3]}
    assert figures["encoder"].recall_at_10 > 0.7  # three of four items can be known
    assert figures["encoder"].recall_at_10 > figures["popularity"].recall_at_10 + 0.2
    assert figures["encoder"].baskets == 30 * 8


def test_evaluation_sees_the_state_just_before_the_basket(trained: TrainingResult, tmp_path: Path) -> None:
    export(ExportConfig(trained.checkpoint, tmp_path / "artefact", evaluate=False), echo=lambda line: None)
    encoder = OnnxEncoder(tmp_path / "artefact", providers="cpu")
    events = sequences(households(), [encoder.item_at(row) for row in range(41)])
    tasks = next_baskets(events, 150 * DAY_MS, 10**15)
    vectors = vectors_before(encoder, events, tasks)
    for task in (0, 1, 57, len(tasks.before) - 1):
        end = int(tasks.before[task]) + 1
        start = int(events.offsets[np.searchsorted(events.offsets, end) - 1])
        assert events.basket_start[end]
        length = end - start
        job = Job(None, events.rows[start:end], np.full(length, 2), events.gaps[start:end])
        assert np.abs(refresh(encoder, [job])[1][0] - vectors[task]).max() < 1e-5


def test_new_products_are_ranked_without_the_history() -> None:
    histories = [np.array([1, 2, 1]), np.array([3])]
    tasks = NextBaskets(np.array([2, 3]), [np.array([1, 4]), np.array([3])])
    ranking = np.arange(20, 0, -1, dtype=np.float32)  # best: row 0, then 1, 2, ...

    def by_row(lists: slice) -> np.ndarray:
        return np.repeat(ranking[None], len(histories[lists]), axis=0)

    everything = score_lists(by_row, tasks, histories, only_new=False)
    assert (everything.baskets, everything.recall) == (2, 1.0)
    fresh = score_lists(by_row, tasks, histories, only_new=True)
    assert (fresh.baskets, fresh.recall) == (1, 1.0)  # the second basket holds nothing new
    assert fresh.ndcg == pytest.approx(1 / np.log2(3))  # 1 and 2 are out, so 3 then 4


def test_the_folded_weights_are_the_torch_model(trained: TrainingResult) -> None:
    saved = load_checkpoint(trained.checkpoint)
    model = build(replace(config(Path())), 41)
    model.load_state_dict(saved["model"])
    weights, embeddings, bias = fold(saved["model"])
    inputs = np.random.default_rng(1).integers(0, [[41], [3], [28]], size=(3, 200))
    with torch.no_grad():
        expected = model.double().eval()(*(torch.from_numpy(column) for column in inputs), [1] * 200).numpy()
    assert np.abs(full_pass(weights, 2, embeddings, inputs) - expected).max() < 2e-5
    assert np.array_equal(bias, saved["model"]["bias"].numpy())


def test_a_graph_that_differs_is_not_written(
    trained: TrainingResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "artefact"
    export(ExportConfig(trained.checkpoint, out, evaluate=False), echo=lambda line: None)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    graph = export_module.stage_graph

    def bent(weights: dict[str, np.ndarray], stage: int, blocks: int) -> bytes:
        moved = weights["1.c.bias"].copy()
        moved[0] += 1e-3
        return graph(weights | {"1.c.bias": moved}, stage, blocks)

    monkeypatch.setattr(export_module, "stage_graph", bent)
    with pytest.raises(ModelError, match="differs from the float64 pass by"):
        export(ExportConfig(trained.checkpoint, out, evaluate=False), echo=lambda line: None)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["artefact"]


def test_bad_checkpoints_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no checkpoint at .*best.pt; run `headwater train` first"):
        export(ExportConfig(tmp_path / "best.pt", tmp_path / "out"))
    (tmp_path / "best.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(ModelError, match="is not a checkpoint"):
        export(ExportConfig(tmp_path / "best.pt", tmp_path / "out"))
