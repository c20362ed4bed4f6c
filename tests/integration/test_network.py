"""streams.chaos.network: a link that is cut passes nothing, one that is slow passes late, and all of it goes."""

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from streams.chaos.network import Link, links, why_no_networks

_CLIENT = """
import socket, sys, time
with socket.create_connection((sys.argv[1], int(sys.argv[2])), 10) as s:
    for line in sys.stdin:
        began = time.monotonic()
        s.sendall(b"x" * int(line))
        for _ in range(int(line)):
            assert s.recv(1)
        print(time.monotonic() - began, flush=True)
"""


@pytest.fixture
def link() -> Iterator[Link]:
    if reason := why_no_networks():
        if os.environ.get("CI") and os.geteuid() == 0:
            pytest.fail(f"no network faults in CI: {reason}")
        pytest.skip(reason)
    with links(1) as (only,):
        yield only


@pytest.fixture
def client(link: Link) -> "Iterator[subprocess.Popen[str]]":
    """A process behind the link; a number on its input is echoed as seconds for so many bytes there and back."""
    with socket.create_server((link.broker_host, 0)) as server:
        port = server.getsockname()[1]
        command = [*link.prefix, sys.executable, "-c", _CLIENT, link.broker_host, str(port)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            connection, (host, _) = server.accept()
            assert host == link.worker_host
            echo = threading.Thread(target=_echo, args=(connection,), daemon=True)
            echo.start()
            yield process
            assert process.stdin is not None
            process.stdin.close()
            echo.join(10)


def _echo(connection: socket.socket) -> None:
    with connection, contextlib.suppress(OSError):
        while data := connection.recv(65_536):
            connection.sendall(data)


def _seconds(process: "subprocess.Popen[str]", size: int) -> float:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{size}\n")
    process.stdin.flush()
    return float(process.stdout.readline())


def test_a_cut_link_passes_nothing_until_it_is_whole(link: Link, client: "subprocess.Popen[str]") -> None:
    whole = _seconds(client, 1)
    with link.cut():
        began = time.monotonic()
        assert client.stdin is not None
        client.stdin.write("1\n")
        client.stdin.flush()
        time.sleep(1.0)
    assert client.stdout is not None
    assert float(client.stdout.readline()) >= 1.0 > whole
    assert time.monotonic() - began < 30


def test_a_slow_link_passes_late(link: Link, client: "subprocess.Popen[str]") -> None:
    with link.slow():
        assert _seconds(client, 100_000) > 0.2  # 2 Mbit/s, or 150 ms each way
    names = subprocess.run(["ip", "-br", "link"], capture_output=True, text=True, check=True).stdout
    assert link.here in names


def test_nothing_is_left_behind() -> None:
    if reason := why_no_networks():
        pytest.skip(reason)
    with links(2) as both:
        names = [name for each in both for name in (each.namespace, each.here)]
    for listing in (["ip", "netns", "list"], ["ip", "-br", "link"]):
        shown = subprocess.run(listing, capture_output=True, text=True, check=True).stdout
        assert not [name for name in names if name in shown]
