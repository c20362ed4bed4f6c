"""A broker that runs as a process of its own for as long as its owner does."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, Self

from infra.broker.errors import BrokerError
from infra.broker.supervisor import tail

__all__ = ["Broker", "BrokerKind", "launch", "temporary_directory"]

BrokerKind = Literal["embedded", "kafka"]

_SUPERVISOR: Final = Path(__file__).with_name("supervisor.py")
_READY_POLL_S: Final = 0.05


class Broker:
    """A running broker. A context manager: leaving the block stops it.

    ``kind``: "embedded" or "kafka"; ``address``: "127.0.0.1:port"; ``port``; ``pid``: of the broker itself;
    ``log_file``: its output; ``data_dir``: where it keeps records, None for memory. All methods may be called
    from any thread and again after the broker has gone.
    """

    def __init__(
        self,
        *,
        kind: BrokerKind,
        port: int,
        pid: int,
        log_file: Path,
        data_dir: Path | None,
        supervisor: "subprocess.Popen[bytes]",
        grace_s: float,
    ) -> None:
        self.kind: BrokerKind = kind
        self.port = port
        self.address = f"127.0.0.1:{port}"
        self.pid = pid
        self.log_file = log_file
        self.data_dir = data_dir
        self._supervisor = supervisor
        self._grace_s = grace_s
        self._last_words = ""

    def is_running(self) -> bool:
        """Whether the broker is still there."""
        return self._supervisor.poll() is None

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait for the broker to exit by itself; True when it has, False after ``timeout_s`` seconds."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._supervisor.wait(timeout_s)
        return not self.is_running()

    def last_words(self) -> str:
        """Exit status and end of the log of a broker that has gone; waits for that."""
        self._supervisor.wait()
        if not self._last_words:
            end = _next_message(self._supervisor)
            exited = "exit" in end
            self._last_words = f"exit status {end['exit']}, its log ends:{end['log']}" if exited else end["error"]
        return self._last_words

    def stop(self) -> None:
        """End it cleanly (SIGTERM, and SIGKILL after the grace period); returns when it has gone."""
        self._let_go(b"")

    def kill(self) -> None:
        """End it with SIGKILL, as a crash would; returns when it has gone."""
        self._let_go(b"K")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _let_go(self, word: bytes) -> None:
        leash = self._supervisor.stdin
        if leash is not None:
            with contextlib.suppress(OSError, ValueError):
                leash.write(word)
            with contextlib.suppress(OSError, ValueError):
                leash.close()
        try:
            self._supervisor.wait(self._grace_s + 5)
        except subprocess.TimeoutExpired:
            self._supervisor.kill()
            self._supervisor.wait()


def launch(
    kind: BrokerKind,
    command: Sequence[str],
    *,
    port: int,
    log_file: Path,
    data_dir: Path | None,
    remove: Path | None,
    environment: Mapping[str, str],
    answers: Callable[[], bool],
    ready_timeout_s: float,
    grace_s: float,
    hold: Sequence[int] = (),
) -> Broker:
    """Start ``command`` under a supervisor and wait until ``answers()``.

    ``environment`` is added to ours. ``remove`` is a directory to delete once the broker has gone. ``hold`` are
    descriptors that the broker inherits, so that a lock on them lasts as long as it does. Raises
    :class:`BrokerError` with the end of the log when it exits or is silent for ``ready_timeout_s`` seconds.
    """
    order: dict[str, Any] = {
        "command": list(command),
        "log_file": str(log_file),
        "remove": str(remove) if remove else None,
        "grace_s": grace_s,
        "parent": os.getpid(),
        "hold": list(hold),
    }
    supervisor = subprocess.Popen(
        [sys.executable, "-I", "-S", str(_SUPERVISOR), json.dumps(order)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        # Handed on by inheritance and not in the order: arguments are visible to every user of the machine.
        env={**os.environ, **environment},
        bufsize=0,
        start_new_session=True,
        pass_fds=hold,
    )
    broker = Broker(
        kind=kind,
        port=port,
        pid=0,
        log_file=log_file,
        data_dir=data_dir,
        supervisor=supervisor,
        grace_s=grace_s,
    )
    try:
        started = _next_message(supervisor)
        if "pid" not in started:
            raise BrokerError(f"could not start {command[0]}: {started['error']}")
        broker.pid = int(started["pid"])
        _wait_until_ready(broker, answers, ready_timeout_s)
    except BaseException:
        broker.kill()
        raise
    return broker


def temporary_directory() -> Path:
    """A new private directory; the supervisor deletes it."""
    return Path(tempfile.mkdtemp(prefix="headwater-broker-"))


def _wait_until_ready(broker: Broker, answers: Callable[[], bool], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not answers():
        if not broker.is_running():
            raise BrokerError(f"the {broker.kind} broker stopped while starting: {broker.last_words()}")
        if time.monotonic() > deadline:
            raise BrokerError(
                f"the {broker.kind} broker did not answer on {broker.address} within {timeout_s:g} s; "
                f"its log ends:{tail(broker.log_file)}"
            )
        time.sleep(_READY_POLL_S)


def _next_message(supervisor: "subprocess.Popen[bytes]") -> dict[str, Any]:
    line = supervisor.stdout.readline() if supervisor.stdout else b""
    return json.loads(line) if line else {"error": "its supervisor was killed"}
