"""Training on a history split by time: nothing of the held-out periods is learned, and the score is brute force."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import orjson
import pytest

torch = pytest.importorskip("torch")

from models.encoder import ItemEncoder, SequenceEncoder  # noqa: E402
from models.errors import ModelError  # noqa: E402
from models.event_histories import EventHistories, event_histories  # noqa: E402
from models.export import ExportConfig, export  # noqa: E402
from models.manifest import load_manifest  # noqa: E402
from models.next_event import NextEventTask  # noqa: E402
from models.recipes import events_recipe  # noqa: E402
from models.rivals.sasrec import SasRec  # noqa: E402
from models.train import train  # noqa: E402
from operators.interest import GAP_BUCKETS, gap_bucket  # noqa: E402
from streams.cli import run  # noqa: E402

VALIDATION_MS, TEST_MS = 600_000, 800_000


class Shown(NamedTuple):
    timestamp_ms: int
    event_type: int
    key: bytes
    value: bytes


def stream(seed: int = 0, events: int = 400) -> list[Shown]:
    """Eight users, forty items, in time order up to 1,000,000 ms."""
    rng = np.random.default_rng(seed)
    times = np.sort(rng.integers(0, 1_000_000, events)).tolist()
    return [
        Shown(time, int(rng.integers(3)), f"u{rng.integers(8)}".encode(), orjson.dumps({"item_id": f"i{item}"}))
        for time, item in zip(times, rng.integers(0, 40, events), strict=True)
    ]


def histories(records: Sequence[Shown], count_min: int = 1) -> EventHistories:
    return event_histories(records, VALIDATION_MS, TEST_MS, count_min=count_min)


def task_of(data: EventHistories, seen_items: str = "keep") -> NextEventTask:
    return NextEventTask(data, window_events=20, batch_events=64, seen_items=seen_items, scored_events=1_000)


def test_what_answered_a_list_is_asked_for_twice() -> None:
    data = event_histories(
        stream(), VALIDATION_MS, TEST_MS, count_min=1, answers=lambda record, item_id: item_id in {"i3", "i4"}
    )
    assert data.answers.tolist() == [data.items[row] in {"i3", "i4"} for row in data.rows]
    rng = np.random.default_rng(0)
    task = task_of(data)
    batches = [task.batch(chosen, rng) for chosen in task.plan(rng)]
    for batch in batches:
        places: list[int] = batch.places.tolist()
        assert batch.pair_position.tolist() == list(range(len(places)))
        for place, row in zip(places, batch.pair_row.tolist(), strict=True):
            assert places.count(place) == (2 if data.items[row] in {"i3", "i4"} else 1)
    assert any(len(set(batch.places.tolist())) < len(batch.places) for batch in batches)


def test_columns_are_every_users_events_in_order() -> None:
    records = stream()
    data = histories(records)
    users = list(dict.fromkeys(record.key for record in records))
    for n, user in enumerate(users):
        own = [record for record in records if record.key == user]
        part = slice(int(data.offsets[n]), int(data.offsets[n + 1]))
        assert [data.items[row] for row in data.rows[part]] == [orjson.loads(r.value)["item_id"] for r in own]
        assert data.types[part].tolist() == [record.event_type for record in own]
        times = [record.timestamp_ms for record in own]
        gaps = [None, *(b - a for a, b in pairwise(times))]
        assert data.gaps[part].tolist() == [gap_bucket(gap) for gap in gaps]


def test_rare_items_and_those_of_the_future_share_row_zero() -> None:
    records = stream()
    early = [orjson.loads(record.value)["item_id"] for record in records if record.timestamp_ms < VALIDATION_MS]
    late = Shown(VALIDATION_MS, 0, b"u1", b'{"item_id":"new"}')
    data = histories([*records, *[late] * 30], count_min=early.count("i3"))
    assert "new" not in data.items
    assert {*data.items[1:]} == {item for item in early if early.count(item) >= early.count("i3")}
    assert [early.count(item) for item in data.items[1:]] == sorted(map(early.count, data.items[1:]), reverse=True)
    with pytest.raises(ModelError, match="no item has 999 events before the validation period"):
        histories(records, count_min=999)


def test_nothing_after_the_training_period_is_learned_from() -> None:
    records = stream()
    data = histories(records)
    learned: list[tuple[int, int]] = []
    for chosen in task_of(data).plan(np.random.default_rng(0)):
        batch = task_of(data).batch(chosen, np.random.default_rng(0))
        for start, length in chosen.tolist():
            assert (data.times_ms[start : start + length + 1] < VALIDATION_MS).all()
            learned += [(start + n, int(data.rows[start + n + 1])) for n in range(length)]
        assert len(batch.pair_row) == int(chosen[:, 1].sum())
    every = [n for n in range(len(data.rows) - 1) if n + 1 not in data.offsets and data.times_ms[n + 1] < VALIDATION_MS]
    assert sorted(learned) == [(n, int(data.rows[n + 1])) for n in every]


def untrained(items: int, window: int | None) -> ItemEncoder:
    torch.manual_seed(0)
    if window is None:
        return SequenceEncoder(items, 3, GAP_BUCKETS, width=8, channels=8, blocks=1, dropout=0.5).eval()
    return SasRec(items, width=8, blocks=1, heads=2, events=window, dropout=0.5).eval()


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("seen_items", ["keep", "drop"])
@pytest.mark.parametrize("split", ["validation", "test"])
def test_the_score_is_brute_force(seen_items: str, split: str, window: int | None) -> None:
    data = histories(stream())
    model = untrained(len(data.items), window)
    start_ms, end_ms = (VALIDATION_MS, TEST_MS) if split == "validation" else (TEST_MS, 10**9)
    gains: list[float] = []
    for first, last in zip(data.offsets[:-1].tolist(), data.offsets[1:].tolist(), strict=True):
        for target in range(first + 1, last):
            row, before = int(data.rows[target]), data.rows[first:target].tolist()
            if not start_ms <= data.times_ms[target] < end_ms or (seen_items == "drop" and row in before):
                continue
            read = slice(first if window is None else max(first, target - window), target)
            columns = [torch.from_numpy(c[read]) for c in (data.rows, data.types, data.gaps)]
            with torch.no_grad():
                scores = model.scores(model(*columns, [1] * len(columns[0]))[-1:])[0].numpy()
            hidden = {0, *(before if seen_items == "drop" else [])}
            ranked = [row for row in np.argsort(-scores, kind="stable").tolist() if row not in hidden][:10]
            gains.append(1 / np.log2(ranked.index(row) + 2) if row in ranked else 0.0)
    found = task_of(data, seen_items).score(model, "validation" if split == "validation" else "test")
    assert found.baskets == len(gains) > (5 if seen_items == "drop" else 50)
    assert found.ndcg == pytest.approx(np.mean(gains), abs=1e-6)


def test_it_learns_a_planted_rule(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    records = [
        Shown(1_000 * n, 1, f"u{n % 6}".encode(), orjson.dumps({"item_id": f"i{(n // 6 + n % 6) % 12}"}))
        for n in range(1_000)
    ]
    records[::50] = [r._replace(value=orjson.dumps({"item_id": f"i{rng.integers(12)}"})) for r in records[::50]]
    data = event_histories(records, 800_000, 900_000, count_min=1)
    settings = {"out_dir": tmp_path, "progress": False, "epochs": 60, "learning_rate": 0.02, "width": 16}
    settings |= {"channels": 16, "average_steps": 0, "patience_epochs": 60, "dropout": 0.0}
    config, task = events_recipe("rule", data, "keep", **settings)
    assert config.task["dataset"] == "rule"
    done = train(config, task(), echo=lambda line: None)
    assert done.validation is not None
    assert done.validation.ndcg > 0.8


def test_the_command_trains_on_a_file_that_replay_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    lines = [f"{rng.integers(1, 9)}\t{rng.integers(1, 9)}\t3\t{1_000_000_000 + 60 * n}" for n in range(600)]
    path = tmp_path / "small.inter"
    path.write_text("user_id:token\titem_id:token\trating:float\ttimestamp:float\n" + "\n".join(lines) + "\n")
    out = tmp_path / "run"
    assert run(["train", "events", "--data", str(path), "--out", str(out), "--epochs", "1", "--test", "--json"]) == 0
    report = orjson.loads(capsys.readouterr().out)
    assert report["test"]["baskets"] == 60
    assert run(["export", report["checkpoint"], str(tmp_path / "model")]) == 0
    assert "lru-small-" in capsys.readouterr().out
    manifest = load_manifest(tmp_path / "model")
    (evaluation,) = manifest.evaluations
    assert evaluation.protocol.startswith("split by time: the state before each event of the period ranks every item,")
    again = manifest.training_command.replace("FILE", str(path)).replace("DIR", str(tmp_path / "again")).split()
    assert run([*again[1:], "--epochs", "1"]) == 0
    assert run(["export", str(tmp_path / "again" / "best.pt"), str(tmp_path / "model-again")]) == 0
    assert load_manifest(tmp_path / "model-again").version == manifest.version
    assert run(["train", "events", "--out", str(out)]) == 2
    assert "events are read from a file that is given with --data" in capsys.readouterr().err


def test_the_manifest_says_what_was_trained_on_and_how_it_was_judged(tmp_path: Path) -> None:
    data = histories(stream())
    settings = {"out_dir": tmp_path, "progress": False, "epochs": 1, "width": 8, "channels": 8, "seed": 4}
    config, task = events_recipe("topics", data, "drop", **settings)
    made = export(ExportConfig(train(config, task(), echo=lambda line: None).checkpoint, tmp_path / "model"), echo=str)
    assert made.training_command == "headwater train --from-topic --seen drop --seed 4 --out DIR"
    assert "ranks every item that is not in the history" in made.evaluations[0].protocol
