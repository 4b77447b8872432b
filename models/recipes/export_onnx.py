"""From a Keras model to an int8 ONNX file (QDQ), without a converter between them.

Walks the layers that the recipes use and writes one ONNX node each; batch normalisation goes into the convolution
before it. Then ONNX Runtime's static quantization, and integer ends: the file takes and, where the last node is
quantized, gives the integers themselves, so that the gateway converts nothing.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnx
from keras import layers
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

OPSET = 17
Floats = NDArray[np.float32]


def int8_onnx(model: keras.Model, samples: Floats, *, float_tail: bool) -> bytes:
    """The model as QDQ ONNX with a free batch axis; its input is uint8.

    Args:
        model: one input and one output; a picture's input is channels last, in 0..1.
        samples: float inputs (n, …) that calibrate the activations.
        float_tail: leave what follows the last convolution (sigmoid and scaling of a few rows) in float32.
    """
    plain = float_onnx(model)
    tail = [
        n.name
        for n in plain.graph.node
        if n.op_type in ("Sigmoid", "Mul", "Concat", "Reshape") or n.name == "offset"
    ]
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "float.onnx"), Path(folder, "int8.onnx")
        onnx.save(plain, source)
        quantize_static(
            source,
            target,
            _Reader(model.input.name, _as_onnx(samples)),
            quant_format=QuantFormat.QDQ,
            # On x86 ONNX Runtime fuses no int8 activations: the products would be float.
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
            # Seven bits of weight: eight overflow 16-bit sums on processors without VNNI, and answers would differ.
            reduce_range=True,
            nodes_to_exclude=tail if float_tail else [],
        )
        quantized = onnx.load(target)
    _integer_input(quantized, channels_last=samples.ndim == 4)
    _integer_output(quantized)
    for constant in quantized.graph.initializer:  # as raw bytes, the one form that every reader knows
        constant.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(constant), constant.name))
    onnx.checker.check_model(quantized, full_check=True)
    return bytes(quantized.SerializeToString())


def float_onnx(model: keras.Model) -> ModelProto:
    """The model in float32; pictures are channels first in it."""
    walk = _Walk(model)
    for layer in model.layers:
        walk.visit(layer)
    source, result = model.input, model.output
    shape: list[str | int | None] = ["batch", *_channels_first(source.shape[1:])]
    rows: list[str | int | None] = ["batch", *result.shape[1:]]
    graph = helper.make_graph(
        walk.nodes,
        model.name,
        [helper.make_tensor_value_info(source.name, TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(walk.names[id(result)], TensorProto.FLOAT, rows)],
        walk.constants,
    )
    # An older IR version, so that the runtimes of older boxes open the file.
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)


class _Walk:
    """Nodes and constants so far; `names` maps a Keras tensor to the ONNX value that holds it."""

    def __init__(self, model: keras.Model) -> None:
        self.nodes: list[Any] = []
        self.constants: list[TensorProto] = []
        self.names: dict[int, str] = {id(model.input): model.input.name}
        self._norms = {id(n.input): n for n in model.layers if isinstance(n, layers.BatchNormalization)}

    def visit(self, layer: keras.Layer) -> None:
        match layer:
            case layers.InputLayer() | layers.BatchNormalization():
                pass  # named by the model, folded into its convolution
            case layers.Conv2D():
                self._convolution(layer)
            case layers.Dense():
                kernel, bias = (np.asarray(w) for w in layer.get_weights())
                self._node(
                    "Gemm", layer, [*self._inputs(layer), self._constant(kernel), self._constant(bias)]
                )
            case layers.ReLU():
                limits = (
                    [] if layer.max_value is None else [self._constant(v) for v in (0.0, layer.max_value)]
                )
                self._node("Clip" if limits else "Relu", layer, [*self._inputs(layer), *limits])
            case layers.Add():
                self._node("Add", layer, self._inputs(layer))
            case layers.Concatenate():
                self._node("Concat", layer, self._inputs(layer), axis=layer.axis)
            case layers.UpSampling2D():
                scales = self._constant([1.0, 1.0, *map(float, layer.size)])
                self._node("Resize", layer, [*self._inputs(layer), "", scales], mode="nearest", nearest_mode="floor",
                           coordinate_transformation_mode="asymmetric")  # fmt: skip
            case layers.Reshape():
                self._rows(layer)
            case layers.Activation() if layer.activation is keras.activations.sigmoid:
                self._node("Sigmoid", layer, self._inputs(layer))
            case layers.Rescaling():
                scaled = self._raw(
                    "Mul", f"{layer.name}/scaled", [*self._inputs(layer), self._constant(layer.scale)]
                )
                self._node("Add", layer, [scaled, self._constant(layer.offset)], name="offset")
            case _:
                raise TypeError(
                    f"layer {layer.name}: {type(layer).__name__} has no ONNX form here; add it to _Walk"
                )

    def _convolution(self, layer: layers.Conv2D) -> None:
        kernel, *rest = (np.asarray(w) for w in layer.get_weights())
        bias = rest[0] if rest else np.zeros(kernel.shape[-1], np.float32)
        norm = self._norms.get(id(layer.output))
        if norm is not None:
            gain = norm.gamma.numpy() / np.sqrt(norm.moving_variance.numpy() + norm.epsilon)
            kernel, bias = kernel * gain, (bias - norm.moving_mean.numpy()) * gain + norm.beta.numpy()
        inputs = [*self._inputs(layer), self._constant(kernel.transpose(3, 2, 0, 1)), self._constant(bias)]
        self._node("Conv", norm or layer, inputs, strides=layer.strides, pads=list(_pads(layer)))

    def _rows(self, layer: layers.Reshape) -> None:
        """A map (channels first here) to rows of cells: the channels go last before they are cut."""
        last = self._raw("Transpose", f"{layer.name}/last", self._inputs(layer), perm=[0, 2, 3, 1])
        shape = self._constant(np.array([0, *layer.target_shape], np.int64))
        self._node("Reshape", layer, [last, shape])

    def _inputs(self, layer: keras.Layer) -> list[str]:
        tensors = layer.input if isinstance(layer.input, list) else [layer.input]
        return [self.names[id(t)] for t in tensors]

    def _node(
        self, op: str, layer: keras.Layer, inputs: Sequence[str], name: str = "", **attributes: Any
    ) -> None:
        self.names[id(layer.output)] = self._raw(
            op, layer.name, inputs, name=name or layer.name, **attributes
        )

    def _raw(self, op: str, output: str, inputs: Sequence[str], name: str = "", **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, inputs, [output], name=name or output, **attributes))
        return output

    def _constant(self, value: Any) -> str:
        array = np.asarray(value)
        name = f"constant_{len(self.constants)}"
        kept = array if array.dtype == np.int64 else array.astype(np.float32)
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(kept), name))
        return name


def _pads(layer: layers.Conv2D) -> Iterator[int]:
    """Keras's `same` padding, which gives the odd pixel to the far side."""
    sizes = list(zip(layer.input.shape[1:3], layer.kernel_size, layer.strides, strict=True))
    totals = [max((-(-size // stride) - 1) * stride + kernel - size, 0) for size, kernel, stride in sizes]
    if layer.padding == "valid":
        totals = [0, 0]
    yield from (total // 2 for total in totals)
    yield from (total - total // 2 for total in totals)


def _channels_first(shape: Sequence[int]) -> list[int]:
    return [shape[2], shape[0], shape[1]] if len(shape) == 3 else list(shape)


def _as_onnx(samples: Floats) -> Floats:
    return np.ascontiguousarray(samples.transpose(0, 3, 1, 2)) if samples.ndim == 4 else samples


class _Reader(CalibrationDataReader):
    def __init__(self, name: str, samples: Floats) -> None:
        self._feeds = iter([{name: samples[i : i + 1]} for i in range(len(samples))])

    def get_next(self) -> dict[str, Floats] | None:
        return next(self._feeds, None)


def _integer_input(model: ModelProto, *, channels_last: bool) -> None:
    """Take the QuantizeLinear off the input. A picture's bytes are then the input: 0..255 stand for 0..1."""
    graph = model.graph
    source = graph.input[0]
    first = next(n for n in graph.node if n.op_type == "QuantizeLinear" and n.input[0] == source.name)
    constants = {c.name: c for c in graph.initializer}
    zero = constants[first.input[2]]
    source.type.tensor_type.elem_type = zero.data_type
    graph.node.remove(first)
    if not channels_last:
        _renamed(graph, first.output[0], source.name)
        return
    constants[first.input[1]].CopyFrom(numpy_helper.from_array(np.array(1 / 255, np.float32), first.input[1]))
    zero.CopyFrom(numpy_helper.from_array(np.array(0, np.uint8), zero.name))
    _, channels, height, width = source.type.tensor_type.shape.dim
    sizes = [channels.dim_value, height.dim_value, width.dim_value]
    for dim, size in zip((channels, height, width), (sizes[1], sizes[2], sizes[0]), strict=True):
        dim.dim_value = size
    graph.node.insert(0, helper.make_node("Transpose", [source.name], first.output, perm=[0, 3, 1, 2]))


def _integer_output(model: ModelProto) -> None:
    """Take the DequantizeLinear off the output, if one is there."""
    graph = model.graph
    result = graph.output[0]
    last = next((n for n in graph.node if result.name in n.output), None)
    if last is None or last.op_type != "DequantizeLinear":
        return
    zero = next(c for c in graph.initializer if c.name == last.input[2])
    result.type.tensor_type.elem_type = zero.data_type
    graph.node.remove(last)
    _renamed(graph, last.input[0], result.name)


def _renamed(graph: Any, old: str, new: str) -> None:
    for node in graph.node:
        node.input[:] = [new if name == old else name for name in node.input]
        node.output[:] = [new if name == old else name for name in node.output]
