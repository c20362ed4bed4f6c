"""A disk that is full or read-only, and too few file descriptors: one line, and after the repair nothing is lost."""

import os
import resource
import subprocess
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from streams.chaos.load import Load
from streams.chaos.run import judged_in_the_end
from streams.chaos.stage import staged
from streams.settings import BrokerSettings
from streams.worker_process import WorkerProcess
from tests.integration.harness import create_topics, new_settings
from tests.last_words import the_only_error

_ENDS_S_MAX: Final = 60.0
_DISK: Final = "data-worker-0"
"""Where the only worker of a stage has its data."""


def _mount(*arguments: str) -> None:
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"cannot mount here: {done.stderr.strip()}")


def _unmount(directory: Path) -> None:
    subprocess.run(["umount", "--lazy", directory], check=True)


@contextmanager
def _full(home: Path, _: WorkerProcess) -> Generator[None]:
    """The small disk under the data has been filling up since the start; it is made larger."""
    yield
    _mount("-o", "remount,size=200m", str(home / _DISK))


@contextmanager
def _read_only(home: Path, _: WorkerProcess) -> Generator[None]:
    """A read-only mount over the data: what is open may still be written, nothing new can be made."""
    view = home / "view"
    view.mkdir()
    _mount("--bind", str(home / _DISK), str(view))
    _mount("-o", "remount,ro,bind", str(view))
    _mount("--bind", str(view), str(home / _DISK))
    try:
        yield
    finally:
        _unmount(home / _DISK)
        _unmount(view)


@contextmanager
def _no_descriptors(_: Path, worker: WorkerProcess) -> Generator[None]:
    """Not one file more than the worker has open."""
    used = len(os.listdir(f"/proc/{worker.process.pid}/fd"))  # noqa: PTH208  # /proc gives names only
    resource.prlimit(worker.process.pid, resource.RLIMIT_NOFILE, (used, used))
    yield


_FAULTS: Final = {
    "full": (_full, "No space left on device", "Make room on that disk"),
    "read-only": (_read_only, "Read-only file system", "Mount that file system for writing"),
    "descriptors": (_no_descriptors, "Too many open files", "Raise the limit of open files"),
}


@pytest.mark.kafka
@pytest.mark.timeout(200)
@pytest.mark.parametrize("fault", _FAULTS)
def test_the_worker_ends_with_one_line_and_nothing_is_lost(kafka: str, tmp_path: Path, fault: str) -> None:
    if os.geteuid():
        pytest.skip("only root may mount and change limits")
    injected, cause, remedy = _FAULTS[fault]
    disk = tmp_path / _DISK
    disk.mkdir()
    _mount("-t", "tmpfs", "-o", f"size={'6m' if fault == 'full' else '200m'}", "tmpfs", str(disk))
    try:
        with staged(
            BrokerSettings(address=kafka), workers=1, networks=False, home=tmp_path, echo=print, batch_events_max=100
        ) as stage:
            worker = stage.workers[0]
            with Load(stage.settings, 1, users=4_000, events_per_s=1_500, types=(0, 1, 2)) as load:
                with injected(tmp_path, worker):
                    assert worker.process.wait(_ENDS_S_MAX) == 1
                time.sleep(1)
                load.finish()
            the_only_error(worker.log(), str(disk), cause, remedy, of=" streams.")
            judged = judged_in_the_end(stage, load, print)
            assert judged.problems == []
            assert (judged.verdict.lost, judged.verdict.doubled) == (0, 0)
            assert judged.events > 500
    finally:
        _unmount(disk)


@pytest.mark.kafka
def test_too_low_a_limit_of_open_files_is_refused_at_the_start(kafka: str, tmp_path: Path) -> None:
    settings = new_settings(kafka, tmp_path)
    create_topics(settings)
    with WorkerProcess(settings, tmp_path, prefix=["prlimit", "--nofile=100:100"]).start() as worker:
        assert worker.process.wait(60) == 1
        assert "this process may open 100 files, and 4 partitions need 256" in worker.last_words()
        assert b"Traceback" not in worker.log()
