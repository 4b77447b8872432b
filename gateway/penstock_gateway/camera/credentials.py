"""A camera's user and password: from a file, into the connection, and nowhere else.

They may not stand in a URL, which everybody on the machine can read in the process list. Whatever a library says on its
way to a log or an error goes through `Credentials.redact`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qsl, quote, quote_plus, urlsplit, urlunsplit

from penstock_gateway.config.values import SecretFile
from penstock_models.errors import UsageError, one_line

_SECRET_KEYS = frozenset({"password", "passwd", "pass", "pwd", "passwort", "pw", "token", "auth", "secret"})
_PLACES = ("{user}", "{password}")
_HIDDEN = "***"


@dataclass(frozen=True)
class Credentials:
    """What a camera asks for; empty where none were given. `source` is the file, for messages."""

    user: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    source: str = ""

    def __bool__(self) -> bool:
        return bool(self.source)

    @classmethod
    def read(cls, path: Path) -> Credentials:
        """Read the one line `USER PASSWORD`; the password may hold spaces, but not begin or end with one.

        Raises:
            UsageError: the file cannot be read, or holds something else. Its content is never shown.
        """
        lines = [line for line in SecretFile(path).read().splitlines() if line.strip()]
        user, _, password = lines[0].strip().partition(" ") if len(lines) == 1 else ("", "", "")
        if not user or not password.strip():
            raise UsageError(
                f"{path}: expected one line `USER PASSWORD`, came {len(lines)} lines of another form"
            )
        return cls(user, password.strip(), str(path))

    def redact(self, text: str) -> str:
        """One bounded line of a foreign text, without the password in any form that it takes in a URL."""
        for form in self._forms():
            text = text.replace(form, _HIDDEN)
        return one_line(re.sub(r"//[^/@\s]*@", f"//{_HIDDEN}@", text))

    def _forms(self) -> Iterator[str]:
        if self.password:
            yield from dict.fromkeys(
                (quote(self.password, safe=""), quote_plus(self.password), self.password)
            )

    def with_places(self, url: str) -> str:
        """The URL with `{user}` and `{password}` filled in, for cameras that want them in the query."""
        user, password = quote(self.user, safe=""), quote(self.password, safe="")
        return url.replace("{user}", user).replace("{password}", password)

    def in_authority(self, url: str) -> str:
        """The URL with the credentials before the host, as FFmpeg wants them. Not for people."""
        parts = urlsplit(self.with_places(url))
        if not self:
            return urlunsplit(parts)
        login = f"{quote(self.user, safe='')}:{quote(self.password, safe='')}"
        return urlunsplit(parts._replace(netloc=f"{login}@{parts.netloc}"))


def check_url(url: str, credentials: Credentials) -> None:
    """Refuse a URL that holds a user or a password, without repeating it.

    Raises:
        UsageError: saying what to do instead.
    """
    parts = urlsplit(url)
    instead = "write `USER PASSWORD` into a file and give it with --credentials FILE"
    if "@" in parts.netloc:
        raise UsageError(
            "expected a camera's URL without a user or password, which everybody could read in the process list "
            f"(and has now: change it); {instead}"
        )
    for key, value in parse_qsl(parts.query, keep_blank_values=True):
        if key.lower() in _SECRET_KEYS and value not in _PLACES:
            raise UsageError(
                f"expected no secret in the URL's query, came {one_line(key, 40)}=…, which everybody could read in the "
                f"process list; {instead}, and write {{user}} and {{password}} where they belong"
            )
    if any(place in url for place in _PLACES) and not credentials:
        raise UsageError("the URL has {user} or {password}, and no --credentials FILE says what they are")


def shown_url(url: str) -> str:
    """A URL for people: scheme, host and path, no query."""
    parts = urlsplit(url)
    return one_line(urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", "")), 200)
