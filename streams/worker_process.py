"""A worker in a process of its own: what the demo, the benchmarks, the chaos runs and the tests start.

The settings go through standard input: arguments are visible to every user of the machine.
"""

import contextlib
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from operators import limits
from streams.clients.errors import ClientError
from streams.settings import Settings

__all__ = ["WorkerProcess", "main"]

_ROOT: Final = Path(__file__).resolve().parents[1]
_CHILD: Final = "from streams.worker_process import main; main()"
_POLL_S: Final = 0.05
_READY_WORDS: Final = b"Worker ready"
"""Faust's, at level INFO, when the state is restored and events are read."""
_LOG_FORMAT: Final = "%(asctime)s %(name)s %(levelname)s %(message)s"
_LOG_TAIL_CHARS: Final = 4_000


class WorkerProcess:
    """One worker on ``home/data-<name>``, its log in ``home/<name>.log``; may be started again and again.

    Leaving the ``with`` block kills it if it still runs.
    """

    def __init__(
        self,
        settings: Settings,
        home: Path,
        name: str = "worker",
        *,
        flush_interval_s: float | None = None,
        log_level: str = "INFO",
        prefix: Sequence[str] = (),
    ) -> None:
        """Nothing is started yet.

        Args:
            settings: of the worker; ``worker.data_dir`` is replaced by its own.
            home: directory of data and log.
            name: of this worker in ``home``.
            flush_interval_s: seconds between two flushes of the store, None for the default; short where a worker
                is to be killed with a part of its state on disk.
            log_level: of the log; ``wait_ready`` needs INFO.
            prefix: a command that runs the worker's, for instance in a network namespace.
        """
        self.name = name
        self.data_dir = home / f"data-{name}"
        self.log_file = home / f"{name}.log"
        own = msgspec.structs.replace(settings.worker, data_dir=str(self.data_dir))
        self.settings = msgspec.structs.replace(settings, worker=own)
        order = {
            "settings": msgspec.to_builtins(self.settings),
            "flush_interval_s": flush_interval_s,
            "log_level": log_level,
        }
        self._order = json.dumps(order).encode()
        self._command = [*prefix, sys.executable, "-c", _CHILD]
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start = 0

    def start(self) -> "WorkerProcess":
        """Start the process; returns at once."""
        self.log_file.touch()
        self._log_start = self.log_file.stat().st_size
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.PIPE, stdout=log, stderr=log, env=_environment()
            )
        leash = self._process.stdin
        assert leash is not None  # noqa: S101  # it was asked for
        with contextlib.suppress(BrokenPipeError), leash:  # a process that ended already says why in its log
            leash.write(self._order)
        return self

    @property
    def process(self) -> "subprocess.Popen[bytes]":
        """The process last started.

        Raises:
            RuntimeError: none was started.
        """
        if self._process is None:
            raise RuntimeError(f"worker {self.name!r} was not started")
        return self._process

    def is_running(self) -> bool:
        """Whether the process has not ended."""
        return self._process is not None and self._process.poll() is None

    def is_ready(self) -> bool:
        """Whether the process last started has restored its state and read events."""
        return _READY_WORDS in self.log()

    def wait_ready(self, timeout_s: float = 60.0) -> "WorkerProcess":
        """Wait until the worker has restored its state and reads events.

        Raises:
            ClientError: it ended, or took too long; the message carries its last words.
        """
        deadline = time.monotonic() + timeout_s
        while not self.is_ready():
            if not self.is_running():
                raise ClientError(f"worker {self.name!r} ended at its start: {self.last_words()}")
            if time.monotonic() > deadline:
                raise ClientError(f"worker {self.name!r} was not ready after {timeout_s:g} s: {self.last_words()}")
            time.sleep(_POLL_S)
        return self

    def log(self) -> bytes:
        """What the process last started has logged."""
        with self.log_file.open("rb") as log:
            log.seek(self._log_start)
            return log.read()

    def log_tail(self) -> str:
        """The end of the log."""
        return self.log().decode(errors="replace")[-_LOG_TAIL_CHARS:]

    def last_words(self) -> str:
        """The last line of the log."""
        lines = self.log_tail().strip().splitlines()
        return lines[-1] if lines else "it wrote nothing"

    def metrics(self) -> dict[str, float]:
        """The values of ``/metrics`` by name and labels; empty where it does not answer."""
        pairs = (line.rsplit(" ", 1) for line in self._metrics_text().splitlines() if line and line[0] != "#")
        return {name: float(value) for name, value in pairs}

    def kill(self) -> None:
        """End it as a crash would."""
        self.process.kill()
        self.process.wait()

    def suspend(self) -> None:
        """Stop it where it stands, as a frozen machine would."""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self.process.send_signal(signal.SIGCONT)

    def terminate(self, timeout_s: float = 30.0) -> int:
        """Ask it to end, and kill it if it does not in ``timeout_s``; returns the exit status."""
        if self.is_running():
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                self.kill()
        return self.process.returncode

    def wipe(self) -> None:
        """Lose the disk."""
        shutil.rmtree(self.data_dir, ignore_errors=True)

    def state_bytes(self) -> int:
        """Bytes of the state on disk; settled once the worker has stopped."""
        return sum(file.stat().st_size for file in self.data_dir.rglob("*") if file.is_file())

    def __enter__(self) -> "WorkerProcess":
        return self

    def __exit__(self, *_: object) -> None:
        if self.is_running():
            self.kill()

    def _metrics_text(self) -> str:
        port = self.settings.worker.web_port
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as response:
                return response.read().decode()
        except OSError:
            return ""


def _environment() -> Mapping[str, str]:
    """Ours, one thread for every numeric library, and this package to be found from any directory."""
    path = os.pathsep.join(part for part in (str(_ROOT), os.environ.get("PYTHONPATH")) if part)
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def main() -> None:
    """The child: a worker with the order of standard input."""
    order: dict[str, Any] = json.load(sys.stdin)
    logging.basicConfig(level=order["log_level"], format=_LOG_FORMAT)
    if order["flush_interval_s"] is not None:
        # Bounds are no settings; these only move how much of the state a crash leaves on disk.
        limits.flush_interval_s = order["flush_interval_s"]  # pyright: ignore[reportConstantRedefinition, reportAttributeAccessIssue]
        limits.flush_bytes_min = 0  # pyright: ignore[reportConstantRedefinition, reportAttributeAccessIssue]
    from streams.serving import run_worker  # noqa: PLC0415  # Faust is not loaded into whoever only starts workers

    run_worker(msgspec.convert(order["settings"], Settings))
