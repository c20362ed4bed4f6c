"""``headwater bench encoder``: one step and one ranking by batch size, beside what the arithmetic alone would take.

The encoder is called exactly as the worker calls it, on the CPU or on CUDA. The limit is the time that the model's
matrix products take at the peak that the same device reached on a large matrix product in the same run.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final, Literal

import numpy as np
from rich.console import Console
from rich.table import Table

from models.ceiling import flops_per_event, flops_per_list, matmul_flops_per_s, product_type
from models.runtime import DEFAULT_ARTEFACT, OnnxEncoder
from operators.interest import PackedJobs
from operators.ranking import Policy
from streams.bench.lab import PURCHASE, BenchError
from streams.bench.summary import machine, spread_of, versions
from streams.bench.timing import interleaved_us, medians_us

__all__ = ["H100", "EncoderOptions", "run", "show"]

H100: Final[Mapping[str, float]] = {
    "fp32_flops_per_s": 67e12,
    "fp16_flops_per_s": 989e12,
    "bytes_per_s": 3.35e12,
    "host_bytes_per_s": 64e9,
}
"""NVIDIA H100 SXM5 80 GB by its data sheet: float32, float16 without sparsity, memory, PCIe 5 one way."""

Echo = Callable[[str], object]


@dataclass(frozen=True, slots=True)
class EncoderOptions:
    """What to measure."""

    device: Literal["cpu", "cuda"] = "cpu"
    model: Path = DEFAULT_ARTEFACT
    batches: tuple[int, ...] = (1, 4, 16, 64, 256, 1024)
    rounds: int = 5


def run(options: EncoderOptions, echo: Echo) -> dict[str, Any]:
    """Measure; the result is what ``--json`` prints.

    Raises:
        BenchError: an option that cannot be measured with.
        ModelError: the model is missing, or CUDA was asked for and cannot be had.
    """
    if options.rounds < 1 or not options.batches or min(options.batches) < 1:
        raise BenchError("--rounds and every --batch must be 1 or more")
    encoder = OnnxEncoder(options.model, providers=options.device)
    echo(f"model {encoder.version} on {encoder.provider}")
    contenders = {
        (what, batch): (work, batch) for batch in options.batches for what, work in _works(encoder, batch).items()
    }
    clock = time.process_time if options.device == "cpu" else time.perf_counter
    peaks: list[float] = []
    times: dict[tuple[str, int], list[float]] = {name: [] for name in contenders}
    for number in range(1, options.rounds + 1):
        echo(f"round {number}/{options.rounds}")
        peaks.append(matmul_flops_per_s(encoder, clock))
        for name, taken in interleaved_us(contenders, 1, clock=clock).items():
            times[name] += taken
    peak = median(peaks)
    event, ranking = flops_per_event(options.model), flops_per_list(encoder)
    limits_us = {"step": event / peak * 1e6, "top_k": ranking / peak * 1e6}
    return {
        "device": options.device,
        "provider": encoder.provider,
        "peak_gflops": round(peak / 1e9, 1),
        "peak_gflops_spread": spread_of([each / 1e9 for each in peaks]),
        "flops_per_event": event,
        "flops_per_list": ranking,
        "step_limit_us": round(limits_us["step"], 3),
        "top_k_limit_us": round(limits_us["top_k"], 3),
        "catalogue_items": encoder.manifest.items - 1,
        "model_version": encoder.version,
        "products": product_type(encoder).__name__,
        "batches": [_batch(batch, times, limits_us) for batch in options.batches],
        "h100_on_paper": on_paper(event, ranking, encoder, max(options.batches)),
        "clock": "processor time" if options.device == "cpu" else "wall",
        "rounds": options.rounds,
        "machine": machine(),
        "versions": versions("none"),
    }


def _works(encoder: OnnxEncoder, batch: int) -> dict[str, Callable[[], object]]:
    random = np.random.default_rng(batch)
    packed = PackedJobs(
        np.zeros((batch, encoder.hidden_width), np.float32),
        random.integers(1, encoder.manifest.items, batch),
        np.full(batch, PURCHASE, np.int64),
        np.full(batch, 12, np.int64),
        np.arange(1, batch + 1),
        np.zeros(batch, np.int64),  # a device keeps the states from one call to the next, as it does the worker's
    )
    hidden, vectors = encoder.advance(packed)
    packed = packed._replace(hidden=hidden)
    return {
        "step": lambda: encoder.advance(packed),
        "top_k": lambda: encoder.top_k(vectors, Policy().list_items),
    }


def _batch(batch: int, times: Mapping[tuple[str, int], list[float]], limits_us: Mapping[str, float]) -> dict[str, Any]:
    found: dict[str, Any] = {"batch": batch}
    for what, limit_us in limits_us.items():
        found |= medians_us(f"{what}_us", times[what, batch])
        found[f"{what}_ratio_limit"] = round(limit_us / median(times[what, batch]), 3)
    return found


def on_paper(event_flops: int, list_flops: int, encoder: OnnxEncoder, batch: int) -> dict[str, float]:
    """Microseconds on an H100 by arithmetic, by memory traffic and by the way to the host and back; nobody ran this.

    A step reads and writes the state of an event (4 bytes a float). A ranking of a batch reads the item matrix once
    and, unless scoring and search are one kernel, writes and reads one score per item and list; in float16 half of
    both. A state that is not on the device goes up before the steps; state and vector come down after them, for the
    changelog.
    """
    state_bytes = 2 * 4 * encoder.hidden_width
    top_k_bytes = 4 * encoder.manifest.items * (encoder.vector_width / batch + 2)
    return {
        "batch": batch,
        "step_fp32_us": round(event_flops / H100["fp32_flops_per_s"] * 1e6, 5),
        "step_memory_us": round(state_bytes / H100["bytes_per_s"] * 1e6, 5),
        "top_k_fp32_us": round(list_flops / H100["fp32_flops_per_s"] * 1e6, 5),
        "top_k_memory_us": round(top_k_bytes / H100["bytes_per_s"] * 1e6, 5),
        "step_fp16_us": round(event_flops / H100["fp16_flops_per_s"] * 1e6, 5),
        "top_k_fp16_us": round(list_flops / H100["fp16_flops_per_s"] * 1e6, 5),
        "top_k_fp16_memory_us": round(top_k_bytes / 2 / H100["bytes_per_s"] * 1e6, 5),
        "state_up_us": round(4 * encoder.hidden_width / H100["host_bytes_per_s"] * 1e6, 5),
        "state_down_us": round(4 * (encoder.hidden_width + encoder.vector_width) / H100["host_bytes_per_s"] * 1e6, 5),
    }


def show(result: Mapping[str, Any]) -> None:
    """The figures as a table on standard output."""
    table = Table("batch", "step, us an event", "of the limit", "top 10, us a list", "of the limit", box=None)
    for column in table.columns:
        column.justify = "right"
    for each in result["batches"]:
        cells: list[str] = []
        for what in ("step", "top_k"):
            spread = each[f"{what}_us_spread"]
            cells += [f"{each[f'{what}_us']:.2f} ({spread['min']:g} to {spread['max']:g})"]
            cells += [f"{each[f'{what}_ratio_limit']:.2f}"]
        table.add_row(str(each["batch"]), *cells)
    console, about = Console(highlight=False, soft_wrap=True), result["machine"]
    console.print(
        f"{result['provider']}, {result['catalogue_items']} items; peak {result['peak_gflops']:g} GFLOP/s in"
        f" {result['products']}:"
        f" {result['step_limit_us']:g} us for an event's matrix products, {result['top_k_limit_us']:g} us for a list's"
    )
    console.print(table)
    paper = result["h100_on_paper"]
    limits = ", ".join(f"{name.removesuffix('_us')} {value:g}" for name, value in paper.items() if name != "batch")
    console.print(f"an H100 on paper, us at batch {paper['batch']}: {limits}")
    console.print(f"medians of {result['rounds']} rounds, {about['cores']} cores of {about['cpu']}, one thread")
