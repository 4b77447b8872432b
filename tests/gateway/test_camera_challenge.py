"""The answers to challenges, against the examples of the standards and what cameras send."""

from __future__ import annotations

import secrets

import pytest

from penstock_gateway.camera.challenge import authorization
from penstock_gateway.camera.credentials import Credentials

LOGIN = Credentials("Mufasa", "Circle of Life", "login")
BASIC = "Basic TXVmYXNhOkNpcmNsZSBvZiBMaWZl"


@pytest.mark.parametrize(
    ("algorithm", "response"),
    [
        ("MD5", "8ca523f5e9506fed4657c9700eebdbec"),
        ("SHA-256", "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"),
    ],
)
def test_the_example_of_rfc_7616(algorithm: str, response: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Section 3.9.1, of which the client's nonce is random."""
    client = "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ"
    monkeypatch.setattr(secrets, "token_hex", lambda _: client)
    text = (
        f'Digest realm="http-auth@example.org", qop="auth, auth-int", algorithm={algorithm}, '
        'nonce="7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v", opaque="FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS"'
    )
    answer = authorization([text], LOGIN, "GET", "/dir/index.html")
    assert f'response="{response}"' in answer
    assert 'opaque="FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS"' in answer
    assert f"algorithm={algorithm}" in answer and "qop=auth, nc=00000001" in answer


def test_the_old_form_without_qop() -> None:
    """RFC 2069's, with its corrected response; most RTSP cameras send it."""
    text = 'Digest realm="testrealm@host.com", nonce="dcd98b7102dd2f0e8b11d0f600bfb0c093"'
    answer = authorization([text], LOGIN, "GET", "/dir/index.html")
    assert 'response="1949323746fe6a43ef61f9606e7febea"' in authorization(
        [text], Credentials("Mufasa", "CircleOfLife", "login"), "GET", "/dir/index.html"
    )
    assert "qop" not in answer and "cnonce" not in answer


@pytest.mark.parametrize(
    ("challenges", "begins"),
    [
        (['Basic realm="c"', 'Digest realm="c", nonce="n"'], "Digest "),
        (['Digest realm="c", nonce="n"', 'Basic realm="c"'], "Digest "),
        (['Basic realm="c", Digest realm="c", nonce="n", qop="auth"'], "Digest "),
        (['digest realm="c",nonce="n"'], "Digest "),
        (['Basic realm="c"'], BASIC),
        (["basic"], BASIC),
        (['Digest realm="c", nonce="n", algorithm=SHA-512-256', 'Basic realm="c"'], BASIC),
        (['Digest realm="c", nonce="n", algorithm=token'], ""),
        (["Bearer", "Digest", "Digest rubbish"], ""),
        ([], ""),
    ],
)
def test_digest_goes_before_basic_in_any_order(challenges: list[str], begins: str) -> None:
    answer = authorization(challenges, LOGIN, "GET", "/")
    assert answer.startswith(begins) if begins else answer == ""
    assert not begins.startswith("Digest") or "Circle" not in answer
