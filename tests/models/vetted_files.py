"""Models that harm whoever loads them, and bundles of them, for the tests of vetting."""

from pathlib import Path

import onnx
from onnx import TensorProto, helper

from penstock_models.bundle import write_bundle
from penstock_models.manifest import Golden, Manifest, TensorSpec, Variant
from tests.models.onnx_files import model, tensor, weight

ENDS = [tensor("x", ["n", 1])], [tensor("y", ["n", 1])]
MANY = 2**62


def huge() -> bytes:
    """A constant of 10^11 elements: 400 GB, of a file of about a hundred bytes."""
    node = helper.make_node("ConstantOfShape", ["s"], ["y"])
    return bytes(model([node], *ENDS, [weight("s", [10**11], "int64")]).SerializeToString())


def quadratic(side: int = 200_000) -> bytes:
    """A row added to its own transpose: side² values from one."""
    nodes = [
        helper.make_node("Expand", ["x", "s"], ["row"]),
        helper.make_node("Transpose", ["row"], ["column"], perm=[1, 0]),
        helper.make_node("Add", ["row", "column"], ["square"]),
        helper.make_node("ReduceSum", ["square"], ["y"], keepdims=1),
    ]
    ends = [tensor("x", [1, 1])], [tensor("y", [1, 1])]
    return bytes(model(nodes, *ends, [weight("s", [1, side], "int64")]).SerializeToString())


def quadratic_batch(side: int = 1000) -> bytes:
    """y = x, by way of (side · rows)² values: one row takes 4 MB, sixteen take 1 GB."""
    nodes = [
        helper.make_node("Expand", ["x", "s"], ["wide"]),
        helper.make_node("Reshape", ["wide", "flat"], ["row"]),
        helper.make_node("Transpose", ["row"], ["column"], perm=[1, 0]),
        helper.make_node("Add", ["row", "column"], ["square"]),
        helper.make_node("ReduceMax", ["square"], ["most"], keepdims=0),
        helper.make_node("Mul", ["most", "zero"], ["nothing"]),
        helper.make_node("Add", ["x", "nothing"], ["y"]),
    ]
    weights = [weight("s", [1, side], "int64"), weight("flat", [1, -1], "int64"), weight("zero", 0.0)]
    return bytes(model(nodes, *ENDS, weights).SerializeToString())


def endless(*, nested: bool = False) -> bytes:
    """A loop of 2^62 turns; `nested`, of as many of them each."""
    body = _body("inner", helper.make_node("Add", ["sum_inner", "one"], ["out_inner"]))
    if nested:
        turns = helper.make_node("Loop", ["many", "go", "sum_outer"], ["out_outer"], body=body)
        body = _body("outer", turns)
    nodes = [
        helper.make_node("Loop", ["many", "go", "zero"], ["turns"], body=body),
        helper.make_node("Add", ["x", "turns"], ["y"]),
    ]
    weights = [
        weight("many", MANY, "int64"),
        weight("go", True, "bool"),
        weight("zero", 0.0),
        weight("one", 1.0),
    ]
    return bytes(model(nodes, *ENDS, weights).SerializeToString())


def _body(name: str, work: onnx.NodeProto) -> onnx.GraphProto:
    return helper.make_graph(
        [helper.make_node("Identity", [f"go_{name}"], [f"on_{name}"]), work],
        name,
        [
            tensor(f"turn_{name}", [], TensorProto.INT64),
            tensor(f"go_{name}", [], TensorProto.BOOL),
            tensor(f"sum_{name}", []),
        ],
        [tensor(f"on_{name}", [], TensorProto.BOOL), tensor(f"out_{name}", [])],
    )


def external(location: str) -> bytes:
    """Weights in another file."""
    far = weight("k", [1.0])
    far.ClearField("raw_data")
    far.data_location = TensorProto.EXTERNAL
    far.external_data.add(key="location", value=location)
    node = helper.make_node("Mul", ["x", "k"], ["y"])
    return bytes(model([node], *ENDS, [far]).SerializeToString())


def foreign_operator() -> bytes:
    node = helper.make_node("Evil", ["x"], ["y"], domain="evil.ops")
    return bytes(model([node], *ENDS).SerializeToString())


def doubler() -> bytes:
    """y = 2 · x."""
    node = helper.make_node("Mul", ["x", "two"], ["y"])
    return bytes(model([node], *ENDS, [weight("two", 2.0)]).SerializeToString())


def bundle(folder: Path, data: bytes, *, golden: float | None = None, name: str = "made") -> Path:
    """A bundle of any bytes as its model; nothing of it is loaded here.

    Args:
        golden: what the model is said to answer to 1.0.
    """
    tensors = (TensorSpec("x", "float32", (None, 1)),), (TensorSpec("y", "float32", (None, 1)),)
    files = {"model.onnx": data}
    samples: tuple[Golden, ...] = ()
    if golden is not None:
        files["golden/0.json"] = b"[1.0]"
        answer = {"dtype": "float32", "shape": [1], "values": {"0": golden}}
        samples = (Golden("golden/0.json", "application/json", {"outputs": {"y": answer}}),)
    manifest = Manifest(name, 1, "raw", (Variant("model.onnx", "onnx", *tensors),), (), golden=samples)
    return write_bundle(manifest, files, folder)
