"""How the doctor reaches a broker: its options, and what they mean."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from penstock_gateway.config.values import BrokerUrl, SecretFile
from penstock_gateway.mqtt import LinkOptions
from penstock_models.errors import UsageError

DEFAULT_URL = "mqtt://127.0.0.1:1883"

Url = Annotated[str, typer.Option("--url", metavar="URL", help="The broker: mqtt://HOST:PORT or mqtts://…")]
Site = Annotated[str, typer.Option("--site", metavar="SITE", help="The site in the topics.")]
Root = Annotated[str, typer.Option("--root", metavar="ROOT", help="The first level of the topics.")]
Username = Annotated[str | None, typer.Option("--username", metavar="NAME", help="User at the broker.")]
PasswordFile = Annotated[
    Path | None, typer.Option("--password-file", metavar="FILE", help="File that holds its password.")
]
Ca = Annotated[
    Path | None, typer.Option("--ca", metavar="FILE", help="CA certificates of the broker, as PEM.")
]


class Reach(msgspec.Struct, frozen=True, kw_only=True):
    """A broker, and the site whose topics are meant."""

    url: str = DEFAULT_URL
    site: str = "home"
    root: str = "penstock"
    username: str | None = None
    password_file: Path | None = None
    ca: Path | None = None

    def options(self, client_id: str) -> LinkOptions:
        """How to connect, as that client.

        Raises:
            UsageError: the URL is none, or names no broker of its own; the password's file cannot be read.
        """
        url = BrokerUrl.parse(self.url)
        if url.embedded:
            raise UsageError(f'expected the URL of a broker, such as "{DEFAULT_URL}", came "embedded"')
        if self.password_file is not None and self.username is None:
            raise UsageError("expected --username beside --password-file")
        return LinkOptions(
            url.host,
            url.port,
            client_id,
            tls=url.tls,
            username=self.username,
            password=SecretFile(self.password_file).read() if self.password_file is not None else None,
            ca=str(self.ca) if self.ca is not None else None,
        )
