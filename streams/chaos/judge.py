"""All that is read back after a run, and what every checker says of it."""

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from streams.chaos.checkers import change_problems, commit_problems, delivery_problems, store_problems
from streams.chaos.load import Load
from streams.chaos.oracle import Oracle, Place, Verdict
from streams.chaos.pauses import Answer
from streams.chaos.readback import changelog_of, commits_of, records_of
from streams.chaos.stage import Stage

__all__ = ["Judged", "judge"]


class Judged(NamedTuple):
    """A run's outcome."""

    events: int
    users: int
    lists: int
    repeated: int
    """Lists beyond the first that name an event: published again after a crash."""
    commits: int
    unacknowledged: int
    """Events whose fate the producer did not learn; those that lie in their topics count like all others."""
    verdict: Verdict
    problems: list[str]
    """Of every checker; empty is exact."""
    answers: dict[int, list[Answer]]
    """By partition."""


class _Lists(NamedTuple):
    content: list[tuple[bytes | None, bytes]]
    answers: dict[int, list[Answer]]
    repeated: int


def judge(stage: Stage, load: Load, echo: Callable[[str], object]) -> Judged:
    """Read everything back and hold it against the oracle; the workers have stopped.

    Raises:
        ClientError: the broker does not answer.
    """
    settings = stage.settings
    echo("reading events, lists and changelog back")
    oracle = Oracle(settings.topics.events)
    found: dict[int, Place] = {}
    times_ms: dict[Place, int] = {}
    for topic in settings.topics.events:
        for record in records_of(settings, topic):
            place = Place(topic, record.partition, record.offset)
            oracle.add(place, record.value or b"")
            found[json.loads(record.value or b"")["context"]["n"]] = place
            times_ms[place] = record.timestamp
    lists = _lists(stage, times_ms)
    changelog = changelog_of(settings)
    commits = commits_of(settings)
    echo("judging")
    verdict = oracle.judge(changelog.states, late_allowed=True)
    problems = [
        *verdict.wrong,
        *oracle.list_problems(lists.content, in_order=False),
        *commit_problems(oracle, changelog, commits, in_transactions=settings.worker.delivery == "exactly_once"),
        *change_problems(changelog),
        *store_problems(settings, [worker.data_dir for worker in stage.workers], changelog),
        *delivery_problems(load.acknowledged, found),
    ]
    return Judged(
        len(times_ms),
        len(oracle.users),
        len(lists.content),
        lists.repeated,
        len(commits),
        len(load.unacknowledged),
        verdict,
        problems,
        lists.answers,
    )


def _lists(stage: Stage, times_ms: Mapping[Place, int]) -> _Lists:
    content: list[tuple[bytes | None, bytes]] = []
    answers: defaultdict[int, list[Answer]] = defaultdict(list)
    named: set[Place] = set()
    repeated = 0
    for record in records_of(stage.settings, stage.settings.topics.recommendations):
        value = record.value or b""
        causes = [Place(**cause) for cause in json.loads(value)["caused_by"]]
        repeated += any(cause in named for cause in causes)
        named.update(causes)
        content.append((record.key, value))
        answers[record.partition].append(Answer(record.timestamp, _newest(causes, times_ms)))
    return _Lists(content, dict(answers), repeated)


def _newest(causes: Sequence[Place], times_ms: Mapping[Place, int]) -> int:
    return max(times_ms.get(cause, 0) for cause in causes)
