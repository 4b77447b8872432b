"""The gateway's HTTP: health, readiness, metrics and status (contracts 8).

It renders what a `Views` tells and decides nothing. Health and readiness need no token, since probes of a service
manager carry none and the answers say nothing about frames.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Protocol

import msgspec
from aiohttp import web

from penstock_gateway.wire import StatusPage
from penstock_models.errors import PenstockError, UsageError

OPEN = ("/healthz", "/readyz")

Reload = Callable[[], list[str]]

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Views(Protocol):
    """What the pages show."""

    def healthy(self) -> list[str]:
        """Why the gateway is not healthy; empty when a probe was answered lately."""

    def ready(self) -> list[str]:
        """What is still missing before frames are answered."""

    def metrics(self) -> bytes: ...

    def status(self, stream: str | None) -> StatusPage | None:
        """The status page, of one stream where given; None for a stream that is not known."""


def _json(value: object, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), status=status, content_type="application/json")


def _verdict(problems: list[str]) -> web.Response:
    return _json({"ok": not problems, "problems": problems}, status=503 if problems else 200)


def _app(views: Views, tokens: Sequence[str], reload: Reload) -> web.Application:
    @web.middleware
    async def authorise(request: web.Request, handler: Handler) -> web.StreamResponse:
        given = request.headers.get("Authorization", "").removeprefix("Bearer ")
        known = [hmac.compare_digest(given.encode(), token.encode()) for token in tokens]
        if known and request.path not in OPEN and not any(known):
            return _json({"error": "expected the header `Authorization: Bearer TOKEN`"}, status=401)
        return await handler(request)

    async def healthz(_: web.Request) -> web.Response:
        return _verdict(views.healthy())

    async def readyz(_: web.Request) -> web.Response:
        return _verdict(views.ready())

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=views.metrics(), content_type="text/plain", charset="utf-8")

    async def status(request: web.Request) -> web.Response:
        stream = request.query.get("stream")
        page = views.status(stream)
        if page is None:
            return _json(
                {"error": f"no stream {stream!r}: expected DEVICE/STREAM of one that sent frames"}, 404
            )
        return _json(page)

    async def reload_config(_: web.Request) -> web.Response:
        try:
            waiting = reload()
        except PenstockError as error:
            return _json({"error": str(error)}, status=400)
        return _json({"ok": True, "waiting_for_restart": waiting})

    app = web.Application(middlewares=[authorise], client_max_size=64 << 10)
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/metrics", metrics)
    app.router.add_get("/v1/status", status)
    app.router.add_post("/v1/config/reload", reload_config)
    return app


@asynccontextmanager
async def serve(views: Views, listen: str, tokens: Sequence[str], reload: Reload) -> AsyncIterator[int]:
    """Serve the pages on `listen` (HOST:PORT) while the context is open; yields the port.

    Args:
        tokens: one of them must be shown, except for health and readiness; none: the pages are open.
        reload: reads the configuration again; which keys wait for a restart.

    Raises:
        UsageError: the address cannot be bound.
    """
    host, _, port = listen.rpartition(":")
    runner = web.AppRunner(_app(views, tokens, reload), access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host.strip("[]"), int(port))
        try:
            await site.start()
        except OSError as error:
            raise UsageError(f"[http] listen = {listen!r}: {error.strerror or error}") from error
        yield runner.addresses[0][1]
    finally:
        await asyncio.shield(runner.cleanup())
