"""The page's pictures: SVG without a date, so that the same figures make the same file."""

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from streams.bench.latency import QUANTILES, STAGES

__all__ = ["PLOTS", "draw"]

_SIZE: Final = (7.2, 3.4)

Result = Mapping[str, Any]


def draw(name: str, result: Result, path: Path) -> None:
    """One of ``PLOTS`` into an SVG file.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    matplotlib: Any = importlib.import_module("matplotlib")
    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "headwater", "font.size": 9, "axes.grid": True, "grid.alpha": 0.3})
    pyplot: Any = importlib.import_module("matplotlib.pyplot")
    figure, axes = pyplot.subplots(figsize=_SIZE, layout="constrained")
    PLOTS[name](axes, result)
    figure.savefig(path, format="svg", metadata={"Date": None})
    pyplot.close(figure)


def _freshness(axes: Any, result: Result) -> None:
    loads = [f"{each['load']:.0%}\n{each['events_per_s']:,.0f}/s" for each in result["loads"]]
    for quantile in QUANTILES:
        axes.plot(loads, [each[quantile] for each in result["loads"]], marker="o", label=quantile.removesuffix("_ms"))
    axes.set(ylabel="ms from event to list", xlabel="load", yscale="log", title="Freshness under open-loop load")
    axes.legend()


def _stages(axes: Any, result: Result) -> None:
    loads = [f"{each['load']:.0%}" for each in result["loads"]]
    below = [0.0] * len(loads)
    for stage in STAGES:
        parts = [each["stages_ms"][stage]["p50_ms"] for each in result["loads"]]
        axes.bar(loads, parts, bottom=below, label=stage)
        below = [low + part for low, part in zip(below, parts, strict=True)]
    axes.set(ylabel="median ms", xlabel="load", title="Where an event's time goes")
    axes.legend()


def _peers(axes: Any, result: Result) -> None:
    contenders = result["contenders"][::-1]
    axes.barh([each["name"] for each in contenders], [each["events_per_s"] for each in contenders])
    axes.set(xlabel="events/s", xscale="log", title=f"Peers on the same job: {result['job']}")


def _encoder(axes: Any, result: Result) -> None:
    batches = [each["batch"] for each in result["batches"]]
    for what, title in (("step", "step, an event"), ("top_k", "top 10, a list")):
        (line,) = axes.plot(batches, [each[f"{what}_us"] for each in result["batches"]], marker="o", label=title)
        axes.axhline(result[f"{what}_limit_us"], linestyle="--", color=line.get_color())
    axes.set(xlabel="batch", ylabel="us", xscale="log", yscale="log", title="Encoder (dashed: arithmetic limit)")
    axes.legend()


def _ranking(axes: Any, result: Result) -> None:
    sizes = result["sizes"]
    for number, way in enumerate(sizes[0]["ways"]):
        axes.plot(
            [size["items"] for size in sizes],
            [size["ways"][number]["us_per_list"] for size in sizes],
            marker="o",
            label=way["way"],
        )
    axes.set(xlabel="items", ylabel="us a list", xscale="log", yscale="log", title="Exact top 10")
    axes.legend(fontsize=7)


def _scale(axes: Any, result: Result) -> None:
    points = result["points"]
    sizes = [point["size"] for point in points]
    for name in ("events_per_s", "memory_mb", "disk_mb", "restore_s", "p50_ms"):
        first = points[0][name] or 1
        axes.plot(sizes, [point[name] / first for point in points], marker="o", label=name)
    axes.set(xlabel=result["axis"], ylabel=f"against {sizes[0]:,}", xscale="log", yscale="log")
    axes.set_title(f"Growth with {result['axis']}")
    axes.legend(fontsize=7)


PLOTS: Final[Mapping[str, Callable[[Any, Result], None]]] = {
    "freshness": _freshness,
    "stages": _stages,
    "peers": _peers,
    "encoder": _encoder,
    "ranking": _ranking,
    "scale": _scale,
}
