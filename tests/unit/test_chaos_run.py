"""How a chaos run ends its workers, and what stays of one that failed."""

# pyright: reportPrivateUsage=false

from typing import Any

import pytest

from streams.chaos.run import _stopped
from streams.chaos.stage import Stage, _Scratch
from streams.clients.errors import ClientError


class Worker:
    """As much of a worker's process as a stage touches; ``starts`` says of each start whether it lasts."""

    name = "worker-0"

    def __init__(self, *starts: bool) -> None:
        self._starts = iter(starts)
        self._lasts = next(self._starts)
        self.started = 0
        self.process = self
        self.returncode = 1

    def is_running(self) -> bool:
        return self._lasts

    def wait_ready(self) -> "Worker":
        if not self._lasts:
            raise ClientError("it ended")
        return self

    def terminate(self) -> int:
        return 0

    def start(self) -> None:
        self.started += 1
        self._lasts = next(self._starts)

    def last_words(self) -> str:
        return "fenced"


def _stage() -> Any:
    stage: Any = Stage.__new__(Stage)
    stage.deaths = []
    return stage


def test_a_worker_that_hears_late_that_it_was_fenced_is_started_once_more() -> None:
    worker: Any = Worker(False, True)
    stage = _stage()
    assert _stopped(stage, worker) == 0
    assert (worker.started, stage.deaths) == (1, ["worker-0, status 1: fenced"])


def test_one_that_ends_again_or_is_not_ready_is_a_failure() -> None:
    stage, again, slow = _stage(), Worker(False, False), Worker(True)
    ended: Any = again
    with pytest.raises(ClientError, match="it ended"):
        _stopped(stage, ended)
    not_ready: Any = slow
    slow.wait_ready = lambda: (_ for _ in ()).throw(ClientError("not ready"))  # type: ignore[method-assign]
    with pytest.raises(ClientError, match="not ready"):
        _stopped(stage, not_ready)
    assert slow.started == 0


def test_logs_and_data_of_a_run_that_failed_stay() -> None:
    said: list[object] = []
    with _Scratch(said.append) as home:
        assert home.is_dir()
    assert not home.exists()
    assert said == []
    with pytest.raises(ClientError), _Scratch(said.append) as home:
        raise ClientError("nothing was committed")
    assert home.is_dir()
    assert said == [f"failed; logs and data stay in {home}"]
    home.rmdir()
    judged_badly = _Scratch(said.append)
    with judged_badly as home:
        judged_badly.keep()
    assert said[1:] == [f"failed; logs and data stay in {home}"]
    home.rmdir()
