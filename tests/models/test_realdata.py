"""Every model of the real-data kit packs, and reproduces its entry in expected.json through the public API.

One table: a row says how a model is packed, what it is given, and which rule compares its answers with the kit's.
Tolerances are those that the kit states under `about`.
"""

import json
import wave
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from penstock_models.bundle import open_bundle
from penstock_models.errors import ModelRefused
from penstock_models.items import Answer, EncodedImage, Item, Tensor
from penstock_models.pack import pack
from penstock_models.servable import Servable
from tests.models.coco_ap import average_precision

INT8_STEPS = 8
CIFAR_STEPS = 21  # "up to 21 steps between runtimes"
PROBABILITY = 0.06
SCORE, MIN_IOU, SURE = 0.1, 0.7, 0.5
FLOAT = 1e-3


class Kit:
    """The kit's folder, and what is expected of its models."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.expected: dict[str, Any] = json.loads((folder / "expected.json").read_text())

    def picture(self, name: str) -> Item:
        return Item(EncodedImage((self.folder / name).read_bytes()))

    def labels(self, name: str) -> list[str]:
        return (self.folder / "labels" / name).read_text().splitlines()


@pytest.fixture(scope="module")
def kit(realdata: Path) -> Kit:
    return Kit(realdata)


Check = Callable[[Kit, dict[str, Any], Servable], None]


class Case(NamedTuple):
    """`model` is the key in expected.json. It is packed with `preset`, or with a model.toml whose body is `toml`."""

    model: str
    check: Check
    preset: str = ""
    labels: str = ""
    sets: tuple[str, ...] = ()
    toml: str = ""


def opened(kit: Kit, case: Case, folder: Path) -> Servable:
    source = kit.folder / "models" / case.model
    labels = kit.folder / "labels" / case.labels if case.labels else None
    if case.toml:
        (folder / "model.toml").write_text(f'file = "{source}"\n{case.toml}')
        source = folder / "model.toml"
    bundle = pack(source, folder, preset=case.preset or None, name="m", labels=labels, sets=case.sets)
    return Servable.open(open_bundle(bundle))


def answered(servable: Servable, item: Item) -> Answer:
    (outcome,) = servable.run([item])
    assert isinstance(outcome, Answer), outcome
    return outcome


def scores(answer: Answer) -> dict[int, float]:
    assert answer.classes is not None
    return {c.index: c.score for c in answer.classes}


def steps(answer: Answer) -> list[int]:
    """The int8 output behind probabilities of scale 1/256 and zero point −128."""
    by_index = scores(answer)
    return [round(by_index[i] * 256) - 128 for i in range(len(by_index))]


# --- rules ---------------------------------------------------------------------------------------------------------


def check_top3(kit: Kit, expected: dict[str, Any], servable: Servable) -> None:
    for name, best in expected["top3"].items():
        found = scores(answered(servable, kit.picture(name)))
        floor = min(found.values())
        for index, _, probability in best:
            assert found.get(index, floor) == pytest.approx(probability, abs=PROBABILITY), name
        if best[0][2] - best[1][2] > PROBABILITY:
            assert next(iter(found)) == best[0][0], name


def check_pictures_int8(kit: Kit, expected: dict[str, Any], servable: Servable) -> None:
    for name, output in expected["output_int8"].items():
        assert steps(answered(servable, kit.picture(name))) == pytest.approx(output, abs=INT8_STEPS), name


def check_pictures_argmax(kit: Kit, expected: dict[str, Any], servable: Servable) -> None:
    for name, output in expected["output_int8"].items():
        assert int(np.argmax(steps(answered(servable, kit.picture(name))))) == int(np.argmax(output)), name


def check_person_probability(kit: Kit, expected: dict[str, Any], servable: Servable) -> None:
    names = expected["person_probability"]
    outcomes = servable.run([kit.picture(name) for name in names])  # one batch: pictures of many sizes
    for (name, probability), outcome in zip(names.items(), outcomes, strict=True):
        assert isinstance(outcome, Answer)
        assert scores(outcome)[1] == pytest.approx(probability, abs=FLOAT), name


def mfcc(kit: Kit, name: str) -> Item:
    return Item(Tensor((kit.folder / name).read_bytes()))


def check_kws(kit: Kit, expected: dict[str, Any], servable: Servable) -> None:
    names = expected["output_int8"]
    outcomes = servable.run([mfcc(kit, name) for name in names])
    for (name, output), outcome in zip(names.items(), outcomes, strict=True):
        assert isinstance(outcome, Answer)
        assert steps(outcome) == pytest.approx(output, abs=INT8_STEPS), name


def check_magic_wand(kit: Kit, expected: dict[str, Any], servable: Servable) -> None:
    for name, output in expected["output"].items():
        rows = np.loadtxt(kit.folder / name, delimiter=",", skiprows=1, dtype=np.float32)
        found = scores(answered(servable, Item(Tensor(rows.tobytes(), "f32", rows.shape))))
        assert [found[i] for i in range(4)] == pytest.approx(output, abs=FLOAT), name


def check_reconstruction(kit: Kit, expected: dict[str, Any], servable: Servable) -> None:
    for name, errors in expected["reconstruction_mse"].items():
        clip = np.fromfile(kit.folder / name, "<f4").reshape(-1, 128)
        whole = answered(servable, Item(Tensor(clip.tobytes(), "f32", clip.shape)))
        windows = [clip[i : i + 5].tobytes() for i in range(len(clip) - 4)]
        single = servable.run([Item(Tensor(window, "f32", (640,))) for window in windows])
        each = [
            outcome.anomaly.score for outcome in single if isinstance(outcome, Answer) and outcome.anomaly
        ]
        assert whole.anomaly is not None and len(each) == errors["windows"]
        assert whole.anomaly.score == pytest.approx(errors["mean"], rel=FLOAT), name
        assert each[0] == pytest.approx(errors["first"], rel=FLOAT), name
        assert max(each) == pytest.approx(errors["max"], rel=FLOAT), name


def check_detections(kit: Kit, expected: dict[str, Any], servable: Servable) -> None:
    for name, boxes in expected["detections_score_ge_0_3"].items():
        answer = answered(servable, kit.picture(name))
        assert_same_boxes(name, placed(answer), [(label, score, box) for label, score, box in boxes])
    for name, best in expected.get("frames_max_person_score", {}).items():
        found = [
            d.score for d in answered(servable, kit.picture(name)).detections or () if d.label == "person"
        ]
        if best >= 0.3 + SCORE or found:
            assert max(found, default=0.0) == pytest.approx(best, abs=SCORE), name


def check_faces(kit: Kit, expected: dict[str, Any], servable: Servable) -> None:
    for name, faces in expected["faces_score_gt_0_7"].items():
        answer = answered(servable, kit.picture(name))
        assert_same_boxes(name, placed(answer), [("face", score, box) for score, box in faces])


Box = tuple[str, float, list[float]]


def placed(answer: Answer) -> list[Box]:
    """Detections in pixels of the upright picture."""
    size = (answer.width, answer.height) * 2
    return [
        (d.label, d.score, [v * s for v, s in zip(d.box, size, strict=True)]) for d in answer.detections or ()
    ]


def assert_same_boxes(name: str, found: list[Box], expected: list[Box]) -> None:
    """Every sure box of either side has a partner on the other."""
    for one, other in ((found, expected), (expected, found)):
        for label, score, box in one:
            if score >= SURE + SCORE or (one is expected and score >= SURE):
                partner = any(
                    label == to and abs(score - of) <= SCORE and overlap(box, at) > MIN_IOU
                    for to, of, at in other
                )
                assert partner, f"{name}: {label} {score:.2f} {box} has no partner in {other}"


def overlap(a: list[float], b: list[float]) -> float:
    both = max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    areas = [(c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)]
    return both / (sum(areas) - both)


def check_ap(kit: Kit, expected: dict[str, Any], servable: Servable) -> None:
    truth = json.loads((kit.folder / "images/coco_ccby/instances.json").read_text())
    names = {
        category["id"]: label
        for category, label in zip(
            sorted(truth["categories"], key=lambda c: c["id"]), kit.labels("coco80_classes.txt"), strict=True
        )
    }
    found: dict[int, list[tuple[str, float, list[float]]]] = {}
    for picture in truth["images"]:
        found[picture["id"]] = placed(
            answered(servable, kit.picture(f"images/coco_ccby/{picture['file_name']}"))
        )
    ap, ap50 = average_precision(truth["annotations"], names, found)
    assert ap == pytest.approx(expected["AP"], abs=0.02)
    assert ap50 == pytest.approx(expected["AP50"], abs=0.02)


def pcm(path: Path) -> np.ndarray[Any, Any]:
    with wave.open(str(path)) as sound:
        values = np.frombuffer(sound.readframes(sound.getnframes()), "<i2")
        return values.reshape(-1, sound.getnchannels())[:, 0].copy()


def check_silero(kit: Kit, expected: dict[str, Any], servable: Servable) -> None:
    """All the clips at once: each is a stream, so every batch holds one step of each."""
    clips = {name: pcm(kit.folder / name) for name in expected["speech_probability_per_512_samples"]}
    found: dict[str, list[float]] = {name: [] for name in clips}
    for step in range(31):
        part = slice(step * 512, step * 512 + 512)
        items = [Item(Tensor(clip[part].tobytes(), "i16"), name) for name, clip in clips.items()]
        for name, outcome in zip(clips, servable.run(items), strict=True):
            assert isinstance(outcome, Answer) and outcome.outputs, outcome
            found[name].append(float(np.frombuffer(outcome.outputs["output"].data, "<f4")[0]))
    for name, probabilities in expected["speech_probability_per_512_samples"].items():
        assert found[name] == pytest.approx(probabilities, abs=FLOAT), name


def check_brightened(kit: Kit, expected: dict[str, Any], servable: Servable) -> None:
    for name, stats in expected["stats"].items():
        tensor = next(iter((answered(servable, kit.picture(name)).outputs or {}).values()))
        values = np.frombuffer(tensor.data, "<f4")
        assert tensor.shape == (480, 640, 3)
        assert values.mean() == pytest.approx(stats["output_mean"], abs=FLOAT), name
        assert values.min() == pytest.approx(stats["output_min"], abs=0.02), name
        assert values.max() == pytest.approx(stats["output_max"], abs=0.02), name


def check_constant_output(kit: Kit, expected: dict[str, Any], servable: Servable) -> None:
    model = servable.info.labels[0]  # the label carries the kit's file name
    reference = onnx.TensorProto()
    reference.ParseFromString((kit.folder / "models" / f"{model}_output_0.pb").read_bytes())
    noise = np.random.default_rng(0).random((3, 224, 224), np.float32)
    tensor = next(
        iter((answered(servable, Item(Tensor(noise.tobytes(), "f32", noise.shape))).outputs or {}).values())
    )
    difference = np.frombuffer(tensor.data, "<f4") - numpy_helper.to_array(reference).reshape(-1)
    assert float(np.abs(difference).max()) == expected["max_abs_diff_to_reference"] == 0.0
    assert np.unique(np.frombuffer(tensor.data, "<f4")).tolist() == [
        np.float32(expected["every_output_value"])
    ]


def derived_from(
    source: Case, items: Callable[[Kit, dict[str, Any]], list[Item]], within: int = INT8_STEPS
) -> Check:
    """The QDQ twin answers as the TFLite file does, and a batch as its items do.

    The kit's `max_lsb_diff` is that of one processor: without VNNI instructions the int8 kernels round otherwise.
    """

    def check(kit: Kit, expected: dict[str, Any], servable: Servable) -> None:
        given = items(kit, kit.expected[source.model])
        outcomes = servable.run(given)
        assert len(outcomes) == expected["vs_tflite"]["cases"]
        twins = kit.expected[source.model]["output_int8"].values()
        for outcome, output in zip(outcomes, twins, strict=True):
            assert isinstance(outcome, Answer)
            found = steps(outcome)
            assert np.argmax(found) == np.argmax(output)
            assert found == pytest.approx(output, abs=within)
        eight = (given * 8)[:8]
        alone = [answered(servable, item) for item in eight]
        assert expected["batch8_shape"] == [8, len(steps(alone[0]))] and expected["batch_equals_single"]
        assert [_classes(o) for o in servable.run(eight)] == [_classes(o) for o in alone]

    return check


def _classes(outcome: Any) -> Any:
    return outcome.classes if isinstance(outcome, Answer) else outcome


def pictures_of(kit: Kit, expected: dict[str, Any]) -> list[Item]:
    return [kit.picture(name) for name in expected["output_int8"]]


def mfccs_of(kit: Kit, expected: dict[str, Any]) -> list[Item]:
    return [mfcc(kit, name) for name in expected["output_int8"]]


# --- the table -----------------------------------------------------------------------------------------------------

KWS = 'task = "classification"\npostprocess = [{op = "dequantize"}, {op = "topk", k = 12}]\n'
COCO = "coco80_classes.txt"
VWW = Case("vww_96_int8.tflite", check_pictures_int8, "classification")
CIFAR = Case(
    "pretrainedResnet_quant.tflite", check_pictures_argmax, "classification", "cifar10.txt", ("topk.k=10",)
)
WORDS = Case("kws_ref_model.tflite", check_kws, labels="kws12.txt", toml=KWS)
FINE = ("decode_yolox.score=0.01", "nms.iou=0.65")
TBEFN = """
preprocess = [
    {op = "resize", width = 640, height = 480},
    {op = "color", order = "rgb"},
    {op = "normalize", scale = 0.00392156862745098},
    {op = "layout", order = "nchw"},
]
"""
SILERO = """
preprocess = [{op = "normalize", scale = 0.000030517578125}, {op = "context", samples = 64}]
constants = {sr = 16000}
state = {stateN = "state"}
"""
AD01 = """
task = "anomaly"
preprocess = [{op = "window", size = 5, stride = 1}, {op = "reshape", shape = [640]}, {op = "quantize"}]
postprocess = [{op = "dequantize"}, {op = "reconstruction_error"}]
"""
MAGIC_WAND = """
task = "classification"
labels = ["wing", "ring", "slope", "negative"]
preprocess = [{op = "reshape", shape = [128, 3, 1]}]
postprocess = [{op = "topk"}]
"""

CASES = [
    Case("mobilenet_v1_0.25_128_quant.tflite", check_top3, "classification", "imagenet_labels.txt"),
    Case("mobilenet_v2_1.0_224_quant.tflite", check_top3, "classification", "imagenet_labels.txt"),
    VWW,
    Case("vww_96_float.tflite", check_person_probability, "classification"),
    CIFAR,
    WORDS,
    Case("magic_wand.tflite", check_magic_wand, toml=MAGIC_WAND),
    Case("ad01_int8.tflite", check_reconstruction, toml=AD01),
    Case("yolox_nano.onnx", check_detections, "yolox", COCO),
    Case("yolox_nano_dynamic_range_quantize.tflite", check_detections, "yolox", COCO),
    Case(
        "light_weight_person_detector_192.onnx",
        check_detections,
        toml='preset = "yolox"\nlabels = ["person"]',
    ),
    Case("version-RFB-320.onnx", check_faces, toml='preset = "rfb"\nlabels = ["face"]'),
    Case("version-RFB-640.onnx", check_faces, toml='preset = "rfb"\nlabels = ["face"]'),
    Case("silero_vad.onnx", check_silero, toml=SILERO),
    Case("tbefn_480x640.onnx", check_brightened, toml=TBEFN),
    Case("light_resnet50.onnx", check_constant_output, toml='labels = ["light_resnet50"]'),
    Case("light_vgg19.onnx", check_constant_output, toml='labels = ["light_vgg19"]'),
    Case("derived/vww_96_int8.qdq.onnx", derived_from(VWW, pictures_of), "classification"),
    Case(
        "derived/pretrainedResnet_quant.qdq.onnx",
        derived_from(CIFAR, pictures_of, CIFAR_STEPS),
        "classification",
        sets=("topk.k=10",),
    ),
    Case("derived/kws_ref_model.qdq.onnx", derived_from(WORDS, mfccs_of), toml=KWS),
]
AP_CASES = [
    Case("yolox_nano.onnx", check_ap, "yolox", COCO, FINE),
    Case("yolox_nano_dynamic_range_quantize.tflite", check_ap, "yolox", COCO, FINE),
]
BROKEN = {
    "person_detect.tflite": "bad_quantization",
    "audio_preprocessor_int8.tflite": "custom_op",
    "model_invoking_error.tflite": "custom_op",
    "lfs_pointer.tflite": "not_a_model",
}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.model)
def test_model_reproduces_its_entry(kit: Kit, case: Case, tmp_path: Path) -> None:
    servable = opened(kit, case, tmp_path)
    try:
        assert servable.golden() == []
        case.check(kit, kit.expected[case.model], servable)
    finally:
        servable.close()


@pytest.mark.parametrize("case", AP_CASES, ids=lambda case: case.model)
def test_detector_reaches_its_coco_ap(kit: Kit, case: Case, tmp_path: Path) -> None:
    servable = opened(kit, case, tmp_path)
    try:
        case.check(kit, kit.expected["coco_ccby_ap"][case.model], servable)
    finally:
        servable.close()


@pytest.mark.parametrize("name", BROKEN)
def test_broken_model_is_refused_by_name(kit: Kit, name: str, tmp_path: Path) -> None:
    with pytest.raises(ModelRefused) as refused:
        pack(kit.folder / "models" / "broken" / name, tmp_path)
    assert refused.value.reason == BROKEN[name]
    assert "\n" not in str(refused.value)


def test_table_has_every_model_of_the_kit(kit: Kit) -> None:
    files = {
        path.relative_to(kit.folder / "models").as_posix() for path in _model_files(kit.folder / "models")
    }
    assert files == {case.model for case in CASES} | {f"broken/{name}" for name in BROKEN}
    assert set(kit.expected) - {"about", "coco_ccby_ap"} == {case.model for case in CASES}


def _model_files(folder: Path) -> Iterator[Path]:
    yield from (path for path in folder.rglob("*") if path.suffix in (".onnx", ".tflite"))
