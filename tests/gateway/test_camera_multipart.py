"""`multipart/x-mixed-replace` as cameras serve it, in whatever pieces it comes."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock_gateway.camera.multipart import MAX_HEADER, Broken, Multipart, boundary_of

MOST = 10_000
BODIES = [b"\xff\xd8one\xff\xd9", b"", b"two\r\n--fram\r\n\r\n", b"\n\n\r\n" * 40, bytes(range(256)) * 20]


def stream(
    bodies: list[bytes], *, lengths: bool = True, eol: bytes = b"\r\n", preamble: bytes = b"", wrong: int = 0
) -> bytes:
    """The body of a response."""
    text = preamble
    for body in bodies:
        head = [b"--frame", b"Content-Type: image/jpeg"]
        head += [b"Content-Length: %d" % (len(body) + wrong)] if lengths else []
        text += eol.join([*head, b"", b""]) + body + eol
    return text


def read(text: bytes, cuts: list[int] | None = None, most: int = MOST) -> tuple[list[bytes], Multipart]:
    parser, bodies = Multipart(b"--frame", most), []
    edges = [0, *sorted(cuts or []), len(text)]
    for begin, end in itertools.pairwise(edges):
        bodies += [part.body for part in parser.feed(text[begin:end])]
    return bodies, parser


@pytest.mark.parametrize(
    ("content_type", "delimiter"),
    [
        ("multipart/x-mixed-replace; boundary=frame", b"--frame"),
        ("multipart/x-mixed-replace;boundary=frame", b"--frame"),
        ('multipart/x-mixed-replace; boundary="two words"', b"--two words"),
        ("Multipart/X-Mixed-Replace; Boundary=--frame", b"--frame"),
        ("multipart/x-mixed-replace; charset=x; boundary=frame; more=1", b"--frame"),
        ("multipart/x-mixed-replace", None),
        ("image/jpeg", None),
        ("text/html; boundary=frame", None),
        ("", None),
    ],
)
def test_the_boundary_of_a_content_type(content_type: str, delimiter: bytes | None) -> None:
    assert boundary_of(content_type) == delimiter


@pytest.mark.parametrize("lengths", [True, False], ids=["with lengths", "without"])
@given(data=st.data())
def test_any_pieces_give_the_same_parts(lengths: bool, data: st.DataObject) -> None:
    text = stream(BODIES, lengths=lengths, preamble=b"\r\n") + b"--frame"
    cuts = data.draw(st.lists(st.integers(0, len(text)), max_size=30))
    assert read(text, cuts)[0] == BODIES


@pytest.mark.parametrize(
    ("text", "bodies"),
    [
        (stream([b"a", b"b"], eol=b"\n", lengths=False) + b"--frame", [b"a", b"b"]),
        (stream([b"a", b"b"], eol=b"\n"), [b"a", b"b"]),
        (stream([b"a", b"b"], preamble=b"This is a camera.\r\n\r\n"), [b"a", b"b"]),
        (stream([b"aa", b"bb"]).replace(b"--frame", b"----frame"), [b"aa", b"bb"]),
        (stream([b"a" * 9, b"b" * 9], wrong=-5), [b"a" * 4, b"b" * 4]),
        (b"--frame\r\n\r\nbare\r\n--frame\r\n", [b"bare"]),
        (stream([b"a"]).replace(b"Content-Length: 1", b"content-length : 1"), [b"a"]),
        (stream([b"a"], lengths=False).replace(b"--frame\r\n", b"--frame  \r\n") + b"--frame", [b"a"]),
    ],
    ids=[
        "bare LF",
        "bare LF, lengths",
        "preamble",
        "dashes twice",
        "length too small",
        "no header",
        "case",
        "spaces",
    ],
)
def test_what_careless_cameras_send(text: bytes, bodies: list[bytes]) -> None:
    assert read(text)[0] == bodies
    assert read(text, list(range(len(text))))[0] == bodies


def test_a_length_that_is_too_large_costs_a_picture_and_not_the_stream() -> None:
    text = stream([b"a" * 50], wrong=60) + stream([b"b" * 50, b"c" * 50])
    assert read(text)[0][-1] == b"c" * 50


def test_the_closing_delimiter_ends_it() -> None:
    bodies, parser = read(stream([b"a"]) + b"--frame--\r\n" + stream([b"never"]))
    assert (bodies, parser.ended) == ([b"a"], True)


@pytest.mark.parametrize("lengths", [True, False])
def test_a_part_that_is_too_large_is_passed_over_and_never_held(lengths: bool) -> None:
    text = stream([b"a", b"x" * (50 * MOST), b"b"], lengths=lengths) + b"--frame"
    parser, bodies = Multipart(b"--frame", MOST), []
    for begin in range(0, len(text), 1000):
        bodies += [part.body for part in parser.feed(text[begin : begin + 1000])]
        assert len(parser._data) <= MOST + MAX_HEADER
    assert (bodies, parser.too_large) == ([b"a", b"b"], 1)


@pytest.mark.parametrize(
    "text",
    [b"x" * 200_000, b"--frame\r\n" + b"Name: value\r\n" * 1000, stream([b"a"]) + b"y" * 200_000],
    ids=["no boundary at all", "a header without an end", "no boundary any more"],
)
def test_what_is_no_stream_of_parts_is_said(text: bytes) -> None:
    with pytest.raises(Broken):
        read(text, list(range(0, len(text), 500)))


@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=5))
def test_garbage_never_raises_anything_else(text: bytes, cuts: list[int]) -> None:
    read(b"--frame\r\n" + text, [min(cut, len(text)) for cut in cuts])
