"""What no runtime may see: each kind of bad model file is refused with its reason, from its bytes alone."""

import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import NodeProto, TensorProto, helper

from penstock_models import onnx_file, safety, tflite_file
from penstock_models.errors import ModelRefused
from penstock_models.manifest import Quantization

from . import onnx_files as files

GOOD = files.classifier()
IDENTITY = helper.make_node("Identity", ["x"], ["y"])
IN, OUT = [files.tensor("x", [1])], [files.tensor("y", [1])]


def external(location: str) -> TensorProto:
    made = files.weight("w", [1.0])
    made.ClearField("raw_data")
    made.data_location = TensorProto.EXTERNAL
    made.external_data.add(key="location", value=location)
    return made


def with_weight(weight: TensorProto) -> bytes:
    node = helper.make_node("Add", ["x", "w"], ["y"])
    return bytes(files.model([node], IN, OUT, [weight]).SerializeToString())


def with_node(node: object) -> bytes:
    return bytes(files.model([node], IN, OUT).SerializeToString())  # type: ignore[list-item]


def within_branch(node: NodeProto) -> bytes:
    branch = helper.make_graph([node], "branch", [], OUT)
    condition = helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)
    made = files.model([condition], [*IN, files.tensor("c", [], TensorProto.BOOL)], OUT)
    made.opset_import.add(domain="evil.ops", version=1)
    return bytes(made.SerializeToString())


def in_attribute() -> bytes:
    return with_node(helper.make_node("Constant", [], ["y"], value=external("weights.bin")))


def in_function() -> bytes:
    made = files.model([IDENTITY], IN, OUT)
    body = [helper.make_node("Evil", ["a"], ["b"], domain="evil.ops")]
    made.functions.append(
        helper.make_function("mine", "F", ["a"], ["b"], body, [helper.make_opsetid("", 17)])
    )
    return bytes(made.SerializeToString())


def context_node() -> bytes:
    return with_node(
        helper.make_node("EPContext", ["x"], ["y"], domain="com.microsoft", ep_cache_context="/etc/passwd")
    )


BAD: dict[str, tuple[bytes, str, str]] = {
    "empty": (b"", "not_a_model", "empty"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "not_a_model", "git lfs pull"),
    "text": (b"<html><body>404 not found</body></html>", "not_a_model", "text"),
    "utf-8 text": ("größer ".encode() * 200, "not_a_model", "text"),
    "zip": (b"PK\x03\x04" + bytes(100), "not_a_model", "PyTorch"),
    "pickle": (b"\x80\x04\x95" + bytes(100), "not_a_model", "pickle"),
    "keras": (b"\x89HDF\r\n\x1a\n" + bytes(100), "not_a_model", "HDF5"),
    "jpeg": (b"\xff\xd8\xff\xe0" + bytes(200), "not_a_model", "ONNX"),
    "zeros": (bytes(1000), "not_a_model", "ONNX"),
    "random": (bytes(range(255, 0, -1)) * 9, "not_a_model", "ONNX"),
    "half": (GOOD[: len(GOOD) // 2], "truncated", "again"),
    "one byte short": (GOOD[:-1], "truncated", "again"),
    "only a header": (GOOD[:2], "truncated", "graph"),
    "tflite header": (b"\x1c\0\0\0TFL3", "truncated", "offset"),
    "external beside": (with_weight(external("weights.bin")), "external_data", "'w'"),
    "external outside": (with_weight(external("../../etc/passwd")), "external_data", "'w'"),
    "external attribute": (in_attribute(), "external_data", "'w'"),
    "external branch": (
        within_branch(helper.make_node("Constant", [], ["y"], value=external("/etc/passwd"))),
        "external_data",
        "'w'",
    ),
    "context file": (context_node(), "external_data", "EPContext"),
    "custom domain": (
        with_node(helper.make_node("Evil", ["x"], ["y"], domain="evil.ops")),
        "custom_op",
        "evil.ops:Evil",
    ),
    "custom in a branch": (
        within_branch(helper.make_node("Evil", ["x"], ["y"], domain="evil.ops")),
        "custom_op",
        "evil.ops:Evil",
    ),
    "custom in a function": (in_function(), "custom_op", "evil.ops:Evil"),
}


@pytest.mark.parametrize(("data", "reason", "words"), BAD.values(), ids=BAD)
def test_bad_files_are_refused_with_their_reason(data: bytes, reason: str, words: str) -> None:
    with pytest.raises(ModelRefused) as caught:
        safety.check(data, "model.onnx")
    assert caught.value.reason == reason
    assert words in str(caught.value)
    assert str(caught.value).startswith(f"{reason}: model.onnx: ")


BROKEN = {
    "person_detect.tflite": "bad_quantization",
    "audio_preprocessor_int8.tflite": "custom_op",
    "model_invoking_error.tflite": "custom_op",
    "lfs_pointer.tflite": "not_a_model",
}


def test_broken_models_of_the_kit_are_refused(realdata: Path) -> None:
    found = {
        path.name: safety.inspect(path.read_bytes(), path.name).reason
        for path in (realdata / "models" / "broken").iterdir()
    }
    assert found == BROKEN


def test_good_models_of_the_kit_pass_and_their_halves_do_not(realdata: Path) -> None:
    paths = [
        p
        for p in (realdata / "models").rglob("*.*")
        if p.suffix in (".onnx", ".tflite") and p.parent.name != "broken"
    ]
    assert len(paths) >= 19
    for path in paths:
        data = path.read_bytes()
        assert safety.check(data, path.name) == path.suffix[1:]
        assert safety.inspect(data[: len(data) // 2], path.name).reason == "truncated", path.name


def test_goes_by_content_and_not_by_name() -> None:
    assert safety.check(GOOD, "model.tflite") == "onnx"


def test_local_functions_are_no_custom_operators() -> None:
    made = files.model([helper.make_node("F", ["x"], ["y"], domain="mine")], IN, OUT)
    body = [helper.make_node("Identity", ["a"], ["b"])]
    made.functions.append(
        helper.make_function("mine", "F", ["a"], ["b"], body, [helper.make_opsetid("", 17)])
    )
    assert safety.check(bytes(made.SerializeToString()), "m.onnx") == "onnx"


def test_nesting_is_bounded() -> None:
    graph = b""
    for _ in range(onnx_file.MAX_DEPTH + 2):
        # GraphProto.node = 1, NodeProto.attribute = 5, AttributeProto.g = 6; the onnx package cannot nest so deep.
        graph = delimited(1, delimited(5, delimited(6, graph)))
    verdict = safety.inspect(b"\x08\x09" + delimited(7, graph), "m.onnx")
    assert verdict.reason == "not_a_model"
    assert "nested deeper" in verdict.message


def delimited(number: int, payload: bytes) -> bytes:
    """A length-delimited protobuf field of less than 16 kB."""
    size = len(payload)
    return bytes([number << 3 | 2, size & 0x7F | 0x80, size >> 7]) + payload


def test_work_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_file, "MAX_FIELDS", 20)
    assert "more than 20 fields" in safety.inspect(GOOD, "m.onnx").message
    monkeypatch.setattr(tflite_file, "MAX_TABLES", 0)
    assert "more than 0 tables" in safety.inspect(tflite(), "m.tflite").message


def test_finds_the_quantization_of_a_qdq_model() -> None:
    q = [files.weight("s", 0.5), files.weight("z", -3, "int8"), files.weight("s2", 0.25)]
    nodes = [
        helper.make_node("Transpose", ["x"], ["moved"], perm=[1, 0]),
        helper.make_node("DequantizeLinear", ["moved", "s", "z"], ["real"]),
        helper.make_node("QuantizeLinear", ["real", "s2", "z"], ["q"]),
        helper.make_node("Flatten", ["q"], ["y"]),
    ]
    ends = [files.tensor("x", [1, 2], TensorProto.INT8)], [files.tensor("y", [2, 1], TensorProto.INT8)]
    constants = [helper.make_node("Constant", [], [each.name], value=each) for each in q]
    for made in (files.model(nodes, *ends, q), files.model([*constants, *nodes], *ends)):
        found = onnx_file.scan(bytes(made.SerializeToString())).quantization
        assert found["x"] == Quantization(0.5, -3)
        assert found["y"] == Quantization(0.25, -3)


@pytest.mark.parametrize(("scale", "zero"), [(0.5, np.nan), (0.5, np.inf), (np.nan, 0.0), (-np.inf, 0.0)])
def test_a_quantization_that_is_no_number_is_unknown(scale: float, zero: float) -> None:
    weights = [files.weight("s", scale), files.weight("z", zero)]
    node = helper.make_node("DequantizeLinear", ["x", "s", "z"], ["y"])
    data = bytes(files.model([node], IN, OUT, weights).SerializeToString())
    assert safety.inspect(data, "m.onnx").runtime == "onnx"
    assert onnx_file.scan(data).quantization == {}


@given(st.binary(max_size=400))
def test_any_bytes_get_a_verdict(data: bytes) -> None:
    for content in (data, data[:4] + b"TFL3" + data[4:], b"\x08" + data):
        verdict = safety.inspect(content, "m")
        assert bool(verdict.runtime) != bool(verdict.reason)


@given(position=st.integers(0, 10**9), value=st.integers(0, 255))
def test_a_changed_byte_gets_a_verdict(position: int, value: int) -> None:
    data = bytearray(GOOD)
    data[position % len(data)] = value
    safety.inspect(bytes(data), "m.onnx")


def tflite(**slots: int) -> bytes:
    """A flatbuffer whose Model table has an offset in the given slots: `slot8=…`."""
    count = 10
    vtable = struct.pack("<HH", 4 + 2 * count, 4 + 4 * count)
    vtable += b"".join(struct.pack("<H", 4 + 4 * i if f"slot{i}" in slots else 0) for i in range(count))
    table = struct.pack("<i", len(vtable)) + b"".join(
        struct.pack("<I", slots.get(f"slot{i}", 0)) for i in range(count)
    )
    return struct.pack("<I4s", 8 + len(vtable), b"TFL3") + vtable + table


def test_weights_of_a_tflite_file_elsewhere_are_refused() -> None:
    assert safety.inspect(tflite(slot8=4), "m.tflite").reason == "external_data"


def test_a_tflite_file_without_a_graph_is_no_model() -> None:
    assert safety.inspect(tflite(), "m.tflite").reason == "not_a_model"


def test_a_list_that_points_behind_the_end_is_truncated() -> None:
    with pytest.raises(onnx_file.MalformedFile):
        tflite_file.scan(tflite(slot2=2**31))
    assert safety.inspect(tflite(slot2=2**31), "m.tflite").reason == "truncated"
