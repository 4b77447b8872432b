"""Small ONNX models for the system tests, packed into a model store. They load anywhere and answer in microseconds.

`quarters` tells the colours of a picture's four quarters, `colours` says red, green or blue, `finder` finds a picture's
halves, `halves` is an autoencoder over four values. `picky` and `patient` pass their golden samples and misbehave on one input: the first
takes an index, the second the number of its turns from the data.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import TensorProto, helper

from penstock_models.pack import pack
from tests.models.onnx_files import autoencoder, classifier, model, tensor, weight

QUARTERS_TOML = """\
name = "quarters"
file = "quarters.onnx"
[[preprocess]]
op = "resize"
width = 8
height = 8
[[preprocess]]
op = "color"
[[preprocess]]
op = "normalize"
scale = 0.00392156862745098
[[preprocess]]
op = "layout"
order = "nchw"
"""


def pack_small(store: Path, sources: Path) -> None:
    """Pack all of them into `store`; `sources` gets the model files."""
    labels = sources / "labels.txt"
    labels.write_text("red\ngreen\nblue\n")
    (sources / "quarters.toml").write_text(QUARTERS_TOML)
    files = {"quarters": quarters(), "colours": classifier(), "halves": autoencoder(), "finder": finder()}
    for name, data in {**files, "picky": picky(), "patient": patient()}.items():
        (sources / f"{name}.onnx").write_bytes(data)
    pack(sources / "quarters.toml", store)
    pack(sources / "colours.onnx", store, preset="classification", labels=labels)
    pack(sources / "halves.onnx", store, preset="autoencoder")
    pack(sources / "finder.onnx", store, preset="rfb", labels=_line(sources, "half"))
    for name in ("picky", "patient"):
        pack(sources / f"{name}.onnx", store, golden=[_ones(sources)])


def pack_real(realdata: Path, store: Path, sources: Path) -> None:
    """Pack what the system tests take from the kit: `person`, `vww`, `ad01`, `silero`."""
    models = realdata / "models"
    portrait = realdata / "images" / "grace_hopper.jpg"
    detector = models / "light_weight_person_detector_192.onnx"
    pack(detector, store, preset="yolox", name="person", golden=[portrait], labels=_line(sources, "person"))
    labels = _line(sources, "nobody\nperson")
    pack(models / "vww_96_int8.tflite", store, preset="classification", name="vww", labels=labels)
    pack(models / "ad01_int8.tflite", store, preset="autoencoder", name="ad01")
    toml = sources / "silero.toml"
    toml.write_text(SILERO_TOML.format(file=models / "silero_vad.onnx"))
    pack(toml, store)


SILERO_TOML = """\
name = "silero"
file = "{file}"
[state]
stateN = "state"
[constants]
sr = 16000
[[preprocess]]
op = "normalize"
scale = 0.000030517578125
[[preprocess]]
op = "context"
samples = 64
"""


def quarters() -> bytes:
    """The mean colour of each quarter: (n, 3, 8, 8) → `y` (n, 3, 2, 2)."""
    pool = helper.make_node("AveragePool", ["x"], ["y"], kernel_shape=[4, 4], strides=[4, 4])
    made = model([pool], [tensor("x", ["n", 3, 8, 8])], [tensor("y", ["n", 3, 2, 2])])
    return bytes(made.SerializeToString())


def finder() -> bytes:
    """Finds the left and the right half of every picture: (1, 3, 8, 8) → `scores` (1, 2, 2), `boxes` (1, 2, 4)."""
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["mean"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Mul", ["mean", "nothing"], ["zero"]),
        helper.make_node("Add", ["zero", "sure"], ["scores"]),
        helper.make_node("Add", ["zero", "halves"], ["boxes"]),
    ]
    weights = [
        weight("nothing", 0.0),
        weight("sure", [[[0.1, 0.9], [0.2, 0.8]]]),
        weight("halves", [[[0.0, 0.0, 0.5, 1.0], [0.5, 0.0, 1.0, 1.0]]]),
    ]
    ends = [tensor("x", [1, 3, 8, 8])], [tensor("scores", [1, 2, 2]), tensor("boxes", [1, 2, 4])]
    return bytes(model(nodes, *ends, weights).SerializeToString())


def picky() -> bytes:
    """Doubles its four values; the first is an index too, and above 7 it is none: the runtime raises."""
    nodes = [
        helper.make_node("Gather", ["x", "zero"], ["first"], axis=1),
        helper.make_node("Cast", ["first"], ["index"], to=TensorProto.INT64),
        helper.make_node("Gather", ["table", "index"], ["factor"]),
        helper.make_node("Unsqueeze", ["factor", "axis"], ["column"]),
        helper.make_node("Mul", ["x", "column"], ["y"]),
    ]
    weights = [
        weight("zero", 0, "int64"),
        weight("axis", [1], "int64"),
        weight("table", np.full(8, 2.0)),
    ]
    made = model(nodes, [tensor("x", ["n", 4])], [tensor("y", ["n", 4])], weights)
    return bytes(made.SerializeToString())


def patient() -> bytes:
    """Takes as many turns as its largest value says, one at a time: 1e12 is a month."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["going"], ["going_on"]),
            helper.make_node("Add", ["sum", "one"], ["sum_next"]),
        ],
        "turn",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("going", TensorProto.BOOL, []),
            helper.make_tensor_value_info("sum", TensorProto.FLOAT, ["n", 4]),
        ],
        [
            helper.make_tensor_value_info("going_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("sum_next", TensorProto.FLOAT, ["n", 4]),
        ],
    )
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["most"], keepdims=0),
        helper.make_node("Cast", ["most"], ["turns"], to=TensorProto.INT64),
        helper.make_node("Loop", ["turns", "true", "x"], ["y"], body=body),
    ]
    weights = [weight("true", True, "bool"), weight("one", 1.0)]
    made = model(nodes, [tensor("x", [1, 4])], [tensor("y", [1, 4])], weights)
    return bytes(made.SerializeToString())


def _ones(sources: Path) -> Path:
    path = sources / "ones.json"
    path.write_text("[1, 1, 1, 1]")
    return path


def _line(sources: Path, text: str) -> Path:
    path = sources / f"labels-{len(text)}.txt"
    path.write_text(text + "\n")
    return path
