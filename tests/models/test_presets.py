"""Presets: from a model's tensors to the steps that its family was trained with."""

from pathlib import Path
from typing import Any

import pytest

from penstock_models.errors import UsageError
from penstock_models.manifest import Quantization, TensorSpec
from penstock_models.model_toml import ModelToml, describe, plain_name
from penstock_models.presets import Preset, Recipe, apply_sets, recipe
from penstock_models.steps.specs import (
    Cast,
    Color,
    DecodeBoxes,
    DecodeYolox,
    Dequantize,
    Layout,
    Nms,
    Normalize,
    Quantize,
    ReconstructionError,
    Resize,
    Softmax,
    TopK,
)
from penstock_models.strict_toml import line_of, load, parse_path, parse_value


def spec(name: str, dtype: str, *shape: int | None, q: tuple[float, int] | None = None) -> TensorSpec:
    return TensorSpec(name, dtype, shape, Quantization(*q) if q else None)


def made(preset: Preset, given: TensorSpec, *outputs: TensorSpec, probabilities: bool = True) -> Recipe:
    return recipe(preset, [given], outputs, probabilities=probabilities)


CLASSES = spec("y", "float32", 1, 10)

CLASSIFIERS: dict[str, tuple[TensorSpec, TensorSpec, tuple[Any, ...], tuple[Any, ...]]] = {
    "uint8 takes raw pixels": (
        spec("x", "uint8", 1, 224, 192, 3, q=(0.0078125, 128)),
        spec("y", "uint8", 1, 1001, q=(0.00390625, 0)),
        (Resize(192, 224, filter="antialias"), Color("rgb")),
        (Dequantize(), TopK()),
    ),
    "int8 takes pixel - 128": (
        spec("x", "int8", None, 96, 96, 3),
        spec("y", "int8", None, 2),
        (Resize(96, 96, filter="antialias"), Color("rgb"), Cast("int8", -128)),
        (Dequantize(), TopK()),
    ),
    "float takes 0 to 1": (
        spec("x", "float32", 1, 3, 32, 64),
        CLASSES,
        (Resize(64, 32, filter="antialias"), Color("rgb"), Normalize(1 / 255), Layout("nchw")),
        (TopK(),),
    ),
    "half precision is cast last": (
        spec("x", "float16", 1, 32, 32, 1),
        CLASSES,
        (Resize(32, 32, filter="antialias"), Color("gray"), Normalize(1 / 255), Cast("float16")),
        (TopK(),),
    ),
}


@pytest.mark.parametrize(("given", "output", "pre", "post"), CLASSIFIERS.values(), ids=CLASSIFIERS)
def test_classification(
    given: TensorSpec, output: TensorSpec, pre: tuple[Any, ...], post: tuple[Any, ...]
) -> None:
    found = made("classification", given, output)
    assert found == Recipe("classification", pre, post, output.shape[-1])


def test_logits_get_a_softmax() -> None:
    found = made("classification", spec("x", "uint8", 1, 8, 8, 3), CLASSES, probabilities=False)
    assert found.postprocess == (Softmax(), TopK())


def test_yolox() -> None:
    found = made("yolox", spec("images", "float32", 1, 3, 416, 416), spec("output", "float32", 1, 3549, 85))
    assert found.task == "detection"
    assert found.classes == 80
    assert found.preprocess == (
        Resize(416, 416, "letterbox", "linear", 114, "top_left"),
        Color("bgr"),
        Cast("float32"),
        Layout("nchw"),
    )
    assert found.postprocess == (DecodeYolox(0.3, (8, 16, 32)), Nms(0.45))


def test_rfb_finds_its_outputs_by_shape() -> None:
    outputs = spec("b", "float32", 1, 4420, 4), spec("s", "float32", 1, 4420, 2)
    found = made("rfb", spec("input", "float32", 1, 3, 240, 320), *outputs)
    assert found.preprocess == (
        Resize(320, 240),
        Color("rgb"),
        Normalize(mean=(127.0,), std=(128.0,)),
        Layout("nchw"),
    )
    assert found.postprocess == (DecodeBoxes("s", "b", 0.7), Nms(0.3))
    assert found.classes == 1


def test_autoencoder_quantizes_where_the_model_does() -> None:
    found = made(
        "autoencoder", spec("x", "int8", 1, 640, q=(0.4, 89)), spec("y", "int8", 1, 640, q=(0.4, 96))
    )
    assert found == Recipe("anomaly", (Quantize(),), (Dequantize(), ReconstructionError()))
    plain = made("autoencoder", spec("x", "float32", 1, 4), spec("y", "float32", 1, 4))
    assert plain == Recipe("anomaly", (), (ReconstructionError(),))


def test_raw_adds_nothing() -> None:
    inputs = [spec("a", "int64"), spec("b", "float32", None, None)]
    assert recipe("raw", inputs, [CLASSES], probabilities=False) == Recipe("raw")


MISFITS: dict[str, tuple[Preset, TensorSpec, tuple[TensorSpec, ...], str]] = {
    "no picture": ("classification", spec("x", "float32", 1, 640), (CLASSES,), r"x \[1, 640\] is no picture"),
    "four channels": ("classification", spec("x", "float32", 1, 4, 9, 9), (CLASSES,), "no picture"),
    "boxes": (
        "classification",
        spec("x", "uint8", 1, 64, 64, 3),
        (spec("y", "float32", 1, 84, 85),),
        r"\[1, classes\]",
    ),
    "yolox output": ("yolox", spec("x", "float32", 1, 3, 64, 64), (CLASSES,), "strides"),
    "yolox boxes": (
        "yolox",
        spec("x", "float32", 1, 3, 64, 64),
        (spec("y", "float32", 1, 9, 85),),
        "84 boxes",
    ),
    "yolox narrow": (
        "yolox",
        spec("x", "float32", 1, 3, 64, 64),
        (spec("y", "float32", 1, 84, 5),),
        "classes",
    ),
    "rfb outputs": ("rfb", spec("x", "float32", 1, 3, 64, 64), (CLASSES,), r"\[1, n, 4\]"),
    "yolox scalar": ("yolox", spec("x", "float32", 1, 3, 64, 64), (spec("y", "float32"),), "classes"),
    "rfb scalar": ("rfb", spec("x", "float32", 1, 3, 64, 64), (spec("y", "float32"),), "expects outputs"),
    "no output": ("classification", spec("x", "float32", 1, 3, 64, 64), (), "has none"),
    "autoencoder": ("autoencoder", spec("x", "float32", 1, 9), (CLASSES,), "input's shape"),
}


@pytest.mark.parametrize(("preset", "given", "outputs", "words"), MISFITS.values(), ids=MISFITS)
def test_a_model_that_does_not_fit_is_an_error(
    preset: Preset, given: TensorSpec, outputs: tuple[TensorSpec, ...], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        made(preset, given, *outputs)


def test_several_inputs_are_for_raw() -> None:
    with pytest.raises(UsageError, match="one input, this one has a, b"):
        recipe("yolox", [spec("a", "int8"), spec("b", "int8")], [CLASSES], probabilities=False)


YOLOX = made("yolox", spec("x", "float32", 1, 3, 64, 64), spec("y", "float32", 1, 84, 7))


def test_sets_change_the_values_of_steps() -> None:
    changed = apply_sets(
        YOLOX, ["nms.iou=0.65", "decode_yolox.score = 0.01", "resize.filter=area", "resize.pad=0"]
    )
    assert changed.postprocess == (DecodeYolox(0.01), Nms(0.65))
    assert changed.preprocess[0] == Resize(64, 64, "letterbox", "area", 0)


def test_sets_take_lists() -> None:
    plain = made("classification", spec("x", "float32", 1, 8, 8, 3), CLASSES)
    changed = apply_sets(plain, ["normalize.mean=[0.5, 0.4, 0.3]", "topk.k=3"])
    assert changed.preprocess[2] == Normalize(1 / 255, (0.5, 0.4, 0.3))
    assert changed.postprocess == (TopK(3),)


def test_an_open_size_is_asked_for() -> None:
    plain = made("classification", spec("x", "float32", 1, None, None, 3), CLASSES)
    with pytest.raises(UsageError, match=r"resize\.width = 0.*--set"):
        apply_sets(plain, [])
    sized = apply_sets(plain, ["resize.width=64", "resize.height=32"])
    assert sized.preprocess[0] == Resize(64, 32, filter="antialias")


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("nms.iou", "STEP.VALUE"),
        ("iou=0.5", "STEP.VALUE"),
        ("softmax.k=1", "no step 'softmax'; this model has cast, color, decode_yolox"),
        ("nms.overlap=0.5", "overlap.*nms has iou, across_classes"),
        ("nms.iou=high", "number|float"),
        ("nms.iou=7", r"nms\.iou = 7"),
        ("resize.filter=cubic", "cubic"),
    ],
)
def test_a_set_that_means_nothing_is_an_error(entry: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        apply_sets(YOLOX, [entry])


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "model.toml"
    path.write_text(text)
    return path


TEN_LINES = """\
name = "person"
version = 3
file = "person.onnx"
preset = "yolox"
labels = "labels.txt"

[golden]
inputs = ["street.jpg"]
[budget]
p95_ms = 40
"""


def test_ten_lines_describe_a_model(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("person\nrider\n\n")
    found = describe(written(tmp_path, TEN_LINES))
    assert (found.name, found.version, found.labels) == ("person", 3, ("person", "rider"))
    assert found.model == tmp_path / "person.onnx"
    assert found.golden == (tmp_path / "street.jpg",)
    assert found.toml.budget.p95_ms == 40


def test_a_byte_order_mark_is_no_part_of_the_first_label(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_bytes(b"\xef\xbb\xbfperson\r\nrider\r\n")
    assert describe(written(tmp_path, TEN_LINES)).labels == ("person", "rider")


def test_the_caller_wins_over_the_file(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("a\n")
    path = written(tmp_path, TEN_LINES)
    found = describe(
        path, preset="raw", name="other", version=9, labels=tmp_path / "mine.txt", golden=(Path("x.jpg"),)
    )
    assert (found.name, found.version, found.labels, found.toml.preset) == ("other", 9, ("a",), "raw")
    assert found.golden == (Path("x.jpg"),)


def test_a_model_file_describes_itself(tmp_path: Path) -> None:
    found = describe(tmp_path / "Version-RFB 320.onnx")
    assert (found.name, found.version, found.toml.preset) == ("version-rfb_320", 1, "raw")
    assert plain_name("...") == "model"


TOML_ERRORS: dict[str, tuple[str, str]] = {
    "top": ('file = "m.onnx"\nnmae = "x"', r"model\.toml:2: nmae: unknown key"),
    "in a step": (
        'file = "m.onnx"\n[[preprocess]]\nop = "color"\n\n[[preprocess]]\nop = "resize"\nwidth = 1\nheight = 1\nside = 3',
        r"model\.toml:9: preprocess\[1\]\.side: unknown key",
    ),
    "step name": (
        'file = "m.onnx"\n[[preprocess]]\nop = "reszie"',
        r"model\.toml:3: preprocess\[0\]\.op: .*reszie",
    ),
    "in golden": ('file = "m.onnx"\n[golden]\nfiles = []', r"model\.toml:3: golden\.files: unknown key"),
    "in budget": ('file = "m.onnx"\n[budget]\np99_ms = 1', r"model\.toml:3: budget\.p99_ms: unknown key"),
    "type": ('file = "m.onnx"\nversion = "2"', r"model\.toml:2: version: .*int"),
    "missing": ('name = "x"', r"model\.toml:1: .*file"),
    "preset": ('file = "m.onnx"\npreset = "yolo"', r"model\.toml:2: preset: .*yolo"),
    "syntax": ('file = "m.onnx\n', r"not TOML.*line 1"),
    "name": ('file = "m.onnx"\nname = "A"', r"model\.toml:2: name: name 'A': expected"),
    "version": ('file = "m.onnx"\nversion = 0', r"model\.toml:2: version: version 0: expected"),
    "labels": ('file = "m.onnx"\nlabels = "none.txt"', r"model\.toml:2: labels: cannot read labels"),
    "range of a step": (
        'file = "m.onnx"\n[[preprocess]]\nop = "window"\nstride = 1\nsize = 0',
        r"model\.toml:5: preprocess\[0\]\.size: window\.size = 0: expected 1 to [^;]+$",
    ),
    "rule of a step": (
        'file = "m.onnx"\n[[preprocess]]\nop = "resize"\nwidth = 9999\nheight = 9999',
        r"model\.toml:2: preprocess\[0\]: resize to 9999×9999",
    ),
    "tolerance": (
        'file = "m.onnx"\n[golden]\ntolerance = -1',
        r"model\.toml:3: golden\.tolerance: expected a finite number ≥ 0, got -1",
    ),
    "tolerance nan": ('file = "m.onnx"\n[golden]\ntolerance = nan', r"model\.toml:3: .*got nan"),
    "many golden": (
        f'file = "m.onnx"\n[golden]\ninputs = {["x.jpg"] * 65}',
        r"model\.toml:3: golden\.inputs: 65 golden samples, at most 64",
    ),
}


@pytest.mark.parametrize(("text", "words"), TOML_ERRORS.values(), ids=TOML_ERRORS)
def test_an_error_names_file_line_and_key(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        describe(written(tmp_path, text))


def test_an_error_of_the_caller_s_value_names_no_line(tmp_path: Path) -> None:
    path = written(tmp_path, 'file = "m.onnx"\nname = "a"')
    with pytest.raises(UsageError, match=r"model\.toml: name 'B'"):
        describe(path, name="B")
    with pytest.raises(UsageError, match=r"^cannot read labels .*none\.txt"):
        describe(path, labels=tmp_path / "none.txt")


def test_unreadable_files_are_usage_errors(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read"):
        load(tmp_path / "none.toml", ModelToml)
    (tmp_path / "latin.toml").write_bytes(b'file = "\xff"')
    with pytest.raises(UsageError, match="UTF-8"):
        load(tmp_path / "latin.toml", ModelToml)


def test_an_unknown_preset_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no preset 'yolo'; there are classification, yolox"):
        describe(tmp_path / "m.onnx", preset="yolo")


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (".a", 1),
        (".t.x", 4),
        (".t.missing", 3),
        (".r[0].k", 6),
        (".r[1].k", 8),
        (".r[1].s.z", 10),
        (".d.e.f", 2),
        (".nowhere", 1),
    ],
)
def test_finds_lines(path: str, line: int) -> None:
    text = 'a = 1\nd.e.f = 2\n[t]\n"x" = 3\n[[r]]\nk = 1\n[[r]]\nk = 2\n[r.s]\nz = 1\n'
    assert line_of(text, parse_path(path)) == line


@pytest.mark.parametrize(
    ("text", "value"), [("0.5", 0.5), ("[1, 2]", [1, 2]), ("true", True), ("area", "area"), ('"7"', "7")]
)
def test_values_are_toml_or_words(text: str, value: Any) -> None:
    assert parse_value(text) == value
