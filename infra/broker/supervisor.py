"""Runs one broker process and outlives nobody: when the parent goes, so does the broker.

Started by :mod:`infra.broker.process` as a script, with a JSON object as its only argument:
``{"command", "log_file", "remove", "grace_s", "parent", "hold"}``. Its standard input is the leash: end of file
stops the broker politely, the byte ``K`` kills it. The first line on standard output is ``{"pid": int}`` or
``{"error": str}``; when the broker has gone, another, ``{"exit": int, "log": str}``, gives its exit status and last
words. Then the directory ``remove``, if one was named, is deleted (the log may be in it).

A supervisor is used instead of a parent-death signal on the broker itself because that signal follows the
*thread* that started the process, and does not exist outside Linux.
"""

import contextlib
import ctypes
import json
import os
import select
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

__all__ = ["main", "tail"]

_POLL_S = 0.1
_TAIL_BYTES = 8_000
_TAIL_LINES = 8
_PR_SET_PDEATHSIG = 1


def main() -> int:
    """Supervise until the broker is gone; the exit status is the broker's, 1 when it could not start."""
    order: dict[str, Any] = json.loads(sys.argv[1])
    signal.signal(signal.SIGTERM, _raise_exit)
    signal.signal(signal.SIGINT, _raise_exit)
    try:
        return _supervise(order)
    finally:
        if order["remove"]:
            shutil.rmtree(order["remove"], ignore_errors=True)


def tail(log_file: Path) -> str:
    """The last lines of a log without stack frames, indented to follow a message."""
    try:
        with log_file.open("rb") as log:
            log.seek(max(0, log_file.stat().st_size - _TAIL_BYTES))
            text = log.read().decode("utf-8", "replace").strip()
    except OSError as error:
        text = f"({error})"
    lines = [line for line in text.splitlines() if not line.startswith("\tat ")]
    return "".join(f"\n  {line}" for line in lines[-_TAIL_LINES:]) or " (empty)"


def _supervise(order: dict[str, Any]) -> int:
    try:
        with Path(order["log_file"]).open("ab") as log:
            child = subprocess.Popen(
                order["command"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                # Open files that the broker keeps open, and so locked, for as long as it lives.
                pass_fds=order["hold"],
                # PLW1509 warns of threads: this process has one.
                preexec_fn=_die_with_supervisor if sys.platform == "linux" else None,  # noqa: PLW1509
            )
    except OSError as error:
        _say({"error": str(error)})
        return 1
    try:
        _say({"pid": child.pid})
        _hold(child, order["parent"])
    finally:
        _end(child, order["grace_s"])
        _say({"exit": child.returncode, "log": tail(Path(order["log_file"]))})
    return child.returncode


def _hold(child: "subprocess.Popen[bytes]", parent: int) -> None:
    """Return when the broker has exited or has to."""
    leash = sys.stdin.fileno()
    while child.poll() is None:
        # A process forked from the parent may hold the other end open, hence the look at the parent itself.
        if os.getppid() != parent:
            return
        if select.select([leash], [], [], _POLL_S)[0]:
            if os.read(leash, 1) == b"K":
                child.kill()
            return


def _end(child: "subprocess.Popen[bytes]", grace_s: float) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if child.poll() is None:
        child.terminate()
    try:
        child.wait(grace_s)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _die_with_supervisor() -> None:
    """Ask Linux to kill this process with its (single-threaded) parent: the supervisor may be killed too."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _raise_exit(_signal: int, _frame: object) -> None:
    raise SystemExit(0)


def _say(message: dict[str, Any]) -> None:
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.write(json.dumps(message) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
