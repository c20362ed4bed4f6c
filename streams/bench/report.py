"""``headwater bench report``: one page from the results that the benches left, with pictures. No figure is typed."""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import orjson

import infra
from streams.bench import backfill, encoder, freshness, pipeline, ranking, scale, state
from streams.bench.lab import BenchError
from streams.bench.latency import QUANTILES, STAGES
from streams.bench.peers import contest
from streams.bench.plots import draw
from streams.bench.summary import spent
from streams.bench.targets import Judged, judge
from streams.clients.errors import ClientError
from streams.plan import COSTS_FILE, costs_of

__all__ = ["DOCS", "MEASURES", "measure", "page", "read_results", "write"]

DOCS: Final = Path(infra.__file__).parent / "docs"
_DIRECTORY: Final = "performance"
_PAGE: Final = "PERFORMANCE.md"

Echo = Callable[[str], object]
Result = dict[str, Any]


def _scale(options: scale.ScaleOptions) -> Callable[[Echo], Result]:
    return lambda echo: scale.run(options, echo)


_CATALOGUES: Final = (1_000, 10_000, 100_000, 1_000_000, 10_000_000)

MEASURES: Final[Mapping[str, Callable[[Echo], Result]]] = {
    "encoder": lambda echo: encoder.run(encoder.EncoderOptions(rounds=3), echo),
    "ranking": lambda echo: ranking.run(ranking.RankingOptions(items=_CATALOGUES), echo),
    "pipeline": lambda echo: pipeline.run(pipeline.PipelineOptions(rounds=3), echo),
    "freshness": lambda echo: freshness.run(freshness.FreshnessOptions(rounds=3, seconds=6.0), echo),
    "state": lambda echo: state.run(state.StateOptions(rounds=3), echo),
    "peers": lambda echo: contest.run(contest.PeersOptions(rounds=3), echo),
    "peers-state": lambda echo: contest.run(contest.PeersOptions(job="state", rounds=3, naive_events=20_000), echo),
    "replay": lambda echo: backfill.run(backfill.ReplayOptions(), echo),
    "scale-users": _scale(scale.ScaleOptions("users", (1_000, 10_000, 100_000, 1_000_000))),
    "scale-users-large": _scale(scale.ScaleOptions("users", (1_000_000, 10_000_000), history=1)),
    "scale-workers": _scale(scale.ScaleOptions("workers", events=100_000, rounds=3)),
    "scale-items": _scale(scale.ScaleOptions("items", (1_000, 13_343, 100_000, 1_000_000))),
    "scale-partitions": _scale(scale.ScaleOptions("partitions")),
    "scale-history": _scale(scale.ScaleOptions("history")),
}
"""What the page shows, in the order of its measuring."""


def measure(names: Sequence[str], docs: Path, echo: Echo) -> dict[str, str]:
    """Run benches and keep their results; returns those that failed, with the reason.

    Raises:
        BenchError: an unknown name.
    """
    unknown = sorted(set(names) - set(MEASURES))
    if unknown:
        raise BenchError(f"no bench {unknown[0]!r}; there are {', '.join(MEASURES)}")
    failed: dict[str, str] = {}
    directory = docs / _DIRECTORY
    directory.mkdir(parents=True, exist_ok=True)
    for name in names or MEASURES:
        began, busy = time.monotonic(), os.getloadavg()[0]
        echo(f"bench {name}")
        try:
            result = MEASURES[name](echo)
        except ClientError as error:
            failed[name] = str(error)
            echo(f"bench {name} failed: {error}")
            continue
        result["measured_at"] = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
        result["load_before"] = round(busy, 2)
        (directory / f"{name}.json").write_bytes(orjson.dumps(result, option=orjson.OPT_INDENT_2) + b"\n")
        echo(f"bench {name}: {time.monotonic() - began:.0f} s")
    return failed


def read_results(docs: Path) -> dict[str, Result]:
    """What is kept, by bench."""
    files = {name: docs / _DIRECTORY / f"{name}.json" for name in MEASURES}
    return {name: orjson.loads(file.read_bytes()) for name, file in files.items() if file.is_file()}


def write(docs: Path) -> tuple[Path, list[Judged]]:
    """Costs for ``headwater plan``, pictures and page from what is kept; returns the page and the targets.

    Raises:
        BenchError: nothing is kept.
    """
    results = read_results(docs)
    if not results:
        raise BenchError(f"no results in {docs / _DIRECTORY}; run `headwater bench report --measure`")
    directory = docs / _DIRECTORY
    try:
        costs = costs_of(results, results.get("pipeline", {}).get("measured_at", ""))
        (directory / COSTS_FILE.name).write_bytes(
            orjson.dumps(msgspec.to_builtins(costs), option=orjson.OPT_INDENT_2) + b"\n"
        )
    except ClientError:
        pass  # what plan needs was not measured: the costs that are there stay
    judged = judge(results)
    for section in _SECTIONS:
        for plot in section.plots:
            if section.bench in results:
                draw(plot, results[section.bench], directory / f"{section.bench}-{plot}.svg")
    path = docs / _PAGE
    path.write_text(page(results, judged), "utf-8")
    return path, judged


class _Section(NamedTuple):
    bench: str
    title: str
    plots: tuple[str, ...]
    lines: Callable[[Result], list[str]]


def page(results: Mapping[str, Result], judged: Sequence[Judged]) -> str:
    """The page in Markdown."""
    lines = [
        "# Performance",
        "",
        "Made by `headwater bench report` from the results in [performance/](performance/); measured by"
        " `headwater bench report --measure`, with the peers that `headwater bench peers --install` has installed."
        " Medians; least and greatest of the interleaved rounds in brackets.",
        "",
        "## Targets",
        "",
        "| target | wanted | measured | |",
        "|---|---|---|---|",
        *map(_target, judged),
        "",
    ]
    for section in _SECTIONS:
        if section.bench in results:
            result = results[section.bench]
            lines += [f"## {section.title}", "", *section.lines(result), ""]
            lines += [f"![{plot}]({_DIRECTORY}/{section.bench}-{plot}.svg)" for plot in section.plots]
            lines += ["", f"`headwater bench report --measure --only {section.bench}`, {_setting(result)}.", ""]
    return "\n".join(lines)


def _target(judged: Judged) -> str:
    target, measured = judged.target, judged.measured
    wanted = f"{'at least' if target.at_least else 'at most'} {target.bound:,g}{target.unit}"
    shown = "" if measured is None else f"{measured.value:,g} ({measured.least:,g} to {measured.greatest:,g})"
    what = judged.verdict if judged.verdict != "not met" else f"not met: {target.next_step}"
    return f"| {target.name} | {wanted} | {shown} | {what} |"


def _setting(result: Result) -> str:
    machine = result["machine"]
    broker = f" on {result['broker']}" if "broker" in result else ""
    return (
        f"{result['rounds']} round{'s' if result['rounds'] > 1 else ''}{broker}, {machine['cores']} cores of"
        f" {machine['cpu']}, {machine['memory_gb']} GB, Python {machine['python']}, {result['measured_at']},"
        f" load average before it {result.get('load_before', 'not noted')}"
    )


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [f"| {' | '.join(header)} |", f"|{'---|' * len(header)}"]
    return lines + [f"| {' | '.join(row)} |" for row in rows]


def _with_spread(value: float, spread: Mapping[str, float]) -> str:
    return f"{value:,g} ({spread['min']:,g} to {spread['max']:,g})"


def _pipeline_lines(result: Result) -> list[str]:
    names = {
        "events_per_s": "worker, events/s",
        "lists_per_s": "worker, lists/s",
        "small_batches_events_per_s": "worker in small batches, events/s",
        "naive_events_per_s": "naive Faust agent, events/s",
        "encoder_events_per_s": "encoder and ranking alone, events/s",
        "core_events_per_s": "core alone, events/s",
        "ratio_naive": "times the naive agent",
        "ratio_ceiling": "of the lowest ceiling",
    }
    rows = [[title, _with_spread(result[name], result["spread"][name])] for name, title in names.items()]
    return [*_table(("", "median"), rows), "", *spent(result)]


def _freshness_lines(result: Result) -> list[str]:
    rows: list[list[str]] = []
    stages: list[list[str]] = []
    for each in result["loads"]:
        notes = ["" if each["kept_up"] else "overloaded", "" if each["generator_kept_up"] else "generator late"]
        quantiles = [_with_spread(each[name], each["spread"][name]) for name in QUANTILES]
        rows.append([f"{each['load']:.0%}", f"{each['events_per_s']:,.0f}", *quantiles, " ".join(notes).strip()])
        parts = [f"{each['stages_ms'][stage]['p50_ms']:g} / {each['stages_ms'][stage]['p99_ms']:g}" for stage in STAGES]
        worker = ", ".join(f"{stage} {value:g}" for stage, value in each["worker_ms_per_batch"].items())
        stages.append([f"{each['load']:.0%}", *parts, worker])
    return [
        f"Capacity {result['capacity_events_per_s']:,} events/s, broker and generator on the same machine. From the"
        " moment an event is due to its list received; a generator that falls behind makes it longer.",
        "",
        *_table(("load", "events/s", "p50 ms", "p99 ms", "p99.9 ms", ""), rows),
        "",
        *_table(("load", *(f"{stage}, p50 / p99 ms" for stage in STAGES), "worker, ms a batch"), stages),
    ]


def _peers_lines(result: Result) -> list[str]:
    rows = [
        [
            each["name"],
            _with_spread(each["events_per_s"], each["events_per_s_spread"]),
            _with_spread(each["lists_per_s"], each["lists_per_s_spread"]),
            f"{each['lists_per_s'] / each['events_per_s']:.2g}",
            f"{each['ratio_headwater']:g}",
            each["survives_by"],
        ]
        for each in result["contenders"]
    ]
    notes = [f"Absent, not installed: {name}." for name in result["absent"]]
    notes += [f"No figure: {name}: {why}." for name, why in result["failed"].items()]
    header = ("", "events/s", "lists/s", "lists per event", "Headwater is ... times", "state survives by")
    note = (
        "In micro-batches (Headwater, bytewax batch, Pathway, bare loop) a user's events share a list, so that fewer"
        " lists than events are sent: compare lists/s too. Pathway decides its batches itself."
    )
    return [
        note,
        "",
        *_table(header, rows),
        "",
        *(" ".join(note.split())[:300] for note in notes),
    ]


_ON_A_DEVICE: Final = (
    "State up is of a state that is not on the device yet, state down of a user of a batch, the others of an"
    " event or a list; in float16 a model of that precision does its products (`headwater export --precision"
    " fp16`, `--model` of this bench). So nearly all of an event would be the host's work, and most of the"
    " device's part launches. Therefore a call is one graph: the products of all blocks, and their recurrences by"
    " six doublings each, with nothing whose shape or number changes. It is filled up to a power of two of events"
    " and users, captured once for each size and thread, and replayed. The states of 65,536 users stay on the"
    " device; a call writes them elsewhere than it reads them, so that one that is repeated or fails does no harm."
    " Up go the numbers of events and users; down come new states, for the changelog, vectors and the best of each"
    " list. Items, biases and scores stay. An fp16 model looks for four times the items of a list in fp16, and"
    " takes the best of those by float32. The tests run all of this by the same calls on the CPU device, against"
    " the CPU's own way and a float64 pass, with a session that repeats calls as capturing does, and on CUDA where"
    " there is one; products in fp16 are checked by ONNX's reference. What no GPU has shown yet: that the graph is"
    " captured (where that fails its operations are launched one by one, and the log says so), and the times."
)


def _encoder_lines(result: Result) -> list[str]:
    rows = [
        [
            str(each["batch"]),
            _with_spread(each["step_us"], each["step_us_spread"]),
            f"{each['step_ratio_limit']:g}",
            _with_spread(each["top_k_us"], each["top_k_us_spread"]),
            f"{each['top_k_ratio_limit']:g}",
        ]
        for each in result["batches"]
    ]
    paper = result["h100_on_paper"]
    limits = [[name.replace("_", " "), f"{value:g}"] for name, value in paper.items() if name != "batch"]
    return [
        f"{result['provider']}, {result['clock']}; peak {result['peak_gflops']:g} GFLOP/s in"
        f" {result['products']}: an event's matrix products take {result['step_limit_us']:g} us at it and a list's"
        f" {result['top_k_limit_us']:g} us.",
        "",
        *_table(("batch", "step, us an event", "of the limit", "top 10, us a list", "of the limit"), rows),
        "",
        f"An NVIDIA H100 SXM5 on paper at batch {paper['batch']}, from its data sheet; nothing here has run on a GPU:",
        "",
        *_table(("limit", "us"), limits),
        "",
        _ON_A_DEVICE,
    ]


def _ranking_lines(result: Result) -> list[str]:
    header = ("items", *(way["way"] for way in result["sizes"][0]["ways"]))
    rows = [
        [
            f"{size['items']:,}{' (synthetic)' if size['synthetic'] else ''}",
            *(_with_spread(way["us_per_list"], way["us_per_list_spread"]) for way in size["ways"]),
        ]
        for size in result["sizes"]
    ]
    approximate = [
        [f"{size['items']:,}", f"{part['candidates']:,}", f"{part['recall10']:.4f}", f"{part['build_s']:.1f}"]
        for size in result["sizes"]
        if (part := size["approximate"]) is not None
    ]
    return [
        f"Microseconds a list, {result['clock']}; every way but the last is checked against a float64 pass.",
        "",
        *_table(header, rows),
        "",
        *_table(("items", "faiss, codes: candidates scored exactly", "recall@10", "built in, s"), approximate),
    ]


def _state_lines(result: Result) -> list[str]:
    rows = [[name.replace("_", " "), _with_spread(result[name], spread)] for name, spread in result["spread"].items()]
    return ["50 items kept, the ten newest published, no model.", "", *_table(("", "median"), rows), "", *spent(result)]


def _replay_lines(result: Result) -> list[str]:
    rows = [
        [
            each["way"],
            _with_spread(each["events_per_s"], each["events_per_s_spread"]),
            f"{each['seconds']:g}",
            f"{each['lists']:,}",
            f"{each['final_lists']:,}",
            f"{each['ratio_live']:g}",
        ]
        for each in result["ways"]
    ]
    header = ("", "events/s", "seconds", "lists", "final lists", "times the live path")
    live = f"{result['events']:,} purchases; the live path does {result['live_events_per_s']:,} events/s."
    return [live, "", *_table(header, rows)]


def _scale_lines(result: Result) -> list[str]:
    names = list(result["slopes"])
    rows = [[f"{point['size']:,}", *(f"{point[name]:,g}" for name in names)] for point in result["points"]]
    rows.append(["growth", *(f"{slope['name']} ({slope['exponent']:g})" for slope in result["slopes"].values())])
    others = ", ".join(f"{name} {value:,}" for name, value in result["others"].items())
    header = (result["axis"], *(name.replace("_", " ") for name in names))
    load = f"events/s of a backlog of {result['events']:,}; p50 and p99 at {result['load_per_s']:g} events/s"
    return [f"Synthetic: {result['synthetic']}; {others}; {load}.", "", *_table(header, rows)]


_SECTIONS: Final = (
    _Section("pipeline", "Throughput", (), _pipeline_lines),
    _Section("freshness", "Freshness", ("freshness", "stages"), _freshness_lines),
    _Section("peers", "Peers, encoder and top 10", ("peers",), _peers_lines),
    _Section("peers-state", "Peers, state only", ("peers",), _peers_lines),
    _Section("state", "State only", (), _state_lines),
    _Section("encoder", "Encoder", ("encoder",), _encoder_lines),
    _Section("ranking", "Ranking", ("ranking",), _ranking_lines),
    _Section("replay", "Replay", (), _replay_lines),
    _Section("scale-users", "Growth with users", ("scale",), _scale_lines),
    _Section("scale-users-large", "Growth with users, beyond the machine's memory", (), _scale_lines),
    *(
        _Section(f"scale-{axis}", f"Growth with {axis}", ("scale",), _scale_lines)
        for axis in ("items", "history", "partitions", "workers")
    ),
)
