"""Servables of models made on the spot, for the tests of this folder."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper

from penstock_models.bundle import Bundle, memory_bundle
from penstock_models.items import Answer, Item, Outcome, Refusal, Tensor
from penstock_models.manifest import Constant, Manifest, State, Variant
from penstock_models.runtimes import open_session
from penstock_models.servable import Servable
from tests.models.onnx_files import model, tensor, weight


def bundle(data: bytes, task: str = "raw", runtime: str = "onnx", **manifest: Any) -> Bundle:
    """A bundle of one model file; further arguments are fields of the manifest."""
    session = open_session(data, runtime)
    file = f"model.{runtime}"
    variant = Variant(file, runtime, session.inputs, session.outputs)  # type: ignore[arg-type]
    session.close()
    made = Manifest("made", 1, task, (variant,), (), **manifest)  # type: ignore[arg-type]
    return memory_bundle(made, {file: data}, Path("made"))


def servable(data: bytes, task: str = "raw", **manifest: Any) -> Servable:
    return Servable.open(bundle(data, task, **manifest))


def floats(*values: float, stream: str = "", shape: tuple[int, ...] = ()) -> Item:
    return Item(Tensor(np.array(values, "<f4").tobytes(), "float32", shape), stream)


def integers(*values: int, stream: str = "") -> Item:
    return Item(Tensor(np.array(values, "<i8").tobytes(), "int64"), stream)


def output(outcome: Outcome, name: str = "y") -> Any:
    """The values of one raw output."""
    assert isinstance(outcome, Answer) and outcome.outputs is not None, outcome
    tensor = outcome.outputs[name]
    return np.frombuffer(tensor.data, tensor.dtype).reshape(tensor.shape).tolist()


def fate(outcome: Outcome) -> str:
    """`ok`, or bucket and reason."""
    return f"{outcome.bucket}: {outcome.reason}" if isinstance(outcome, Refusal) else "ok"


def fates(outcomes: Sequence[Outcome]) -> list[str]:
    return [fate(outcome) for outcome in outcomes]


def scaler(rows: int | str = "n", width: int = 2, dtype: Any = TensorProto.FLOAT) -> bytes:
    """y = 2 · x, (rows, width)."""
    name = {TensorProto.FLOAT: "float32", TensorProto.FLOAT16: "float16", TensorProto.INT64: "int64"}.get(
        dtype
    )
    nodes = [helper.make_node("Mul", ["x", "two"], ["y"])]
    ends = [tensor("x", [rows, width], dtype)], [tensor("y", [rows, width], dtype)]
    return bytes(model(nodes, *ends, [weight("two", 2, name or "float32")]).SerializeToString())


def picker() -> bytes:
    """y = table[x] for int64 x (n, 1): raises for an x out of 0..3, in the middle of a run."""
    nodes = [helper.make_node("Gather", ["table", "x"], ["y"])]
    ends = [tensor("x", ["n", 1], TensorProto.INT64)], [tensor("y", ["n", 1])]
    return bytes(model(nodes, *ends, [weight("table", [0.0, 10.0, 20.0, 30.0])]).SerializeToString())


def looper() -> bytes:
    """y = x after max(x) turns of a loop, int64 (n, 1): a large x does not come back in a lifetime."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go_in"], ["go_out"]),
            helper.make_node("Add", ["sum_in", "one"], ["sum_out"]),
        ],
        "body",
        [tensor("turn", [], TensorProto.INT64), tensor("go_in", [], TensorProto.BOOL), tensor("sum_in", [])],
        [tensor("go_out", [], TensorProto.BOOL), tensor("sum_out", [])],
        [weight("one", 1.0)],
    )
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["count"], keepdims=0),
        helper.make_node("Loop", ["count", "go", "zero"], ["turns"], body=body),
        helper.make_node("Cast", ["x"], ["value"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["turns", "zero"], ["nothing"]),
        helper.make_node("Add", ["value", "nothing"], ["y"]),
    ]
    ends = [tensor("x", ["n", 1], TensorProto.INT64)], [tensor("y", ["n", 1])]
    weights = [weight("go", True, "bool"), weight("zero", 0.0)]
    return bytes(model(nodes, *ends, weights).SerializeToString())


def summer(rows: int | str = "n") -> Bundle:
    """A stateful model: y = x + the sum of all x before, per stream, times a constant input `factor` of 1."""
    nodes = [
        helper.make_node("Mul", ["x", "factor"], ["part"]),
        helper.make_node("Add", ["part", "total"], ["total_next"]),
        helper.make_node("Identity", ["total_next"], ["y"]),
    ]
    inputs = [tensor("x", [rows, 1]), tensor("total", [rows, 1]), tensor("factor", [])]
    made = model(nodes, inputs, [tensor("y", [rows, 1]), tensor("total_next", [rows, 1])])
    return bundle(
        bytes(made.SerializeToString()),
        states=(State("total", "total_next", "float32", (1, 1)),),
        constants=(Constant("factor", "float32", (), (1.0,)),),
    )
