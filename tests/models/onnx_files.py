"""ONNX models made on the spot, right ones and wrong ones, for the tests of this folder."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    weights: Sequence[onnx.TensorProto] = (),
    **options: Any,
) -> onnx.ModelProto:
    """A model of one graph, of an operator set that every supported runtime has."""
    graph = helper.make_graph(nodes, "graph", inputs, outputs, list(weights))
    domains = {node.domain for node in nodes if node.domain}
    opsets = [helper.make_opsetid("", 17), *(helper.make_opsetid(domain, 1) for domain in sorted(domains))]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9, **options)


def tensor(
    name: str, shape: Sequence[int | str | None], dtype: int = TensorProto.FLOAT
) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, list(shape))


def weight(name: str, values: Any, dtype: str = "float32") -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(values, dtype=dtype), name)


def classifier(side: int = 8, classes: int = 3, *, softmax: bool = True) -> bytes:
    """Mean colour (N, 3, side, side) → `classes` scores; red, green and blue pictures give classes 0, 1 and 2."""
    nodes = [
        helper.make_node("GlobalAveragePool", ["x"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["logits" if softmax else "y"]),
    ]
    if softmax:
        nodes.append(helper.make_node("Softmax", ["logits"], ["y"], axis=-1))
    weights = [weight("w", np.eye(3, classes) * 8)]
    made = model(nodes, [tensor("x", ["n", 3, side, side])], [tensor("y", ["n", classes])], weights)
    return bytes(made.SerializeToString())


def autoencoder(width: int = 4) -> bytes:
    """Gives half of what came in."""
    nodes = [helper.make_node("Mul", ["x", "half"], ["y"])]
    made = model(nodes, [tensor("x", ["n", width])], [tensor("y", ["n", width])], [weight("half", 0.5)])
    return bytes(made.SerializeToString())


def counter() -> bytes:
    """Adds `x · factor` to a carried sum: an input `total`, an output `total_next`, a constant input `factor`."""
    nodes = [
        helper.make_node("Mul", ["x", "factor"], ["part"]),
        helper.make_node("Add", ["part", "total"], ["total_next"]),
        helper.make_node("Identity", ["total_next"], ["y"]),
    ]
    inputs = [tensor("x", [1, 1]), tensor("total", [1, 1]), tensor("factor", [])]
    return bytes(
        model(nodes, inputs, [tensor("y", [1, 1]), tensor("total_next", [1, 1])]).SerializeToString()
    )


def write(tmp_path: Path, data: bytes, name: str = "m.onnx") -> Path:
    """Put a model, or what is given to one, into a file."""
    path = tmp_path / name
    path.write_bytes(data)
    return path
