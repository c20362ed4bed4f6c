"""Every component and their fusion under leave-one-out: options and weights chosen on validation, test read once."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.components import specs
from models.errors import ModelError
from models.fitted import Options, Setting, Spec, varied
from models.fusion import Examples, Fusion, learn_weights
from models.held_out import LISTS_AT_ONCE, LeaveOneOut, ranks_of, read_leave_one_out
from models.leave_one_out import LeaveOneOutSplit
from models.manifest import load_manifest
from models.metrics import bootstrap_interval, gains
from operators.candidates.component import Component

__all__ = ["FUSION", "Protocol", "Report", "Row", "Trial", "evaluate_components", "item_texts"]

Protocol = Literal["strict", "refit"]

FUSION: Final = "fusion"
ENCODER: Final = "encoder"
LIST_ITEMS: Final = 10
FEATURES_PER_COMPONENT: Final = 2


class Row(msgspec.Struct, frozen=True):
    """Test figures of one component, means over users and seeds; intervals are of 95 %, over resampled users."""

    component: str
    hr10: float
    hr10_ci: tuple[float, float]
    hr10_seeds: tuple[float, ...]
    """Of each seed of the report; the same for all where a component draws nothing."""
    ndcg10: float
    ndcg10_ci: tuple[float, float]
    ndcg10_seeds: tuple[float, ...]
    validation_ndcg10: float
    """Of what chose, fitted on the training part, under either protocol."""
    options_seeds: tuple[dict[str, float | int | str], ...]
    """Of each seed of the report, those that validation chose; of a fusion the weights."""
    fit_s: float
    """On the training part, with the options that were chosen; of a fusion learning the weights."""
    score_ms_per_list: float
    protocol: str


class Report(msgspec.Struct, frozen=True):
    """One data set under one protocol."""

    dataset: str
    protocol: str
    seeds: list[int]
    """What the encoders were trained with, or the repetitions 0, 1, ... where there are none."""
    users: int
    items: int
    results: list[Row]
    left_out: dict[str, str]
    """Components that were not evaluated, and what they lack."""


@dataclass(frozen=True, slots=True)
class Trial:
    """What is to be evaluated, and on how many users options and weights are chosen."""

    dataset: str
    data: Path
    items: Path | None = None
    encoders: Sequence[Path] = ()
    """One artefact a seed."""
    refit_encoders: Sequence[Path] = ()
    """Of the same seeds, trained on the validation targets too: judged on the test, after the others chose weights."""
    components: Sequence[str] = ()
    """Names, all that can be had without any."""
    protocol: Protocol = "strict"
    seeds: int | None = None
    """Repetitions; None: as many as encoders, or one."""
    choosing_users: int = 2_000
    learning_users: int = 6_000


class _Judged(NamedTuple):
    """A component with the options that validation chose, and its test ranks (U,)."""

    spec: Spec
    strict: Component
    """Fitted on the training part: what chose."""
    component: Component
    """What was judged; another one under the protocol of refitting."""
    options: Options
    validation_ndcg: float
    ranks: NDArray[np.float64]
    fit_s: float
    score_s: float


Advance = Callable[[str, float], None]
"""Told of the work being done, and the share of it that is."""


def evaluate_components(trial: Trial, advance: Advance = lambda _what, _share: None) -> Report:
    """Fit, choose, score.

    Raises:
        ModelError: a file cannot be used, a component is unknown or cannot be had, or the encoders are not one a seed.
    """
    seeds = _seeds(trial)
    data = read_leave_one_out(trial.data)
    setting = Setting(data.items, data.item_ids, _texts(trial, data.items))
    chosen, left_out = _available(trial, replace(setting, encoder=trial.encoders[0] if trial.encoders else None))
    judged: list[list[_Judged]] = []
    for seed in range(len(seeds)):
        encoder = trial.encoders[seed] if trial.encoders else None
        refit = trial.refit_encoders[seed] if trial.refit_encoders else None
        before = judged[0] if judged else []
        of_seed = replace(setting, encoder=encoder, refit_encoder=refit, seed=seed)
        judged.append(_one_seed(trial, data, of_seed, chosen, before, advance))
    as_trained = not trial.refit_encoders and any(spec.name == ENCODER for spec in chosen)
    rows = [_row(list(of_seeds), trial.protocol, as_trained=as_trained) for of_seeds in zip(*judged, strict=True)]
    return Report(
        trial.dataset,
        trial.protocol,
        seeds,
        data.whole.users,
        data.items - 1,
        sorted(rows, key=lambda row: row.ndcg10),
        left_out,
    )


def item_texts(path: Path, items: int) -> list[str]:
    """(N,) what a tab-separated file with a header says of each item: its number, then columns of text.

    Raises:
        ModelError: the file is missing or a line does not begin with an item number.
    """
    texts = [""] * items
    try:
        lines = path.read_text().splitlines()[1:]
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"cannot read {path} ({error}); give titles and genres with --items FILE") from error
    for number, line in enumerate(lines, 2):
        item, *words = line.split("\t")
        if not item.isdecimal():
            raise ModelError(f"{path} line {number}: expected an item number, then columns of text")
        if int(item) < items:
            texts[int(item)] = " ".join(words).replace("|", " ").strip()
    return texts


def _seeds(trial: Trial) -> list[int]:
    if trial.refit_encoders and (trial.protocol != "refit" or len(trial.refit_encoders) != len(trial.encoders)):
        raise ModelError("refitted encoders are judged under --protocol refit only, one beside each --encoder")
    if not trial.encoders:
        return list(range(trial.seeds or 1))
    seeds = [load_manifest(encoder).seed for encoder in trial.encoders]
    if len(set(seeds)) < len(seeds):
        raise ModelError(f"the encoders are of seeds {seeds}; train one a seed with `headwater train --seed N`")
    if trial.seeds not in {None, len(seeds)}:
        raise ModelError(f"{trial.seeds} seeds need as many encoders, not {len(seeds)}; give --encoder once a seed")
    return seeds


def _texts(trial: Trial, items: int) -> list[str] | None:
    return None if trial.items is None else item_texts(trial.items, items)


def _available(trial: Trial, setting: Setting) -> tuple[list[Spec], dict[str, str]]:
    known = {spec.name: spec for spec in specs()}
    for name in trial.components:
        if name not in known:
            raise ModelError(f"no component {name!r}; there are {', '.join(known)}")
        if lacks := known[name].missing(setting):
            raise ModelError(f"component {name!r} needs {lacks}")
    wanted = [spec for spec in known.values() if not trial.components or spec.name in trial.components]
    lacking = {spec.name: lacks for spec in wanted if (lacks := spec.missing(setting))}
    return [spec for spec in wanted if spec.name not in lacking], lacking


def _one_seed(
    trial: Trial,
    data: LeaveOneOut,
    setting: Setting,
    chosen: Sequence[Spec],
    before: Sequence[_Judged],
    advance: Advance,
) -> list[_Judged]:
    done = {one.spec.name: one for one in before if not one.spec.seeded}
    judged: list[_Judged] = []
    for spec in chosen:
        judged.append(done.get(spec.name) or _judge(trial, data, setting, spec, advance))
    if len(judged) > 1:
        sample = _sample(data.whole.users, trial.learning_users, setting.seed)
        judged.append(_judge_fusion(data, sample, judged, advance))
    return judged


def _judge(trial: Trial, data: LeaveOneOut, setting: Setting, spec: Spec, advance: Advance) -> _Judged:
    sample = _sample(data.whole.users, trial.choosing_users, setting.seed)
    tries = [(fitting, scoring) for fitting in spec.fitting for scoring in spec.scoring]
    fit_s, fitted, fitted_with = 0.0, spec.build(setting), None
    best = -1.0, fitted, tries[0][0], fit_s
    for n, (fitting, scoring) in enumerate(tries):
        advance(f"{spec.name}: choosing", n / len(tries))
        if fitting is not fitted_with:
            fitted, fitted_with = varied(spec.build(setting), fitting), fitting
            started = time.perf_counter()
            fitted.fit(data.train("validation"))
            fit_s = time.perf_counter() - started
        component = varied(fitted, scoring)
        found = 0.0 if len(tries) == 1 else _ndcg(_ranks(component, data, "validation", sample))
        if found > best[0]:
            best = found, component, {**fitting, **scoring}, fit_s
    _, strict, options, fit_s = best
    component = strict
    if trial.protocol == "refit":
        component = varied(spec.build(replace(setting, encoder=setting.refit_encoder or setting.encoder)), options)
        component.fit(data.train("test", refit=True))
    return _tested(data, spec, strict, component, options, fit_s, advance)


def _judge_fusion(data: LeaveOneOut, sample: NDArray[np.int64], judged: Sequence[_Judged], advance: Advance) -> _Judged:
    # The weights are learned from components that have not seen the validation targets.
    strict = [one.strict for one in judged]
    started = time.perf_counter()
    features = FEATURES_PER_COMPONENT * len(strict)
    fusion = Fusion(strict, np.zeros(features, np.float32))
    history, targets = data.before("validation").chosen(sample), data.targets("validation")[sample]
    parts: list[Examples] = []
    for start in range(0, len(sample), LISTS_AT_ONCE):
        stop = start + LISTS_AT_ONCE
        parts.append(fusion.examples(history.between(start, stop), targets[start:stop]))
        advance(f"{FUSION}: learning", start / len(sample))
    weights = learn_weights(Examples.joined(parts))
    fit_s = time.perf_counter() - started
    fusion = Fusion([one.component for one in judged], weights)
    options = _described([one.spec.name for one in judged], weights)
    spec = Spec(FUSION, lambda _: fusion, seeded=True)
    return _tested(data, spec, Fusion(strict, weights), fusion, options, fit_s, advance)


def _described(names: Sequence[str], weights: NDArray[np.float32]) -> dict[str, str]:
    pairs = weights.reshape(len(names), FEATURES_PER_COMPONENT).tolist()
    return {name: f"{flat:.3f} {growing:+.3f} a decade" for name, (flat, growing) in zip(names, pairs, strict=True)}


def _tested(
    data: LeaveOneOut,
    spec: Spec,
    strict: Component,
    component: Component,
    options: Options,
    fit_s: float,
    advance: Advance,
) -> _Judged:
    everyone = np.arange(data.whole.users)
    validation = _ndcg(_ranks(strict, data, "validation", everyone))
    started = time.perf_counter()
    ranks = _ranks(component, data, "test", everyone, lambda share: advance(f"{spec.name}: test", share))
    return _Judged(spec, strict, component, options, validation, ranks, fit_s, time.perf_counter() - started)


def _ranks(
    component: Component,
    data: LeaveOneOut,
    split: LeaveOneOutSplit,
    users: NDArray[np.int64],
    told: Callable[[float], None] = lambda _: None,
) -> NDArray[np.float64]:
    return ranks_of(component.scores, data.before(split).chosen(users), data.targets(split)[users], told)


def _ndcg(ranks: NDArray[np.float64]) -> float:
    return float(gains(ranks, LIST_ITEMS).mean())


def _sample(users: int, count: int, seed: int) -> NDArray[np.int64]:
    return np.sort(np.random.default_rng(seed).permutation(users)[:count])


def _row(of_seeds: Sequence[_Judged], protocol: Protocol, *, as_trained: bool) -> Row:
    first = of_seeds[0]
    ranks = np.stack([one.ranks for one in of_seeds])  # (seeds, U)
    hits, gain = (ranks <= LIST_ITEMS).astype(np.float64), gains(ranks, LIST_ITEMS)
    return Row(
        component=first.spec.name,
        hr10=round(float(hits.mean()), 4),
        hr10_ci=_rounded(bootstrap_interval(hits.mean(axis=0))),
        hr10_seeds=_means(hits),
        ndcg10=round(float(gain.mean()), 4),
        ndcg10_ci=_rounded(bootstrap_interval(gain.mean(axis=0))),
        ndcg10_seeds=_means(gain),
        validation_ndcg10=round(float(np.mean([one.validation_ndcg for one in of_seeds])), 4),
        options_seeds=tuple(dict(one.options) for one in of_seeds),
        fit_s=round(float(np.mean([one.fit_s for one in of_seeds])), 1),
        score_ms_per_list=round(1000 * float(np.mean([one.score_s for one in of_seeds])) / len(first.ranks), 3),
        protocol=_protocol(first.spec.name, protocol, as_trained=as_trained),
    )


def _protocol(component: str, protocol: Protocol, *, as_trained: bool) -> str:
    """What to say of a component where the encoder, if ``as_trained``, learned from what its training gave it."""
    if as_trained and component == ENCODER:
        return "as trained"
    return f"{protocol}, the encoder as trained" if as_trained and component == FUSION else protocol


def _rounded(interval: tuple[float, float]) -> tuple[float, float]:
    return round(interval[0], 4), round(interval[1], 4)


def _means(of_seeds: NDArray[np.float64]) -> tuple[float, ...]:
    """(seeds, U) -> the mean over users of each seed."""
    return tuple(round(float(ranked.mean()), 4) for ranked in of_seeds)
