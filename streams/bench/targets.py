"""What the project set out to reach, each beside what the last runs measured."""

from collections.abc import Callable, Mapping
from statistics import median
from typing import Any, Final, NamedTuple

__all__ = ["TARGETS", "Judged", "Target", "judge"]

Results = Mapping[str, Mapping[str, Any]]


class Measured(NamedTuple):
    """A figure with its least and greatest."""

    value: float
    least: float
    greatest: float


class Target(NamedTuple):
    """A figure to reach, and what stands in its way where it is not."""

    name: str
    bound: float
    at_least: bool
    unit: str
    figure: Callable[[Results], Measured]
    """Raises LookupError where the benches that it needs were not run."""
    next_step: str


class Judged(NamedTuple):
    """A target and what came of it; None where it was not measured."""

    target: Target
    measured: Measured | None

    @property
    def verdict(self) -> str:
        """met, not met or not measured."""
        if self.measured is None:
            return "not measured"
        value, bound = self.measured.value, self.target.bound
        return "met" if (value >= bound if self.target.at_least else value <= bound) else "not met"


def judge(results: Results) -> list[Judged]:
    """Every target."""
    judged: list[Judged] = []
    for target in TARGETS:
        try:
            judged.append(Judged(target, target.figure(results)))
        except (LookupError, StopIteration, ZeroDivisionError):
            judged.append(Judged(target, None))
    return judged


def _plain(bench: str, name: str) -> Callable[[Results], Measured]:
    def figure(results: Results) -> Measured:
        result = results[bench]
        return Measured(result[name], result["spread"][name]["min"], result["spread"][name]["max"])

    return figure


def _share_of_arithmetic(results: Results) -> Measured:
    """Events a second, over those at which the matrix products alone would fill a core at its peak."""
    pipeline, encoder = results["pipeline"], results["encoder"]
    limit_us = encoder["step_limit_us"] + encoder["top_k_limit_us"] / pipeline["events_per_list"]
    rates = _plain("pipeline", "events_per_s")(results)
    return Measured(*(round(rate * limit_us / 1e6, 3) for rate in rates))


def _times_peer(bench: str, name: str) -> Callable[[Results], Measured]:
    def figure(results: Results) -> Measured:
        peer = next(each for each in results[bench]["contenders"] if each["name"].startswith(name))
        spread = peer["ratio_headwater_spread"]
        return Measured(peer["ratio_headwater"], spread["min"], spread["max"])

    return figure


def _times_best_peer(bench: str) -> Callable[[Results], Measured]:
    def figure(results: Results) -> Measured:
        others = [each for each in results[bench]["contenders"] if each["name"] != "headwater"]
        if not others:
            raise LookupError(bench)
        best = max(others, key=lambda each: each["events_per_s"])
        spread = best["ratio_headwater_spread"]
        return Measured(best["ratio_headwater"], spread["min"], spread["max"])

    return figure


def _at_half_load(name: str) -> Callable[[Results], Measured]:
    def figure(results: Results) -> Measured:
        load = next(each for each in results["freshness"]["loads"] if each["load"] == 0.5)
        return Measured(load[name], load["spread"][name]["min"], load["spread"][name]["max"])

    return figure


def _two_workers(results: Results) -> Measured:
    """The median over the rounds, each of which has one worker and then two."""
    rates = {point["size"]: point["events_per_s_rounds"] for point in results["scale-workers"]["points"]}
    ratios = [round(two / one, 2) for one, two in zip(rates[1], rates[2], strict=True)]
    return Measured(median(ratios), min(ratios), max(ratios))


_CORE: Final = "the stage table shows what an event costs where; the largest stage is the next to shrink"
_LOCK: Final = (
    "broker and worker share two cores, and the worker's threads one interpreter lock, which their Python code holds"
    " three quarters of the time; encoder and scoring are two fifths of its processor time, without the lock. The"
    " core's thread is never idle, and waits for the lock a quarter of its time. Next: one look-up of an event's item"
    " instead of two, and states and lists that are copied fewer times on their way to the broker"
)
_WORKERS: Final = (
    "the workers share two cores with the broker. Where an event takes as much processor time with two workers as with"
    " one (the table has it), cores are what is missing: measure with one more for each, the broker elsewhere"
)
_SHARED: Final = (
    "broker, generator and worker share two cores. Half of the capacity in events is four fifths of their time, because"
    " batches are small then and share fewer lists (8 to 11 events each where a backlog has 22); half of it goes to"
    " broker and generator, and the worker's threads wait for each other's lock. A batch costs all three together 10 ms"
    " of processor time whatever is in it. Next: that, and the broker on another machine"
)

TARGETS: Final = (
    Target("events/s, encoder and exact top 10", 20_000, True, "/s", _plain("pipeline", "events_per_s"), _CORE),
    Target(
        "of the arithmetic limit of encoder and scoring",
        0.6,
        True,
        "",
        _share_of_arithmetic,
        _LOCK,
    ),
    Target("of the lowest ceiling (encoder, clients)", 0.5, True, "", _plain("pipeline", "ratio_ceiling"), _LOCK),
    Target("times the naive Faust agent", 20, True, "x", _times_peer("peers", "naive"), _CORE),
    Target("times quixstreams", 8, True, "x", _times_peer("peers", "quixstreams"), _CORE),
    Target("times bytewax, map", 1.5, True, "x", _times_peer("peers", "bytewax, stateful map"), _CORE),
    Target("times bytewax, batch", 1.5, True, "x", _times_peer("peers", "bytewax, stateful batch"), _CORE),
    Target("times the bare loop", 1.0, True, "x", _times_peer("peers", "bare"), _CORE),
    Target("events/s, state only", 100_000, True, "/s", _plain("state", "events_per_s"), _CORE),
    Target("times the best peer, state only", 1.0, True, "x", _times_best_peer("peers-state"), _CORE),
    Target("ms, p50 at half load", 15, False, "ms", _at_half_load("p50_ms"), _SHARED),
    Target("ms, p99 at half load", 50, False, "ms", _at_half_load("p99_ms"), _SHARED),
    Target("ms, p99.9 at half load", 150, False, "ms", _at_half_load("p999_ms"), _SHARED),
    Target("times one worker, two workers", 1.8, True, "x", _two_workers, _WORKERS),
)
