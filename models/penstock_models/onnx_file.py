"""A bounded reader of ONNX files: what must be known about one before a runtime sees it, without the onnx package.

An ONNX file is a protobuf `ModelProto`. This walks only the fields named below (numbers of onnx.proto), skips weights
without copying them, and never follows a path. Owns the facts; whether they are acceptable is `safety`'s decision.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from penstock_models.manifest import Quantization

MAX_FIELDS = 5_000_000
MAX_DEPTH = 32  # subgraphs within subgraphs
_SMALL = 256  # bytes of a tensor that can be a scale or a zero point
_MOVES = ("Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity")

Value = int | memoryview


class MalformedFile(Exception):
    """Not this format. `truncated` where a length points behind the end."""

    def __init__(self, message: str, *, truncated: bool = False) -> None:
        super().__init__(message)
        self.truncated = truncated


@dataclass
class OnnxFacts:
    """What a model file says about itself. Operators are (domain, type); "" is ONNX's own domain."""

    ir_version: int = 0
    opset_domains: set[str] = field(default_factory=set)
    operators: set[tuple[str, str]] = field(default_factory=set)
    functions: set[tuple[str, str]] = field(default_factory=set)
    external: set[str] = field(default_factory=set)
    quantization: dict[str, Quantization] = field(default_factory=dict)
    has_graph: bool = False


def scan(data: bytes) -> OnnxFacts:
    """The facts of an ONNX file.

    Raises:
        MalformedFile: not a protobuf, cut off, or nested or chopped beyond the bounds.
    """
    facts = OnnxFacts()
    walk = _Walk(facts)
    for number, value in walk.fields(memoryview(data)):
        match number, value:
            case 1, int():
                facts.ir_version = value
            case 7, memoryview():
                facts.has_graph = True
                walk.graph(value, 0)
            case 8, memoryview():
                facts.opset_domains.add(walk.text(value, 1))
            case 25, memoryview():
                walk.function(value)
    return facts


class _Walk:
    """One pass over a file; counts fields so that a hostile file cannot keep it busy."""

    def __init__(self, facts: OnnxFacts) -> None:
        self._facts = facts
        self._left = MAX_FIELDS

    def fields(self, data: memoryview) -> Iterator[tuple[int, Value]]:
        """(field number, value) of one message; a length-delimited value is a view, a fixed one too."""
        position = 0
        while position < len(data):
            self._left -= 1
            if self._left < 0:
                raise MalformedFile(f"more than {MAX_FIELDS} fields")
            key, position = _varint(data, position)
            number, wire = key >> 3, key & 7
            if number == 0:
                raise MalformedFile("a field has the number 0")
            if wire == 0:
                value, position = _varint(data, position)
                yield number, value
                continue
            length, position = _length(data, position, wire)
            if position + length > len(data):
                raise MalformedFile(f"a field of {length} bytes reaches behind the end", truncated=True)
            yield number, data[position : position + length]
            position += length

    def text(self, message: memoryview, number: int) -> str:
        """The last text field `number` of a message, "" where it has none."""
        found = ""
        for n, value in self.fields(message):
            if n == number and isinstance(value, memoryview):
                found = _decode(value)
        return found

    def graph(self, message: memoryview, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise MalformedFile(f"subgraphs are nested deeper than {MAX_DEPTH}")
        small: dict[str, memoryview] = {}  # tensors by name, of initializers and Constant nodes
        nodes: list[_Node] = []
        for number, value in self.fields(message):
            match number, value:
                case 1, memoryview():
                    node = self.node(value, depth)
                    nodes.append(node)
                    if node.type == "Constant" and node.value is not None and len(node.value) <= _SMALL:
                        small.update(dict.fromkeys(node.outputs, node.value))
                case 5, memoryview():
                    name = self.tensor(value)
                    if len(value) <= _SMALL:
                        small[name] = value
                case 15, memoryview():
                    self.sparse(value)
        if depth == 0:
            self._find_quantization(nodes, small)

    def node(self, message: memoryview, depth: int) -> _Node:
        node = _Node()
        for number, value in self.fields(message):
            if not isinstance(value, memoryview):
                continue
            match number:
                case 1:
                    node.inputs.append(_decode(value))
                case 2:
                    node.outputs.append(_decode(value))
                case 4:
                    node.type = _decode(value)
                case 5:
                    node.value = self.attribute(value, depth) or node.value
                case 7:
                    node.domain = _decode(value)
        self._facts.operators.add((node.domain, node.type))
        return node

    def attribute(self, message: memoryview, depth: int) -> memoryview | None:
        """Walk what an attribute holds; return its one tensor, None for any other."""
        single: memoryview | None = None
        for number, value in self.fields(message):
            match number, value:
                case 5, memoryview():
                    self.tensor(value)
                    single = value
                case 10, memoryview():
                    self.tensor(value)
                case ((6 | 11), memoryview()):
                    self.graph(value, depth + 1)
                case ((22 | 23), memoryview()):
                    self.sparse(value)
        return single

    def tensor(self, message: memoryview) -> str:
        """Note a tensor whose values lie in another file; return its name."""
        name, external = "", False
        for number, value in self.fields(message):
            match number, value:
                case 8, memoryview():
                    name = _decode(value)
                case 13, memoryview():
                    external = True
                case 14, int():
                    external = external or value == 1
        if external:
            self._facts.external.add(name)
        return name

    def sparse(self, message: memoryview) -> None:
        for number, value in self.fields(message):
            if number in (1, 2) and isinstance(value, memoryview):
                self.tensor(value)

    def function(self, message: memoryview) -> None:
        name = domain = ""
        for number, value in self.fields(message):
            match number, value:
                case 1, memoryview():
                    name = _decode(value)
                case 7, memoryview():
                    self.node(value, 1)
                case 10, memoryview():
                    domain = _decode(value)
                case 11, memoryview():
                    self.attribute(value, 1)
        self._facts.functions.add((domain, name))

    def _find_quantization(self, nodes: list[_Node], small: dict[str, memoryview]) -> None:
        """An int8 input of a QDQ model goes into DequantizeLinear, an int8 output comes out of QuantizeLinear."""
        found = self._facts.quantization
        for node in nodes:
            if node.type not in ("QuantizeLinear", "DequantizeLinear") or len(node.inputs) < 2:
                continue
            tensor = (node.inputs if node.type == "DequantizeLinear" else node.outputs)[:1]
            scale = self._scalar(small.get(node.inputs[1]))
            zero = self._scalar(small.get(node.inputs[2])) if len(node.inputs) > 2 else 0.0
            if tensor and scale is not None and zero is not None and math.isfinite(scale + zero):
                found[tensor[0]] = Quantization(scale, int(zero))
        # Exporters put a transpose between the input and its DequantizeLinear; moving values does not change them.
        moves = [n for n in nodes if n.type in _MOVES and n.inputs and n.outputs]
        for node in reversed(moves):
            if node.outputs[0] in found:
                found.setdefault(node.inputs[0], found[node.outputs[0]])
        for node in moves:
            if node.inputs[0] in found:
                found.setdefault(node.outputs[0], found[node.inputs[0]])

    def _scalar(self, message: memoryview | None) -> float | None:
        """The value of a one-element TensorProto of float32, int8 or uint8; None for any other."""
        dtype, raw, typed = 0, b"", None
        for number, value in self.fields(message or memoryview(b"")):
            match number, value:
                case 2, int():
                    dtype = value
                case 9, memoryview():
                    raw = bytes(value)
                case 4, memoryview() if len(value) == 4:
                    typed = struct.unpack("<f", value)[0]
                case 5, memoryview() if 1 <= len(value) <= 10:
                    whole, end = _varint(value, 0)
                    typed = _signed(whole) if end == len(value) else None
        code = {1: "<f", 2: "<B", 3: "<b"}.get(dtype)
        if code is None:
            return None
        return struct.unpack(code, raw)[0] if len(raw) == struct.calcsize(code) else typed


@dataclass
class _Node:
    type: str = ""
    domain: str = ""
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    value: memoryview | None = None


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            raise MalformedFile("it ends within a number", truncated=True)
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise MalformedFile("a number is longer than 10 bytes")


def _length(data: memoryview, position: int, wire: int) -> tuple[int, int]:
    match wire:
        case 1:
            return 8, position
        case 2:
            return _varint(data, position)
        case 5:
            return 4, position
    raise MalformedFile(f"a field has the wire type {wire}, which protobuf does not use any more")


def _signed(value: int) -> float:
    return float(value - (1 << 64) if value >= 1 << 63 else value)


def _decode(value: memoryview) -> str:
    return bytes(value).decode("utf-8", "replace")
