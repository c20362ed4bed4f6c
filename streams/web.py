"""Health and metrics over HTTP. Nothing of a user's state is served."""

import ipaddress
import logging
from collections.abc import Callable

from aiohttp import web

from streams.metrics import Metrics

__all__ = ["WebServer"]

log = logging.getLogger(__name__)


class WebServer:
    """``/health`` (alive), ``/ready`` (processing events) and ``/metrics`` (Prometheus)."""

    def __init__(self, host: str, port: int, metrics: Metrics, is_ready: Callable[[], bool]) -> None:
        self._host, self._port = host, port
        self._metrics = metrics
        self._is_ready = is_ready
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Listen; a port of 0 means no server.

        Raises:
            OSError: the port is taken.
        """
        if not self._port:
            return
        if not _is_loopback(self._host):
            log.warning("health and metrics are served on %s: whoever reaches that address reads them", self._host)
        app = web.Application()
        app.add_routes(
            [web.get("/health", self._health), web.get("/ready", self._ready), web.get("/metrics", self._export)]
        )
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, self._host, self._port).start()

    async def stop(self) -> None:
        """Stop listening."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _health(self, _: web.Request) -> web.Response:
        return web.json_response({"status": "alive"})

    async def _ready(self, _: web.Request) -> web.Response:
        ready = self._is_ready()
        return web.json_response({"ready": ready}, status=200 if ready else 503)

    async def _export(self, _: web.Request) -> web.Response:
        return web.Response(text=self._metrics.prometheus(), content_type="text/plain")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
