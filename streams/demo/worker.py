"""A worker in a process of its own, for the demonstration."""

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from infra.broker.probe import claim_port
from streams.clients.errors import ClientError
from streams.settings import Settings

__all__ = ["WorkerProcess"]

_READY_WAIT_S = 60.0
_STOP_WAIT_S = 30.0


class WorkerProcess:
    """``headwater worker`` on a directory; ends with the ``with`` block."""

    def __init__(self, settings: Settings, directory: Path) -> None:
        self.directory = directory
        self._port = claim_port(0)
        self._log = (directory / "worker.log").open("wb")
        environ = {
            **os.environ,
            "HEADWATER_BROKER": settings.broker.address,
            "HEADWATER_WORKER_DATA_DIR": str(directory / "state"),
            "HEADWATER_WORKER_WEB_PORT": str(self._port),
            "HEADWATER_WORKER_FETCH_WAIT_MS": "20",
        }
        command = [sys.executable, "-c", "from streams.cli import main; main()", "worker"]
        self._process = subprocess.Popen(command, env=environ, stdout=self._log, stderr=self._log)

    def __enter__(self) -> "WorkerProcess":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def wait_ready(self) -> None:
        """Return when the worker processes events.

        Raises:
            ClientError: it ended, or took too long; the message carries its last words.
        """
        deadline = time.monotonic() + _READY_WAIT_S
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise ClientError(f"the worker ended at its start: {self._last_words()}")
            if self._get("/ready") is not None:
                return
            time.sleep(0.1)
        raise ClientError(f"the worker was not ready after {_READY_WAIT_S:g} s: {self._last_words()}")

    def metrics(self) -> dict[str, float]:
        """The counters of ``/metrics`` by name, without labels."""
        text = (self._get("/metrics") or b"").decode()
        pairs = (line.rsplit(" ", 1) for line in text.splitlines() if line and not line.startswith("#"))
        return {name: float(value) for name, value in pairs}

    def stop(self) -> int:
        """SIGTERM, and SIGKILL if that is not heard; returns the exit status."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(_STOP_WAIT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._log.close()
        return self._process.returncode

    def state_bytes(self) -> int:
        """Bytes of the state on disk; settled once the worker has stopped."""
        return sum(file.stat().st_size for file in (self.directory / "state").rglob("*") if file.is_file())

    def _get(self, path: str) -> bytes | None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._port}{path}", timeout=2) as response:
                return response.read()
        except (urllib.error.URLError, OSError):
            return None

    def _last_words(self) -> str:
        lines = (self.directory / "worker.log").read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it wrote nothing"
