"""The broker package without a broker: supervision and readiness."""

import contextlib
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest

from infra import broker
from infra.broker import probe, process
from infra.broker.supervisor import tail

FAKE = """
import os, pathlib, signal, sys, time
home = pathlib.Path(sys.argv[1])
def polite(*_):
    (home / "stopped").touch()
    if "stubborn" not in sys.argv:
        sys.exit(0)
signal.signal(signal.SIGTERM, polite)
print("hello", os.environ.get("FAKE_WORD", ""), flush=True)
if "broken" in sys.argv:
    sys.exit("no such luck")
(home / "ready").touch()
while True:
    time.sleep(0.05)
"""


@pytest.fixture
def start_fake(tmp_path: Path) -> Iterator[Callable[..., process.Broker]]:
    """Launches a process that behaves like a broker; its files are in ``tmp_path``."""
    started: list[process.Broker] = []

    def start(
        *flags: str, ready_timeout_s: float = 10, grace_s: float = 5, remove: Path | None = None
    ) -> process.Broker:
        started.append(
            process.launch(
                "embedded",
                [sys.executable, "-c", FAKE, str(tmp_path), *flags],
                port=1,
                log_file=tmp_path / "log",
                data_dir=None,
                remove=remove,
                environment={"FAKE_WORD": "sesame"},
                answers=(tmp_path / "ready").exists,
                ready_timeout_s=ready_timeout_s,
                grace_s=grace_s,
            )
        )
        return started[-1]

    yield start
    for each in started:
        each.kill()


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _until(condition: Callable[[], bool], limit_s: float = 10) -> bool:
    deadline = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def test_stop_asks_first_and_leaves_nothing(start_fake: Callable[..., process.Broker], tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    fake = start_fake(remove=scratch)
    assert fake.is_running()
    assert _is_alive(fake.pid)
    assert not fake.wait(0.05)
    fake.stop()
    assert (tmp_path / "stopped").exists(), "the broker was not asked to stop"
    assert not fake.is_running()
    assert not _is_alive(fake.pid)
    assert not scratch.exists()
    fake.stop()
    fake.kill()


def test_kill_does_not_ask(start_fake: Callable[..., process.Broker], tmp_path: Path) -> None:
    fake = start_fake()
    fake.kill()
    assert not _is_alive(fake.pid)
    assert not (tmp_path / "stopped").exists()


def test_with_block_stops_it(start_fake: Callable[..., process.Broker]) -> None:
    with start_fake() as fake:
        assert fake.is_running()
    assert not fake.is_running()


def test_a_broker_that_ignores_the_request_is_killed(start_fake: Callable[..., process.Broker], tmp_path: Path) -> None:
    fake = start_fake("stubborn", grace_s=0.3)
    began = time.monotonic()
    fake.stop()
    assert (tmp_path / "stopped").exists()
    assert not _is_alive(fake.pid)
    assert time.monotonic() - began < 3


def test_a_broker_that_ends_while_starting_shows_its_log(
    start_fake: Callable[..., process.Broker], tmp_path: Path
) -> None:
    # The log lies in the directory that goes with the broker, as a temporary broker's does.
    with pytest.raises(broker.BrokerError, match=r"stopped while starting: exit status 1(.|\n)*no such luck"):
        start_fake("broken", remove=tmp_path)
    assert not tmp_path.exists()


def test_a_silent_broker_is_given_up(tmp_path: Path) -> None:
    with pytest.raises(broker.BrokerError, match=r"did not answer on 127.0.0.1:1 within 0.5 s; its log ends:\n  hello"):
        process.launch(
            "kafka",
            [sys.executable, "-c", FAKE, str(tmp_path)],
            port=1,
            log_file=tmp_path / "log",
            data_dir=None,
            remove=None,
            environment={},
            answers=lambda: False,
            ready_timeout_s=0.5,
            grace_s=1,
        )
    assert (tmp_path / "ready").exists(), "the fake did start"


def test_a_program_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(broker.BrokerError, match="could not start /nonexistent/broker"):
        process.launch(
            "kafka",
            ["/nonexistent/broker"],
            port=1,
            log_file=tmp_path / "log",
            data_dir=None,
            remove=None,
            environment={},
            answers=lambda: True,
            ready_timeout_s=1,
            grace_s=1,
        )


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
def test_the_environment_is_handed_on_but_not_in_arguments(
    start_fake: Callable[..., process.Broker], tmp_path: Path
) -> None:
    fake = start_fake()
    assert "hello sesame" in (tmp_path / "log").read_text()
    for pid in (fake.pid, fake._supervisor.pid):
        arguments = Path(f"/proc/{pid}/cmdline").read_text()
        assert str(tmp_path) in arguments
        assert "sesame" not in arguments


OWNER = """
import os, pathlib, sys, time
from infra.broker import process
home = pathlib.Path(sys.argv[1])
fake = process.launch(
    "embedded", [sys.executable, "-c", sys.argv[2], str(home)], port=1, log_file=home / "log", data_dir=None,
    remove=home / "scratch", environment={}, answers=(home / "ready").exists, ready_timeout_s=10, grace_s=5,
)
print(fake.pid, fake._supervisor.pid, flush=True)
if "forks" in sys.argv and os.fork() == 0:
    sys.stdout.close()
    os.close(1)
    time.sleep(20)  # holds the supervisor's standard input open
    os._exit(0)
time.sleep(60)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
@pytest.mark.parametrize("victim", ["owner", "owner that forks", "supervisor"])
def test_nothing_outlives_a_killed_owner(tmp_path: Path, victim: str) -> None:
    (tmp_path / "scratch").mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, str(tmp_path), FAKE, *victim.split()], stdout=subprocess.PIPE, text=True
    ) as owner:
        try:
            assert owner.stdout is not None
            pid, supervisor = map(int, owner.stdout.readline().split())
            assert _is_alive(pid)
            os.kill(supervisor if victim == "supervisor" else owner.pid, signal.SIGKILL)
            assert _until(lambda: not _is_alive(pid)), "the broker outlived its owner"
            if victim != "supervisor":
                assert _until(lambda: not (tmp_path / "scratch").exists()), "its directory was left behind"
                assert (tmp_path / "stopped").exists(), "it was not asked to stop"
        finally:
            owner.kill()


SERVING = """
import pathlib, sys
from infra import broker
from infra.broker import process
home = pathlib.Path(sys.argv[1])
broker.start = lambda kind, *, port, **_: process.launch(
    kind, [sys.executable, "-c", sys.argv[2], str(home)], port=port, log_file=home / "log", data_dir=None,
    remove=None, environment={}, answers=(home / "ready").exists, ready_timeout_s=10, grace_s=5,
)
broker.serve(port=4321, echo=lambda line: print(line, flush=True))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_serve_reports_ready_and_ends_on_a_signal(tmp_path: Path, how: signal.Signals) -> None:
    command = [sys.executable, "-c", SERVING, str(tmp_path), FAKE]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as serving:
        assert serving.stdout is not None
        line = serving.stdout.readline()
        assert line.startswith("embedded broker ready on 127.0.0.1:4321 (pid ")
        serving.send_signal(how)
        assert serving.wait(10) == 0
    assert not _is_alive(_pid_in(line))
    assert (tmp_path / "stopped").exists()


def _pid_in(line: str) -> int:
    return int(line.partition("pid ")[2].partition(")")[0])


def test_serve_raises_when_the_broker_ends_by_itself(
    start_fake: Callable[..., process.Broker], monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(_kind: str, **_options: object) -> process.Broker:
        return start_fake()

    monkeypatch.setattr(broker, "start", start)

    def crash(line: str) -> None:
        os.kill(_pid_in(line), signal.SIGKILL)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(broker.BrokerError, match="ended by itself: exit status -9"):
        broker.serve(port=1, echo=crash)
    assert signal.getsignal(signal.SIGTERM) is before


def test_tail_leaves_out_stack_frames(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("x\n" * 5000 + "Exception: bad\n" + "\tat a.b.C(D.java:1)\n" * 20)
    assert tail(log).splitlines()[-1] == "  Exception: bad"
    assert len(tail(log).splitlines()) < 12
    assert "No such file" in tail(tmp_path / "none")


# -- readiness


@contextlib.contextmanager
def _server(reply: Callable[[bytes], bytes]) -> Generator[int]:
    """A server that answers one request per connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def run() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection, contextlib.suppress(OSError):
                        (size,) = struct.unpack(">i", connection.recv(4))
                        connection.sendall(reply(connection.recv(size)))

        threading.Thread(target=run, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


def _metadata(port: int, correlation: int = 7) -> bytes:
    brokers = struct.pack(">i", 2)
    brokers += struct.pack(">ih4sih", 1, 4, b"here", 9, -1)
    brokers += struct.pack(">ih9sih3s", 2, 9, b"127.0.0.1", port, 3, b"az1")
    body = struct.pack(">i", correlation) + brokers + struct.pack(">ii", 2, 0)
    return struct.pack(">i", len(body)) + body


def test_ready_is_a_broker_that_lists_itself() -> None:
    own: list[int] = []
    with _server(lambda _: _metadata(own[0])) as port:
        own.append(port)
        assert probe.answers(port)
        own[0] = port + 1
        assert not probe.answers(port), "metadata without the broker itself: not ready"


@pytest.mark.parametrize(
    "reply",
    [
        b"",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        struct.pack(">i", 2**30),
        struct.pack(">ii", 4, 7),
        struct.pack(">iii", 8, 7, 1000),
        _metadata(1, correlation=8),
    ],
)
def test_anything_else_is_not_ready(reply: bytes) -> None:
    with _server(lambda _: reply) as port:
        assert not probe.answers(port, timeout_s=0.3)
        assert not probe.answers(port, "SSL", timeout_s=0.3)


def test_a_login_listener_is_ready_when_it_names_its_versions() -> None:
    with _server(lambda request: struct.pack(">iihi", 10, 7, 0, 0) if request[:4] == b"\0\x12\0\0" else b"") as port:
        assert probe.answers(port, "SASL_PLAINTEXT")
        assert not probe.answers(port)


def test_nobody_there_is_not_ready() -> None:
    assert not probe.answers(probe.claim_port(0))


def test_ports() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        taken = listener.getsockname()[1]
        with pytest.raises(broker.BrokerError, match=rf"port {taken} on 127.0.0.1 is taken"):
            probe.claim_port(taken)
    assert probe.claim_port(taken) == taken
    free = probe.claim_port(0)
    assert probe.port_is_free(free)
    with pytest.raises(broker.BrokerError, match="controller port"):
        probe.claim_port(free, "controller port", taken=free)
    for wrong in (-1, 65_536):
        with pytest.raises(broker.BrokerError, match="not between"):
            probe.claim_port(wrong)
