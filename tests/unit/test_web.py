"""Health, readiness and metrics over the loopback."""

import asyncio
import socket
from collections.abc import Callable, Coroutine
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from operators.effects import Counts
from streams.metrics import Metrics
from streams.web import WebServer

HOST = "127.0.0.1"

Get = Callable[[str], Coroutine[Any, Any, tuple[int, str, str]]]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return probe.getsockname()[1]


def serve(
    use: Callable[[Get], Coroutine[Any, Any, None]],
    *,
    metrics: Metrics | None = None,
    is_ready: Callable[[], bool] = lambda: True,
) -> int:
    """Start a server, ``use`` it by path -> (status, content type, text), stop it; returns its port."""
    port = free_port()

    async def main() -> None:
        server = WebServer(HOST, port, metrics or Metrics(), is_ready)
        await server.start()
        async with aiohttp.ClientSession(f"http://{HOST}:{port}") as session:

            async def get(path: str) -> tuple[int, str, str]:
                async with session.get(path) as response:
                    return response.status, response.content_type, await response.text()

            try:
                await use(get)
            finally:
                await server.stop()

    asyncio.run(main())
    return port


def test_health_is_alive_whether_ready_or_not() -> None:
    async def use(get: Get) -> None:
        assert await get("/health") == (200, "application/json", '{"status": "alive"}')

    serve(use, is_ready=lambda: False)


def test_ready_follows_the_worker() -> None:
    ready = False

    async def use(get: Get) -> None:
        nonlocal ready
        assert await get("/ready") == (503, "application/json", '{"ready": false}')
        ready = True
        assert await get("/ready") == (200, "application/json", '{"ready": true}')

    serve(use, is_ready=lambda: ready)


def test_metrics_are_those_of_now() -> None:
    metrics = Metrics()

    async def use(get: Get) -> None:
        status, kind, text = await get("/metrics")
        assert (status, kind) == (200, "text/plain")
        assert "\nheadwater_records_total 0\n" in text
        metrics.batch(Counts(records=7), 3, {"settle": 0.5})
        assert (await get("/metrics"))[2] == metrics.prometheus()
        assert "\nheadwater_records_total 7\n" in metrics.prometheus()

    serve(use, metrics=metrics)


@pytest.mark.parametrize("path", ["/", "/users/ann", "/health/x"])
def test_nothing_else_is_served(path: str) -> None:
    async def use(get: Get) -> None:
        assert (await get(path))[0] == 404

    serve(use)


def test_a_stopped_server_listens_no_more() -> None:
    async def use(get: Get) -> None:
        assert (await get("/health"))[0] == 200

    port = serve(use)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((HOST, port), timeout=1).close()


def test_a_port_of_zero_is_no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    async def listen(self: web.TCPSite) -> None:
        pytest.fail("it listens")

    monkeypatch.setattr(web.TCPSite, "start", listen)

    async def main() -> None:
        server = WebServer(HOST, 0, Metrics(), lambda: True)
        await server.start()
        await server.stop()

    asyncio.run(main())


def test_a_taken_port_is_an_error_and_the_server_can_still_be_stopped() -> None:
    async def main(port: int) -> None:
        server = WebServer(HOST, port, Metrics(), lambda: True)
        with pytest.raises(OSError, match=str(port)):
            await server.start()
        await server.stop()

    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        asyncio.run(main(taken.getsockname()[1]))
