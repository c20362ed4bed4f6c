"""Rounds of figures into medians, spreads and ratios, with the machine they were taken on."""

import os
import platform
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from infra.broker.jars import kafka_version

__all__ = [
    "machine",
    "medians_of",
    "per_event_us",
    "setting",
    "show",
    "spent",
    "spread_of",
    "summarize",
    "versions",
    "with_ratios",
]

_PACKAGES: Final = (
    "headwater",
    "faust-streaming",
    "aiokafka",
    "rocksdict",
    "numpy",
    "onnxruntime",
    "onnxruntime-gpu",
    "faiss-cpu",
    "confluent-kafka",
)
_WIDTH: Final = 120
_ROWS: Final = (
    ("headwater, backlog", "events_per_s", "lists_per_s", "events_per_list"),
    (
        "headwater, small batches",
        "small_batches_events_per_s",
        "small_batches_lists_per_s",
        "small_batches_events_per_list",
    ),
    ("naive Faust agent", "naive_events_per_s", "naive_lists_per_s", None),
    ("encoder alone", "encoder_events_per_s", "encoder_lists_per_s", "events_per_list"),
    (
        "encoder alone, small batches",
        "small_batches_encoder_events_per_s",
        "small_batches_encoder_lists_per_s",
        "small_batches_events_per_list",
    ),
    ("core alone", "core_events_per_s", "core_lists_per_s", "events_per_list"),
    ("client consumes", "client_consume_per_s", None, None),
    ("client produces lists", "produce_events_per_s", "client_produce_per_s", "events_per_list"),
    ("state store writes users", None, "state_writes_per_s", None),
    ("state store loads users", None, "state_loads_per_s", None),
)


def summarize(rounds: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """The median of every figure, the ratios of those medians, and ``spread``: least and greatest of the rounds.

    Args:
        rounds: figures by name, the same names in every round; ``with_ratios`` adds the ratios.
    """
    medians = with_ratios({name: median(figures[name] for figures in rounds) for name in rounds[0]})
    each = [with_ratios(figures) for figures in rounds]
    spread = {name: spread_of([figures[name] for figures in each]) for name in medians}
    return {name: _rounded(value) for name, value in medians.items()} | {"spread": spread}


def with_ratios(figures: Mapping[str, float]) -> dict[str, float]:
    """The figures, the ratios to the naive agent in events and in lists, and to the ceiling at both batch sizes.

    A ceiling is the lowest of what the encoder, the consuming and the producing client do alone, in events a
    second at the run's events per list.
    """
    done = dict(figures)
    done["ratio_naive"] = done["events_per_s"] / done["naive_events_per_s"]
    done["ratio_naive_lists"] = done["lists_per_s"] / done["naive_lists_per_s"]
    for prefix in ("", "small_batches_"):
        produced = done["client_produce_per_s"] * done[f"{prefix}events_per_list"]
        encoded = done[f"{prefix}encoder_events_per_s"]
        done[f"{prefix}produce_events_per_s"] = produced
        done[f"{prefix}ceiling_events_per_s"] = min(encoded, produced, done["client_consume_per_s"])
        done[f"{prefix}ratio_ceiling"] = done[f"{prefix}events_per_s"] / done[f"{prefix}ceiling_events_per_s"]
    return done


def medians_of(rounds: Sequence[Mapping[str, float]], digits: int) -> dict[str, float]:
    """The median of every figure, rounded."""
    return {name: round(median(each[name] for each in rounds), digits) for name in rounds[0]}


def per_event_us(runs: Sequence[Mapping[str, float]], events: int) -> dict[str, float]:
    """The median over the runs of each of their seconds, in microseconds an event."""
    return {name: round(1e6 * median(run[name] for run in runs) / events, 2) for name in runs[0]}


def spent(result: Mapping[str, Any]) -> list[str]:
    """What an event took of the worker, in words: by stage, and by thread beside the broker's part."""
    lines: list[str] = []
    if stages := result.get("stages_us_per_event"):
        lines.append(f"Microseconds an event by stage, by the clock, waits included: {_listed(stages)}.")
    if processor := result.get("processor_us_per_event"):
        total = sum(processor.values())
        lines.append(
            f"Microseconds of processor time an event by thread of the worker, and of the broker: {_listed(processor)};"
            f" {total:.1f} in all, so that about {total * result['events_per_s'] / 1e6:.1f} cores were busy."
        )
    return lines


def _listed(figures: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in figures.items())


def spread_of(values: Sequence[float]) -> dict[str, float]:
    """Least and greatest."""
    return {"min": _rounded(min(values)), "max": _rounded(max(values))}


def _rounded(value: float) -> float:
    return round(value, 3) if value < 100 else round(value)


def machine() -> dict[str, Any]:
    """What the figures were taken on."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": _cpu_model(),
        "cores": cores,
        "memory_gb": round(memory / 1e9, 1),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text("utf-8").splitlines() if cpuinfo.is_file() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor()


def versions(broker: str) -> dict[str, str]:
    """Of the packages that the figures depend on, and of the broker where it is Apache Kafka."""
    found = {} if broker != "kafka" else {"apache-kafka": kafka_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def show(result: Mapping[str, Any]) -> None:
    """The figures as a table on standard output."""
    table = Table("", "events/s", "lists/s", "events/list", box=None, pad_edge=False)
    for column in table.columns:
        column.no_wrap = True
    for column in table.columns[1:]:
        column.justify = "right"
    for title, events, lists, ratio in _ROWS:
        each = "" if ratio is None else f"{result[ratio]:.2f}"
        table.add_row(title, _cell(result, events), _cell(result, lists), each)
    console = Console(file=sys.stdout, highlight=False, soft_wrap=True, width=_WIDTH)
    console.print(table)
    for line in spent(result):
        console.print(line)
    console.print(
        f"{result['ratio_naive']:.1f} times the events and {result['ratio_naive_lists']:.1f} times the lists of the"
        " naive agent, which publishes one list per event"
    )
    console.print(
        f"{result['ratio_ceiling']:.2f} of the lowest ceiling ({result['ceiling_events_per_s']:,.0f} events/s);"
        f" {result['small_batches_ratio_ceiling']:.2f} with small batches"
    )
    console.print(f"{result['events']} events, {setting(result)}")


def setting(result: Mapping[str, Any]) -> str:
    """Rounds, broker and machine of a result, for people."""
    about = result["machine"]
    return (
        f"medians of {result['rounds']} rounds, {result['broker']} broker, {about['cores']} cores of {about['cpu']},"
        f" {about['memory_gb']} GB, Python {about['python']}"
    )


def _cell(result: Mapping[str, Any], name: str | None) -> str:
    if name is None:
        return ""
    spread = result["spread"][name]
    return f"{result[name]:,.0f} ({spread['min']:,.0f} to {spread['max']:,.0f})"
