"""Packing: from a model file to a bundle that answers as the model does."""

from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image

from penstock_models import golden, samples
from penstock_models.bundle import Bundle, open_bundle
from penstock_models.errors import ModelRefused, PenstockError, UsageError
from penstock_models.items import Answer, Item, Tensor
from penstock_models.manifest import Constant, Golden, State
from penstock_models.measure import QUANTILES, batch_sizes, measure
from penstock_models.pack import pack
from penstock_models.runtimes.litert import LiteRtSession
from penstock_models.servable import Servable
from penstock_models.steps.specs import Softmax, Threshold, TopK
from penstock_models.trial import run_files, verify

from . import onnx_files as files
from .onnx_files import write


def colour(tmp_path: Path, name: str, rgb: tuple[int, int, int]) -> Path:
    path = tmp_path / f"{name}.png"
    Image.new("RGB", (20, 10), rgb).save(path)
    return path


@pytest.fixture
def red(tmp_path: Path) -> Path:
    return colour(tmp_path, "red", (255, 0, 0))


@pytest.fixture
def classifier(tmp_path: Path, red: Path) -> Path:
    source = write(tmp_path, files.classifier())
    (tmp_path / "labels.txt").write_text("red\ngreen\nblue\n")
    return pack(source, tmp_path, preset="classification", labels=tmp_path / "labels.txt", golden=[red])


def answer(bundle: Bundle | Path, item: Item) -> Answer:
    servable = Servable.open(bundle if isinstance(bundle, Bundle) else open_bundle(bundle))
    try:
        found = servable.run([item])[0]
    finally:
        servable.close()
    assert isinstance(found, Answer), found
    return found


def test_a_packed_classifier_answers(classifier: Path, tmp_path: Path) -> None:
    blue = colour(tmp_path, "blue", (0, 0, 255))
    found = answer(classifier, samples.item(samples.load(blue)))
    assert found.classes is not None
    assert found.classes[0].label == "blue"
    assert verify(classifier).ok


def test_golden_answers_are_recorded(classifier: Path, red: Path) -> None:
    bundle = open_bundle(classifier)
    (sample,) = bundle.manifest.golden
    assert sample.expected["classes"][0]["label"] == "red"
    assert bundle.read(sample.file) == red.read_bytes()
    assert sample.tolerance == 0.05


def test_progress_is_told_for_each_golden_sample(tmp_path: Path, red: Path) -> None:
    seen: list[tuple[int, int]] = []
    source = write(tmp_path, files.classifier())
    path = pack(
        source,
        tmp_path,
        preset="classification",
        golden=[red, red, red],
        advance=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(1, 3), (2, 3), (3, 3)]
    seen.clear()
    assert verify(path, lambda done, total: seen.append((done, total))).ok
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_packing_twice_gives_equal_bytes(tmp_path: Path, red: Path) -> None:
    source = write(tmp_path, files.classifier())
    paths = [pack(source, tmp_path / name, preset="classification", golden=[red]) for name in ("a", "b")]
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_without_golden_inputs_a_neutral_one_is_stored(tmp_path: Path) -> None:
    source = write(tmp_path, files.classifier())
    (grey,) = open_bundle(pack(source, tmp_path, preset="classification")).manifest.golden
    assert grey.media_type == "image/png"
    zeros = open_bundle(pack(write(tmp_path, files.autoencoder(), "a.onnx"), tmp_path)).manifest.golden
    assert [g.media_type for g in zeros] == ["application/x-tensor; dtype=float32; shape=4"]
    series = open_bundle(pack(write(tmp_path, root(), "r.onnx"), tmp_path)).manifest.golden
    assert [g.media_type for g in series] == ["application/x-tensor; dtype=float32; shape=1"]


def root() -> bytes:
    """The square roots of a series of any length."""
    ends = [files.tensor("x", ["samples"])], [files.tensor("y", ["samples"])]
    return bytes(files.model([helper.make_node("Sqrt", ["x"], ["y"])], *ends).SerializeToString())


def test_a_softmax_is_added_only_to_logits(tmp_path: Path) -> None:
    logits = pack(
        write(tmp_path, files.classifier(softmax=False), "l.onnx"), tmp_path, preset="classification"
    )
    ready = pack(write(tmp_path, files.classifier(), "p.onnx"), tmp_path, preset="classification")
    assert open_bundle(logits).manifest.postprocess == (Softmax(), TopK())
    assert open_bundle(ready).manifest.postprocess == (TopK(),)


def open_classifier(*, softmax: bool) -> bytes:
    """A classifier of pictures of any size from 8×8 on."""
    made = onnx.load_from_string(files.classifier(softmax=softmax))
    for axis in made.graph.input[0].type.tensor_type.shape.dim[2:]:
        axis.dim_param = "side"
    made.graph.node.insert(0, helper.make_node("MaxPool", ["x"], ["small"], kernel_shape=[8, 8]))
    made.graph.node[1].input[0] = "small"
    return bytes(made.SerializeToString())


SIZE = ("resize.width=16", "resize.height=16")


@pytest.mark.parametrize(("softmax", "expected"), [(True, (TopK(),)), (False, (Softmax(), TopK()))])
def test_a_model_of_an_open_size_is_asked_at_the_size_that_is_set(
    tmp_path: Path, softmax: bool, expected: tuple[Any, ...]
) -> None:
    source = write(tmp_path, open_classifier(softmax=softmax))
    made = open_bundle(pack(source, tmp_path, preset="classification", sets=SIZE))
    assert made.manifest.postprocess == expected


def test_a_model_that_refuses_its_size_is_no_guess(tmp_path: Path) -> None:
    source = write(tmp_path, open_classifier(softmax=True))
    with pytest.raises(UsageError, match=r"--set resize\.width"):
        pack(source, tmp_path, preset="classification", sets=("resize.width=4", "resize.height=4"))


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".pkl", ".PT2"])
def test_names_of_code_formats_are_refused_whatever_they_hold(tmp_path: Path, suffix: str) -> None:
    with pytest.raises(ModelRefused, match="carry code"):
        pack(write(tmp_path, files.autoencoder(), f"m{suffix}"), tmp_path)


def test_a_model_without_inputs_is_a_usage_error(tmp_path: Path) -> None:
    node = helper.make_node("Constant", [], ["y"], value=files.weight("v", [1.0]))
    data = files.model([node], [], [files.tensor("y", [1])]).SerializeToString()
    with pytest.raises(UsageError, match="needs an input"):
        pack(write(tmp_path, data), tmp_path)


def test_an_autoencoder_packs(tmp_path: Path) -> None:
    path = pack(
        write(tmp_path, files.autoencoder()), tmp_path, preset="autoencoder", name="vibration", version=4
    )
    assert path.name == "vibration-4.bundle"
    found = answer(path, Item(Tensor(np.full(4, 2.0, np.float32).tobytes())))
    assert found.anomaly is not None
    assert found.anomaly.score == pytest.approx(1.0)


COUNTER = """\
name = "counter"
file = "counter.onnx"
[state]
total_next = "total"
[constants]
factor = 3
"""


def test_states_and_constants_of_a_model_toml(tmp_path: Path) -> None:
    write(tmp_path, files.counter(), "counter.onnx")
    write(tmp_path, COUNTER.encode(), "model.toml")
    bundle = open_bundle(pack(tmp_path / "model.toml", tmp_path))
    assert bundle.manifest.states == (State("total", "total_next", "float32", (1, 1)),)
    assert bundle.manifest.constants == (Constant("factor", "float32", (), (3.0,)),)
    servable = Servable.open(bundle)
    one = Tensor(np.ones(1, np.float32).tobytes())
    sums = [servable.run([Item(one, stream)])[0] for stream in ("a", "a", "b")]
    servable.close()
    values = [
        np.frombuffer(s.outputs["y"].data, np.float32)[0] for s in sums if isinstance(s, Answer) and s.outputs
    ]
    assert values == [3.0, 6.0, 3.0]


def test_written_steps_win_over_the_preset(tmp_path: Path) -> None:
    write(tmp_path, files.autoencoder())
    toml = 'file = "m.onnx"\n[[postprocess]]\nop = "reconstruction_error"\n[[postprocess]]\nop = "threshold"\nvalue = 2\n'
    write(tmp_path, toml.encode(), "model.toml")
    manifest = open_bundle(pack(tmp_path / "model.toml", tmp_path)).manifest
    assert manifest.task == "anomaly"
    assert manifest.postprocess[-1] == Threshold(2.0)


TOML_ERRORS: dict[str, tuple[str, str]] = {
    "state output": ('[state]\nnext = "total"', "no output 'next'; it has y, total_next"),
    "state input": ('[state]\ntotal_next = "h"', "no input 'h'; it has x, total, factor"),
    "constant name": ("[constants]\nsr = 1", "no input 'sr'"),
    "constant size": ("[constants]\nfactor = [1, 2]", "2 values do not fill"),
    "constant text": ("[constants]\nfactor = ['a']", "expected a number"),
    "ragged constant": ("[constants]\nfactor = [[1], [1, 2]]", "expected a number"),
}


@pytest.mark.parametrize(("text", "words"), TOML_ERRORS.values(), ids=TOML_ERRORS)
def test_what_does_not_fit_the_model_is_an_error(tmp_path: Path, text: str, words: str) -> None:
    write(tmp_path, files.counter())
    write(tmp_path, f'file = "m.onnx"\n{text}\n'.encode(), "model.toml")
    with pytest.raises(UsageError, match=rf"model\.toml:3: .*{words}"):
        pack(tmp_path / "model.toml", tmp_path / "out")
    assert not (tmp_path / "out").exists()


BOXES_STEP = '[[postprocess]]\nop = "decode_boxes"\nscores = "s"'
YOLOX_STEP = '[[postprocess]]\nop = "decode_yolox"'
LOCATED: dict[str, tuple[str, str]] = {
    "model": ('file = "none.onnx"', r":1: file: cannot read the model .*none\.onnx"),
    "golden": (
        'file = "m.onnx"\n[golden]\ninputs = ["no.png"]',
        r":3: golden\.inputs\[0\]: cannot read .*no\.png",
    ),
    "golden answer": (
        'file = "m.onnx"\npreset = "classification"\n[golden]\ninputs = ["bad.png"]',
        r":4: golden\.inputs\[0\]: golden .*bad\.png: rejected: decode",
    ),
    "preset": ('file = "m.onnx"\npreset = "rfb"', ":2: preset: preset rfb expects outputs"),
    "label count": (
        'file = "m.onnx"\nlabels = ["a"]\npreset = "classification"',
        r":2: labels: m\.onnx has 3 classes, the labels are 1",
    ),
    "written topk": (
        'file = "m.onnx"\nlabels = ["a"]\n[[postprocess]]\nop = "topk"',
        ":2: labels: .*3 classes",
    ),
    "task alone": ('file = "m.onnx"\nlabels = ["a"]\ntask = "classification"', ":2: labels: .*3 classes"),
    "decoder": (f'file = "m.onnx"\n{BOXES_STEP}', r":2: postprocess\[0\]: m\.onnx: decode_boxes reads"),
    "yolox": (f'file = "m.onnx"\n{YOLOX_STEP}', r":2: postprocess\[0\]: m\.onnx: decode_yolox needs"),
    "steps": (
        'file = "m.onnx"\n[[preprocess]]\nop = "resize"\nwidth = 8\nheight = 8\n[[preprocess]]\nop = "window"\n'
        "size = 2\nstride = 1",
        r"model\.toml:2: preprocess\[0\]: m\.onnx: input 'x' .* cannot take",
    ),
}


@pytest.mark.parametrize(("text", "words"), LOCATED.values(), ids=LOCATED)
def test_an_error_stands_at_its_line(tmp_path: Path, text: str, words: str) -> None:
    write(tmp_path, files.classifier())
    write(tmp_path, b"\x89PNG\r\n\x1a\n", "bad.png")
    write(tmp_path, text.encode(), "model.toml")
    with pytest.raises(UsageError, match=words):
        pack(tmp_path / "model.toml", tmp_path / "out")


DECODED: dict[str, tuple[tuple[Any, ...], str, int]] = {
    "yolox": (([1, 3, 16, 16], [1, 5, 7]), 'op = "decode_yolox"\nstrides = [8, 16]', 2),
    "boxes": (([1, 3, 16, 16], [1, 9, 4]), 'op = "decode_boxes"\nscores = "y"\nboxes = "y"', 3),
    "classes": (([1, 3, 16, 16], [1, 6]), 'op = "topk"', 6),
}


@pytest.mark.parametrize(("shapes", "steps", "classes"), DECODED.values(), ids=DECODED)
def test_written_steps_want_as_many_labels_as_the_output_has(
    tmp_path: Path, shapes: tuple[Any, ...], steps: str, classes: int
) -> None:
    value = helper.make_node("Constant", [], ["v"], value=files.weight("v", np.zeros(shapes[1])))
    shape = helper.make_node("Shape", ["x"], ["unused"])
    ends = [files.tensor("x", shapes[0])], [files.tensor("y", shapes[1])]
    made = files.model([shape, value, helper.make_node("Identity", ["v"], ["y"])], *ends)
    write(tmp_path, made.SerializeToString())
    resize = '[[preprocess]]\nop = "resize"\nwidth = 16\nheight = 16\n[[preprocess]]\nop = "layout"\norder = "nchw"'
    for labels in (classes - 1, classes):
        text = f'file = "m.onnx"\nlabels = {["a"] * labels}\n{resize}\n[[postprocess]]\n{steps}\n'
        write(tmp_path, text.encode(), "model.toml")
        if labels == classes:
            assert pack(tmp_path / "model.toml", tmp_path).exists()
            continue
        with pytest.raises(UsageError, match=f"{classes} classes, the labels are {labels}"):
            pack(tmp_path / "model.toml", tmp_path)


def test_labels_must_be_as_many_as_classes(tmp_path: Path) -> None:
    source = write(tmp_path, files.classifier())
    labels = write(tmp_path, b"one\ntwo\n", "labels.txt")
    with pytest.raises(UsageError, match="3 classes, the labels are 2"):
        pack(source, tmp_path, preset="classification", labels=labels)


def test_a_golden_input_that_gets_no_answer_is_an_error(tmp_path: Path) -> None:
    source = write(tmp_path, files.classifier())
    bad = write(tmp_path, b"\xff\xd8\xff" + bytes(50), "bad.jpg")
    with pytest.raises(UsageError, match=r"bad\.jpg: rejected: decode"):
        pack(source, tmp_path, preset="classification", golden=[bad])


def unknown_operator() -> bytes:
    ends = [files.tensor("x", [1])], [files.tensor("y", [1])]
    return bytes(files.model([helper.make_node("NoSuchOp", ["x"], ["y"])], *ends).SerializeToString())


def wrong_type() -> bytes:
    ends = [files.tensor("x", [1], TensorProto.STRING)], [files.tensor("y", [1], TensorProto.STRING)]
    return bytes(files.model([helper.make_node("Sqrt", ["x"], ["y"])], *ends).SerializeToString())


def strings() -> bytes:
    ends = [files.tensor("x", [1], TensorProto.STRING)], [files.tensor("y", [1], TensorProto.STRING)]
    return bytes(files.model([helper.make_node("Identity", ["x"], ["y"])], *ends).SerializeToString())


@pytest.mark.parametrize("data", [strings(), unknown_operator(), wrong_type()])
def test_what_the_runtime_refuses_is_refused_with_a_reason(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(ModelRefused) as caught:
        pack(write(tmp_path, data), tmp_path)
    assert caught.value.reason
    assert "\n" not in str(caught.value)


def test_broken_models_of_the_kit_do_not_pack(realdata: Path, tmp_path: Path) -> None:
    for path in sorted((realdata / "models" / "broken").iterdir()):
        with pytest.raises(ModelRefused):
            pack(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


PACKS: dict[str, tuple[dict[str, Any], str]] = {
    "mobilenet_v1_0.25_128_quant.tflite": ({"preset": "classification"}, "images/parrot.jpg"),
    "derived/vww_96_int8.qdq.onnx": ({"preset": "classification"}, "images/face.jpg"),
    "light_weight_person_detector_192.onnx": ({"preset": "yolox"}, "images/face.jpg"),
    "version-RFB-320.onnx": ({"preset": "rfb"}, "images/face.jpg"),
    "ad01_int8.tflite": ({"preset": "autoencoder"}, ""),
    "magic_wand.tflite": ({}, ""),
}


@pytest.mark.parametrize("name", PACKS)
def test_models_of_the_kit_pack_with_a_preset_alone(realdata: Path, tmp_path: Path, name: str) -> None:
    options, sample = PACKS[name]
    path = pack(realdata / "models" / name, tmp_path, golden=[realdata / sample] if sample else [], **options)
    verdict = verify(path)
    assert verdict.ok, verdict.problems
    assert verdict.golden == 1


def test_a_wrong_golden_answer_is_found(tmp_path: Path, red: Path) -> None:
    """The same samples, packed with the answers of another model."""
    good = open_bundle(
        pack(write(tmp_path, files.classifier()), tmp_path, preset="classification", golden=[red])
    )
    (sample,) = good.manifest.golden
    other = Golden(sample.file, sample.media_type, {"classes": [{"label": "", "index": 2, "score": 0.99}]})
    found = answer(good, golden.item(sample, good.read(sample.file)))
    assert golden.difference(sample, found) == ""
    assert "class" in golden.difference(other, found)


def test_files_are_one_stream(classifier: Path, red: Path, tmp_path: Path) -> None:
    bad = write(tmp_path, b"\x89PNG\r\n\x1a\n" + bytes(9), "bad.png")
    seen: list[int] = []
    report = run_files(classifier, [red, bad], lambda: seen.append(1))
    assert [type(outcome).__name__ for _, outcome in report.outcomes] == ["Answer", "Refusal"]
    assert not report.ok
    assert len(seen) == 2
    plain = report.plain()["results"]
    assert plain[0]["classes"][0]["label"] == "red"
    assert plain[1]["status"] == "rejected"


@pytest.mark.parametrize(
    ("largest", "sizes"), [(1, [1]), (0, [1, 2, 4, 8, 16, 32]), (5, [1, 2, 4]), (99, [1, 2, 4, 8, 16, 32])]
)
def test_batch_sizes(largest: int, sizes: list[int]) -> None:
    assert batch_sizes(largest) == sizes


def test_bench_measures_each_batch_size(classifier: Path) -> None:
    parts: list[float] = []
    report = measure(classifier, None, 0.01, parts.append)
    with closing(Servable.open(open_bundle(classifier))) as servable:
        assert [row.batch for row in report.rows] == batch_sizes(servable.info.max_batch)
    assert all(0 < row.p50_ms <= row.p95_ms and row.runs >= 3 for row in report.rows)
    assert sum(parts) == pytest.approx(1.0)
    assert report.rss_mb > 10


def test_bench_measures_several_threads_and_pauses(classifier: Path) -> None:
    report = measure(classifier, None, 0.01, lambda part: None, batches=[4, 1], threads=2)
    assert [(row.batch, row.busy, row.idle) for row in report.rows] == [
        (1, 1, False), (4, 1, False), (1, 1, True), (1, 2, False), (4, 2, False),
    ]  # fmt: skip
    for row in report.rows:
        assert list(row.quantiles_ms) == sorted(row.quantiles_ms)
        assert len(row.quantiles_ms) == len(QUANTILES)
        assert row.quantiles_ms[QUANTILES.index(0.5)] == pytest.approx(row.p50_ms, abs=1e-3)


def test_bench_makes_no_interpreter_while_it_measures(
    realdata: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several threads found one interpreter a size once, and the others made theirs anew in every run."""
    path = pack(realdata / "models/ad01_int8.tflite", tmp_path, preset="autoencoder", name="ad01")
    made: list[int] = []
    make = LiteRtSession._interpreter

    def counted(session: LiteRtSession, size: int) -> object:
        made.append(size)
        return make(session, size)

    monkeypatch.setattr(LiteRtSession, "_interpreter", counted)
    measure(path, None, 0.05, lambda part: None, batches=[1, 4], threads=3)
    assert made and max(Counter(made).values()) <= 3


def test_verify_says_what_is_wrong(classifier: Path, tmp_path: Path) -> None:
    classifier.write_bytes(classifier.read_bytes()[:-600])
    verdict = verify(classifier)
    assert not verdict.ok
    assert "truncated" in verdict.problems[0] or "empty blocks" in verdict.problems[0]
    with pytest.raises(PenstockError):
        verify(tmp_path / "none.bundle")
