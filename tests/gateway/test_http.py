"""The pages: who may see them, what they answer, and what a bad token file or address is told."""

from __future__ import annotations

import json
from pathlib import Path

import aiohttp
import pytest

from penstock_gateway.config import SecretFile
from penstock_gateway.http import serve
from penstock_gateway.wire import LedgerView, StatusPage
from penstock_models.errors import UsageError

TOKENS = ("secret-of-ops", "secret-of-grafana")
PAGE = StatusPage(start="1", uptime_s=1.0, state="online", ledger=LedgerView(received=0, in_flight=0))


class Pages:
    """Views that say what they are told to."""

    def __init__(self) -> None:
        self.ill: list[str] = []
        self.missing: list[str] = []

    def healthy(self) -> list[str]:
        return self.ill

    def ready(self) -> list[str]:
        return self.missing

    def metrics(self) -> bytes:
        return b"penstock_streams 0.0\n"

    def status(self, stream: str | None) -> StatusPage | None:
        return PAGE if stream in (None, "a/b") else None


async def get(port: int, path: str, token: str = "") -> tuple[int, str]:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{port}{path}", headers=headers) as answer,
    ):
        return answer.status, await answer.text()


@pytest.mark.parametrize(
    ("path", "token", "open_pages", "guarded"),
    [
        ("/healthz", "", 200, 200),
        ("/readyz", "", 200, 200),
        ("/metrics", "", 200, 401),
        ("/v1/status", "", 200, 401),
        ("/v1/status", "wrong", 200, 401),
        ("/v1/status", TOKENS[0], 200, 200),
        ("/metrics", TOKENS[1], 200, 200),
        ("/v1/status?stream=a/b", TOKENS[0], 200, 200),
        ("/v1/status?stream=no/such", TOKENS[0], 404, 404),
        ("/nowhere", TOKENS[0], 404, 404),
        ("/nowhere", "", 404, 401),
    ],
)
async def test_who_sees_what(path: str, token: str, open_pages: int, guarded: int) -> None:
    for tokens, status in (((), open_pages), (TOKENS, guarded)):
        async with serve(Pages(), "127.0.0.1:0", tokens, list) as port:
            assert (await get(port, path, token))[0] == status


async def test_health_and_readiness_say_why_not() -> None:
    pages = Pages()
    async with serve(pages, "127.0.0.1:0", (), list) as port:
        pages.ill = ["no probe was answered for 31 s"]
        pages.missing = ["link control: connecting"]
        for path, problems in (("/healthz", pages.ill), ("/readyz", pages.missing)):
            status, text = await get(port, path)
            assert status == 503 and json.loads(text) == {"ok": False, "problems": problems}
        assert json.loads((await get(port, "/v1/status"))[1])["state"] == "online"


async def test_a_taken_port_is_a_usage_error() -> None:
    async with serve(Pages(), "127.0.0.1:0", (), list) as port:
        with pytest.raises(UsageError, match=rf"listen = '127.0.0.1:{port}'"):
            async with serve(Pages(), f"127.0.0.1:{port}", (), list):
                pytest.fail("two servers on one port")


def test_a_token_file_holds_one_name_and_token_a_line(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    path.write_text(f"ops {TOKENS[0]}\n\ngrafana {TOKENS[1]}\n")
    assert SecretFile(path).tokens() == TOKENS
    path.write_text(f"ops {TOKENS[0]}\nlonely\n")
    with pytest.raises(UsageError, match=r"tokens:2: expected `NAME TOKEN`, came 1 words"):
        SecretFile(path).tokens()
