"""Input files: what type they are, tables, several inputs by name, and what is none."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from penstock_models import samples
from penstock_models.bundle import open_bundle
from penstock_models.errors import UsageError
from penstock_models.items import Tensor
from penstock_models.measure import measure
from penstock_models.pack import pack
from penstock_models.trial import run_files, verify

from . import onnx_files as files
from .onnx_files import write


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


INPUTS: dict[str, tuple[bytes, str, int]] = {
    "a.jpg": (b"\xff\xd8\xff\xe0", "image/jpeg", 4),
    "no-suffix": (b"\x89PNG\r\n\x1a\n", "image/png", 8),
    "a.webp": (b"RIFF\0\0\0\0WEBP", "image/webp", 12),
    "a.npy": (npy(np.zeros((2, 3), ">i2")), "application/x-tensor; dtype=int16; shape=2x3", 12),
    "a.csv": (b"x,y\n1,2\n3,4\n", "application/json", 13),
    "a.json": (b"[1, 2]", "application/json", 6),
    "a.bin": (bytes(7), "application/x-tensor", 7),
}


@pytest.mark.parametrize("name", INPUTS)
def test_input_files(tmp_path: Path, name: str) -> None:
    data, media_type, size = INPUTS[name]
    found = samples.load(write(tmp_path, data, name))
    assert (found.media_type, len(found.data)) == (media_type, size)
    payload = samples.item(found, "s").payload
    if isinstance(payload, Tensor) and "shape" in media_type:
        assert payload.shape == (2, 3)


TABLES: dict[str, tuple[bytes, Any]] = {
    "names": (b"x,y\n1,2\n3,4.5\n", [[1, 2], [3, 4.5]]),
    "one row": (b"1,2,3\n", [1, 2, 3]),
    "one column": (b"1\n2\n3\n", [1, 2, 3]),
    "one value": (b"-7", [-7]),
    "spaces and a mark": (b"\xef\xbb\xbf1, +2\r\n\r\n3,4\r\n", [[1, 2], [3, 4]]),
    "exact": (b"9007199254740993", [9007199254740993]),
}


@pytest.mark.parametrize(("data", "values"), TABLES.values(), ids=TABLES)
def test_a_table_becomes_numbers_without_a_dtype(tmp_path: Path, data: bytes, values: Any) -> None:
    assert json.loads(samples.load(write(tmp_path, data, "a.csv")).data) == values


@pytest.mark.parametrize("dtype", ["FLOAT", "DOUBLE", "FLOAT16", "INT64", "INT32", "UINT8"])
@pytest.mark.parametrize("rows", ["1,2,3,4", "1\n2\n3\n4"])
def test_a_table_takes_the_dtype_and_shape_of_the_input(tmp_path: Path, dtype: str, rows: str) -> None:
    kind = TensorProto.DataType.Value(dtype)
    shapes: list[list[int | str | None]] = [["n", 4], ["n", 4, 1], ["n", 1, 4]]
    for shape in shapes:
        ends = [files.tensor("x", shape, kind)], [files.tensor("y", shape, kind)]
        data = files.model([helper.make_node("Identity", ["x"], ["y"])], *ends).SerializeToString()
        bundle = pack(write(tmp_path, data), tmp_path, golden=[write(tmp_path, rows.encode(), "a.csv")])
        (sample,) = open_bundle(bundle).manifest.golden
        assert list(sample.expected["outputs"]["y"]["values"].values()) == [1, 2, 3, 4]


def adder() -> bytes:
    """y = left + right, each (n, 2)."""
    ends = [files.tensor("left", ["n", 2]), files.tensor("right", ["n", 2])], [files.tensor("y", ["n", 2])]
    made = files.model([helper.make_node("Add", ["left", "right"], ["y"])], *ends)
    return bytes(made.SerializeToString())


NAMED = b'{"left": [[1, 2]], "right": [0.5, 0.25]}'


@pytest.mark.parametrize("text", [NAMED, b'{"v": 1, "inputs": ' + NAMED + b"}"])
def test_several_inputs_are_a_map_of_their_names(tmp_path: Path, text: bytes) -> None:
    given = write(tmp_path, text, "in.json")
    path = pack(write(tmp_path, adder()), tmp_path, golden=[given])
    (sample,) = open_bundle(path).manifest.golden
    assert sample.expected["outputs"]["y"]["values"] == {"0": 1.5, "1": 2.25}
    assert verify(path).ok
    assert run_files(path, [given], lambda: None).ok
    assert measure(path, given, 0.01, lambda part: None).rows


@pytest.mark.parametrize(
    ("text", "words"),
    [(b'{"left": [1, 2]}', "exactly left, right, got left"), (b"{]", r"in\.json: not JSON")],
)
def test_a_map_that_does_not_fit_is_rejected(tmp_path: Path, text: bytes, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        pack(write(tmp_path, adder()), tmp_path, golden=[write(tmp_path, text, "in.json")])


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.npy", b"junk"),
        ("a.npy", npy(np.array(["text"]))),
        ("a.npy", b"\x93NUMPY\x01\x00"),
        ("a.csv", b"1,2\n3\n"),
        ("a.csv", b"1,2\nx,y\n"),
        ("a.csv", b"1,nan\n"),
        ("a.csv", b"x,y\n"),
        ("a.xyz", b"what"),
    ],
)
def test_bad_input_files_are_usage_errors(tmp_path: Path, name: str, data: bytes) -> None:
    with pytest.raises(UsageError, match=name):
        samples.load(write(tmp_path, data, name))


def test_a_pickled_array_is_not_loaded(tmp_path: Path) -> None:
    file = io.BytesIO()
    np.save(file, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(UsageError, match="numbers"):
        samples.load(write(tmp_path, file.getvalue(), "a.npy"))
