"""The benches of the parts: exact searches, the worker without a model, the arithmetic beside the figures."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.ceiling import flops_per_event, flops_per_list, matmul_flops_per_s
from models.compress import compress
from models.metrics import recall_of
from models.runtime import DEFAULT_ARTEFACT, OnnxEncoder
from operators.batches import decode_chunks
from streams.bench import approximate, ranking
from streams.bench import encoder as encoder_bench
from streams.bench.ceilings import core_alone
from streams.bench.exact import Catalogue, searches
from streams.bench.history import HistoryEncoder
from streams.bench.lab import BenchError
from streams.bench.timing import interleaved_us, medians_us, timed_us
from tests.fakes import NOW_MS, chunk, items, record


@pytest.fixture(scope="module")
def encoder() -> OnnxEncoder:
    return OnnxEncoder(providers="cpu")


@pytest.mark.parametrize("count", [40, 1_000, 20_000])
def test_every_way_to_rank_is_exact(encoder: OnnxEncoder, count: int) -> None:
    catalogue, vectors, synthetic = ranking.catalogue_of(encoder, count, 8)
    assert synthetic == (count > encoder.manifest.items)
    assert len(catalogue.bias) == len(catalogue.embeddings) == count
    found = searches(catalogue, 10)
    assert None not in found.values()
    best = ranking.best_scores(catalogue, vectors, 10)
    for name, search in found.items():
        assert search is not None
        ranking.check_exact(name, catalogue, vectors, best, search(vectors))


def test_a_way_that_misses_an_item_is_refused() -> None:
    draw = np.random.default_rng(5).standard_normal
    catalogue = Catalogue(draw((300, 8)).astype(np.float32), draw(300).astype(np.float32))
    vectors = draw((4, 8)).astype(np.float32)
    every = vectors @ catalogue.embeddings.T + catalogue.bias
    rows = np.argsort(-every, axis=1)[:, :10]
    twins = Catalogue(np.repeat(catalogue.embeddings, 2, axis=0), np.repeat(catalogue.bias, 2))
    twice = np.repeat(2 * rows[:, :5], 2, axis=1)
    best = ranking.best_scores(catalogue, vectors, 10)
    assert np.abs(best - np.sort(every, axis=1)[:, ::-1][:, :10]).max() < 1e-4
    with pytest.raises(BenchError, match="twice does not give"):
        ranking.check_exact(
            "twice",
            twins,
            vectors,
            np.repeat(best[:, :5], 2, axis=1),
            (np.take_along_axis(every, twice // 2, 1), twice),
        )
    ranking.check_exact("right", catalogue, vectors, best, (np.take_along_axis(every, rows, 1), rows))
    for wrong in (np.argsort(-every, axis=1)[:, 1:11], np.repeat(rows[:, :5], 2, axis=1)):
        with pytest.raises(BenchError, match="wrong does not give the 10 best of 300"):
            ranking.check_exact("wrong", catalogue, vectors, best, (np.take_along_axis(every, wrong, 1), wrong))


def test_the_worker_without_a_model_lists_what_was_bought_last() -> None:
    encoder: Any = HistoryEncoder(items(40))
    bought = [f"item-{n % 40}" for n in range(25)]
    records = [record(n, "u", item, NOW_MS - 1000 + n) for n, item in enumerate(bought)]
    batches = [[chunk(2, 0, records[:3])], [chunk(2, 0, records[3:])]]
    done = core_alone(encoder, batches)
    import orjson

    lists = [orjson.loads(of.lists[0].value)["items"] for of in done.effects]
    first, second = [[item["item_id"] for item in of if item["source"] == "encoder"] for of in lists]
    assert first == bought[2::-1]
    assert second == bought[:-11:-1]
    assert sum(decode_chunks(batch, NOW_MS).records for batch in batches) == 25


def test_times_are_interleaved_and_of_the_processor() -> None:
    order: list[str] = []
    times = interleaved_us({name: (lambda name=name: order.append(name), 2) for name in "ab"}, 2, seconds=0.0)
    assert order == ["a", "b", "a", "b", "a", "b"]
    assert {name: len(taken) for name, taken in times.items()} == {"a": 2, "b": 2}
    ticks = iter(range(100))
    assert timed_us(lambda: None, 4, seconds=0.5, clock=lambda: float(next(ticks))) == pytest.approx(2 / 4 * 1e6)
    assert medians_us("us", [3.0, 1.0, 2.0]) == {"us": 2.0, "us_spread": {"min": 1.0, "max": 3.0}}


def test_multiplications_of_the_model(encoder: OnnxEncoder, tmp_path: Path) -> None:
    # Two blocks: B 64 x 256, C 256 x 64, W1 64 x 256, W2 256 x 64 of D = 64 and H = 128.
    assert flops_per_event(DEFAULT_ARTEFACT) == 2 * 2 * (4 * 64 * 256)
    assert flops_per_list(encoder) == 2 * encoder.manifest.items * 64
    assert matmul_flops_per_s(encoder, seconds=0.0) > 1e8
    for precision in ("fp16", "int8"):  # as many in whatever is multiplied
        (tmp_path / precision).mkdir()
        compress(DEFAULT_ARTEFACT, tmp_path / precision, precision)
        assert flops_per_event(tmp_path / precision) == flops_per_event(DEFAULT_ARTEFACT)


def test_the_encoder_bench_compares_with_the_arithmetic() -> None:
    result = encoder_bench.run(encoder_bench.EncoderOptions(batches=(2,), rounds=1), lambda _: None)
    (of_batch,) = result["batches"]
    assert result["step_limit_us"] == pytest.approx(result["flops_per_event"] / result["peak_gflops"] / 1e3, rel=0.01)
    assert of_batch["step_ratio_limit"] == pytest.approx(result["step_limit_us"] / of_batch["step_us"], rel=0.05)
    assert result["h100_on_paper"]["step_fp32_us"] == pytest.approx(result["flops_per_event"] / 67e6, rel=0.01)
    encoder_bench.show(result)


@pytest.mark.parametrize("batches", [(), (0,)])
def test_encoder_options_that_cannot_be_measured(batches: tuple[int, ...]) -> None:
    with pytest.raises(BenchError, match="--batch"):
        encoder_bench.run(encoder_bench.EncoderOptions(batches=batches), lambda _: None)


def test_an_approximate_search_finds_what_it_promises_and_scores_exactly() -> None:
    pytest.importorskip("faiss")
    encoder = OnnxEncoder(providers="cpu")
    catalogue, vectors, _ = ranking.catalogue_of(encoder, 20_000, 128)
    every = vectors @ catalogue.embeddings.T + catalogue.bias
    exact = np.argsort(-every, axis=1, kind="stable")[:, :10]
    found = approximate.build(catalogue, 10, vectors[::2], exact[::2])
    scores, rows = found.search(vectors[1::2])
    assert recall_of(rows, exact[1::2]) >= 0.97
    assert 10 < found.candidates < 20_000
    assert np.allclose(scores, np.take_along_axis(every[1::2], rows, 1), atol=1e-3)
    assert recall_of(rows, rows[:, ::-1]) == 1.0
    assert recall_of(rows, np.full_like(rows, -1)) == 0.0


def test_ranking_options_that_cannot_be_measured() -> None:
    with pytest.raises(BenchError, match="--items"):
        ranking.run(ranking.RankingOptions(items=(3,)), lambda _: None)
