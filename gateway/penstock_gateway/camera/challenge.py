"""The answer to a camera's challenge: Digest wherever it is offered (RFC 7616, MD5 or SHA-256), else Basic.

Pure but for the client's nonce. For HTTP and RTSP alike. aiohttp's own Digest looks at the first challenge only, and
cameras offer Basic, which shows the password to whoever listens, in any order.
"""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
from collections.abc import Iterable, Iterator
from urllib.request import parse_http_list, parse_keqv_list

from penstock_gateway.camera.credentials import Credentials

_HASHES = {"MD5": "md5", "SHA-256": "sha256"}
_SCHEMES = re.compile(r"(?:^|,)\s*(Digest|Basic)(?=\s|$)", re.I)


def authorization(challenges: Iterable[str], login: Credentials, method: str, uri: str) -> str:
    """The Authorization header for a request, "" where nothing that is offered is known here.

    Args:
        challenges: the values of the WWW-Authenticate headers.
        uri: the request's target, as it stands in its first line.
    """
    offered = [found for text in challenges for found in _split(text)]
    for scheme, rest in offered:
        if scheme == "digest" and (answer := _digest(rest, login, method, uri)):
            return answer
    if any(scheme == "basic" for scheme, _ in offered):
        return "Basic " + base64.b64encode(f"{login.user}:{login.password}".encode()).decode()
    return ""


def _split(text: str) -> Iterator[tuple[str, str]]:
    """(scheme in lower case, its parameters) of a header, which may hold several challenges."""
    words = _SCHEMES.split(text)
    for scheme, rest in zip(words[1::2], words[2::2]):
        yield scheme.lower(), rest.strip(" ,")


def _digest(rest: str, login: Credentials, method: str, uri: str) -> str:
    pairs = [pair for pair in parse_http_list(rest) if "=" in pair]
    given = {name.lower(): value for name, value in parse_keqv_list(pairs).items()}
    algorithm = given.get("algorithm", "MD5")
    realm, nonce = given.get("realm", ""), given.get("nonce", "")
    if algorithm.upper() not in _HASHES or not nonce:
        return ""

    def hashed(text: str) -> str:
        return hashlib.new(_HASHES[algorithm.upper()], text.encode(), usedforsecurity=False).hexdigest()

    secret, request = hashed(f"{login.user}:{realm}:{login.password}"), hashed(f"{method}:{uri}")
    fields = {"username": login.user, "realm": realm, "nonce": nonce, "uri": uri}
    extra = {"algorithm": algorithm} if "algorithm" in given else {}
    if "auth" in [word.strip() for word in given.get("qop", "").split(",")]:
        client = secrets.token_hex(8)
        fields |= {"response": hashed(f"{secret}:{nonce}:00000001:{client}:auth:{request}"), "cnonce": client}
        extra |= {"qop": "auth", "nc": "00000001"}
    else:
        fields["response"] = hashed(f"{secret}:{nonce}:{request}")
    if "opaque" in given:
        fields["opaque"] = given["opaque"]
    quoted = [f'{name}="{_escaped(value)}"' for name, value in fields.items()]
    return "Digest " + ", ".join([*quoted, *(f"{name}={value}" for name, value in extra.items())])


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"')
