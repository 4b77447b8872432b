"""A servable: batches in, outcomes out; a bad item is alone with its fate."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper
from PIL import Image

from penstock_models.bundle import memory_bundle
from penstock_models.errors import BundleError, PlacementError
from penstock_models.items import Answer, EncodedImage, Item, JsonValues, Named, SenML, Tensor
from penstock_models.manifest import Constant, Golden, State, Variant
from penstock_models.servable import TIMED_OUT, Servable
from penstock_models.steps import specs
from tests.models.loaded import (
    bundle,
    fate,
    fates,
    floats,
    integers,
    looper,
    output,
    picker,
    scaler,
    servable,
    summer,
)
from tests.models.onnx_files import autoencoder, classifier, model, tensor, weight
from tests.models.pictures import encoded, photo

PICTURE = (specs.Resize(8, 8), specs.Normalize(1 / 255), specs.Layout("nchw"))


@pytest.fixture(scope="module")
def colour() -> Servable:
    return servable(classifier(), "classification", preprocess=PICTURE, labels=("red", "green", "blue"))


def plain_picture(rgb: tuple[int, int, int]) -> Item:
    return Item(EncodedImage(encoded(Image.new("RGB", (20, 10), rgb), "PNG")))


RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def first(outcome: Any) -> str:
    assert isinstance(outcome, Answer) and outcome.classes
    return outcome.classes[0].label


# --- batches -------------------------------------------------------------------------------------------------------


def test_pictures_are_classified_with_their_size(colour: Servable) -> None:
    outcomes = colour.run([plain_picture(c) for c in (RED, GREEN, BLUE)])
    assert [first(outcome) for outcome in outcomes] == ["red", "green", "blue"]
    assert isinstance(outcomes[0], Answer) and (outcomes[0].width, outcomes[0].height) == (20, 10)
    assert outcomes[0].decode_ms > 0 and outcomes[0].infer_ms > 0


BAD_PICTURES = [
    (Item(EncodedImage(b"")), "rejected: empty"),
    (Item(EncodedImage(b"no picture")), "rejected: decode"),
    (Item(EncodedImage(encoded(photo(64, 64))[:-80])), "rejected: decode"),
    (Item(Tensor(bytes(10), "u8", (2, 5))), "ok"),
    (Item(Tensor(bytes(30), "u8", (2, 5, 3))), "ok"),
    (Item(Tensor(bytes(20), "u8", (2, 5, 2))), "rejected: shape"),
    (Item(Tensor(bytes(40), "f32", (2, 5, 1))), "rejected: dtype"),
    (Item(Tensor(np.full((3, 8, 8), np.nan, "<f4").tobytes(), "f32", (3, 8, 8))), "rejected: not_finite"),
    (Item(SenML(b"[]")), "rejected: content_type"),
    (Item(JsonValues(b"[1, 2]")), "rejected: shape"),
    (Item(Named({"z": Tensor(b"")})), "rejected: schema"),
]


@pytest.mark.parametrize(("bad", "expected"), BAD_PICTURES)
def test_bad_item_never_fails_its_batch(colour: Servable, bad: Item, expected: str) -> None:
    outcomes = colour.run([plain_picture(RED), bad, plain_picture(BLUE)])
    assert fate(outcomes[1]) == expected
    assert [first(outcomes[0]), first(outcomes[2])] == ["red", "blue"]


def test_pixel_limit_is_the_servables() -> None:
    made = bundle(classifier(), "classification", preprocess=PICTURE)
    assert fate(Servable.open(made, max_pixels=199).run([plain_picture(RED)])[0]) == "rejected: pixels"


def test_raw_pixels_are_rgb(colour: Servable) -> None:
    pixels = np.zeros((10, 20, 3), np.uint8)
    pixels[..., 2] = 255
    assert first(colour.run([Item(Tensor(pixels.tobytes(), "u8", pixels.shape))])[0]) == "blue"


def test_input_tensor_of_a_picture_model_is_taken_as_it_is(colour: Servable) -> None:
    ready = np.zeros((3, 8, 8), np.float32)
    ready[1] = 1
    for shape in ((), (3, 8, 8), (1, 3, 8, 8)):
        assert first(colour.run([Item(Tensor(ready.tobytes(), "f32", shape))])[0]) == "green"


@given(st.lists(st.integers(-5, 8), min_size=1, max_size=20))
def test_only_the_guilty_rows_of_a_batch_fail(picks: list[int]) -> None:
    outcomes = PICKER.run([integers(pick) for pick in picks])
    for pick, outcome in zip(picks, outcomes, strict=True):
        inside = -4 <= pick <= 3  # a Gather counts negative indices from the end
        assert fate(outcome) == ("ok" if inside else "failed: model_error")
        if inside:
            assert output(outcome) == [pick % 4 * 10]


PICKER = servable(picker())


def test_nan_answer_is_a_failure_of_its_item_only() -> None:
    root = model([helper.make_node("Sqrt", ["x"], ["y"])], [tensor("x", ["n", 1])], [tensor("y", ["n", 1])])
    outcomes = servable(root.SerializeToString()).run([floats(4), floats(-1), floats(9)])
    assert fates(outcomes) == ["ok", "failed: model_output", "ok"]
    assert [output(outcomes[0]), output(outcomes[2])] == [[2], [3]]


def test_output_of_another_shape_is_a_failure() -> None:
    scores = servable(scaler(width=3), "anomaly")
    assert fate(scores.run([floats(1, 2, 3)])[0]) == "failed: model_output"


@pytest.mark.parametrize(("rows", "max_batch"), [("n", 64), (1, 1)])
def test_static_and_dynamic_batches_answer_alike(rows: int | str, max_batch: int) -> None:
    made = servable(scaler(rows))
    assert made.info.max_batch == max_batch
    outcomes = made.run([floats(i, -i) for i in range(150)])
    assert [output(outcome) for outcome in outcomes] == [[2 * i, -2 * i] for i in range(150)]


def test_fixed_batch_of_pictures_is_filled() -> None:
    node = helper.make_node("ReduceMean", ["x"], ["y"], axes=[1, 2, 3], keepdims=0)
    made = model([node], [tensor("x", [4, 3, 8, 8])], [tensor("y", [4])]).SerializeToString()
    four = servable(made, "anomaly", preprocess=PICTURE)
    outcomes = four.run([plain_picture((i, i, i)) for i in (0, 51, 102, 153, 204, 255)])
    found = [outcome.anomaly.score for outcome in outcomes if isinstance(outcome, Answer) and outcome.anomaly]
    assert four.info.max_batch == 4
    assert found == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0], abs=1e-6)


def test_model_without_a_batch_axis() -> None:
    node = helper.make_node("ReduceSum", ["x"], ["y"], keepdims=0)
    made = servable(model([node], [tensor("x", [6, 2])], [tensor("y", [])]).SerializeToString())
    items = [floats(*range(12), shape=(6, 2)), floats(*range(11))]
    outcomes = made.run(items)
    assert fates(outcomes) == ["ok", "rejected: shape"] and output(outcomes[0]) == 66


@pytest.mark.parametrize("shape", [(), (3,), (1, 3)])
def test_model_of_a_series_of_any_length(shape: tuple[int, ...]) -> None:
    """The one open axis of [samples] is the item's, not a batch's."""
    node = helper.make_node("ReduceSum", ["x"], ["y"], keepdims=0)
    made = servable(
        model([node], [tensor("x", ["samples"])], [tensor("y", [])]).SerializeToString(),
        preprocess=(specs.Normalize(scale=2),),
    )
    outcomes = made.run([floats(1, 2, 3, shape=shape), floats(5), floats(1, 1, 1), floats(7)])
    assert [output(outcome) for outcome in outcomes] == [12, 10, 6, 14]
    assert made.info.max_batch == 1 and made.info.p50_ms > 0


@pytest.mark.parametrize(("rows", "max_batch"), [("n", 64), (1, 1)])
@pytest.mark.parametrize("held", [[], ["k"]])
def test_batch_is_that_of_the_inputs_that_are_fed(
    rows: int | str, max_batch: int, held: list[int | str]
) -> None:
    node = helper.make_node("Mul", ["x", "factor"], ["y"])
    ends = [tensor("factor", held), tensor("x", [rows, 2])], [tensor("y", [rows, 2])]
    shape = (1,) * len(held)
    made = servable(
        model([node], *ends).SerializeToString(), constants=(Constant("factor", "float32", shape, (3.0,)),)
    )
    assert made.info.max_batch == max_batch
    assert [output(o) for o in made.run([floats(1, 2), floats(3, 4)])] == [[3, 6], [9, 12]]


def test_items_of_other_shapes_run_in_groups() -> None:
    node = helper.make_node("ReduceSum", ["x", "axis"], ["y"], keepdims=0)
    made = model([node], [tensor("x", ["n", "m"])], [tensor("y", ["n"])], [weight("axis", [1], "int64")])
    outcomes = servable(made.SerializeToString()).run([floats(1, 2), floats(3), floats(4, 5), floats(6)])
    assert [output(outcome) for outcome in outcomes] == [3, 3, 9, 6]


@pytest.mark.parametrize("dtype", [TensorProto.FLOAT16, TensorProto.INT64])
def test_other_dtypes(dtype: int) -> None:
    made = servable(scaler(dtype=dtype))
    assert output(made.run([Item(JsonValues(b"[3, 4]"))])[0]) == [6, 8]


# --- several tensors -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def adder() -> Servable:
    nodes = [
        helper.make_node("Add", ["a", "b"], ["sum"]),
        helper.make_node("Sub", ["a", "b"], ["difference"]),
    ]
    ends = (
        [tensor("a", ["n", 1]), tensor("b", ["n", 1])],
        [tensor("sum", ["n", 1]), tensor("difference", ["n", 1])],
    )
    return servable(model(nodes, *ends).SerializeToString())


def pair(a: float, b: float) -> Item:
    return Item(Named({"a": JsonValues(f"[{a}]".encode()), "b": Tensor(np.array([b], "<f4").tobytes())}))


def test_several_inputs_and_outputs(adder: Servable) -> None:
    outcomes = adder.run([pair(5, 3), pair(1, 1)])
    assert [output(o, "sum") for o in outcomes] == [[8], [2]]
    assert [output(o, "difference") for o in outcomes] == [[2], [0]]


@pytest.mark.parametrize("item", [floats(1), Item(Named({"a": JsonValues(b"[1]")}))])
def test_missing_input_is_named(adder: Servable, item: Item) -> None:
    (outcome,) = adder.run([item])
    assert fate(outcome) == "rejected: schema" and "b" in outcome.detail  # type: ignore[union-attr]


# --- anomaly -------------------------------------------------------------------------------------------------------


def test_reconstruction_error_over_windows_is_their_mean() -> None:
    made = servable(
        autoencoder(4),
        "anomaly",
        preprocess=(specs.Window(2, 1), specs.Reshape((4,))),
        postprocess=(specs.ReconstructionError(), specs.Threshold(3.0)),
    )
    values = np.array([[2, 2], [4, 4], [6, 6]], np.float32)
    errors = [np.mean((values[i : i + 2] / 2) ** 2) for i in (0, 1)]
    outcomes = made.run([floats(*values.reshape(-1), shape=(3, 2)), floats(2, 2, 4, 4), floats(1)])
    found = [o.anomaly for o in outcomes if isinstance(o, Answer)]
    assert [a.score for a in found if a] == pytest.approx([np.mean(errors), errors[0]])
    assert all(a and a.threshold == 3.0 for a in found) and fate(outcomes[2]) == "rejected: shape"


def test_joined_batch_answers_as_single_items() -> None:
    made = servable(autoencoder(4), "anomaly", postprocess=(specs.ReconstructionError(),))
    items = [floats(*row) for row in np.random.default_rng(0).normal(size=(70, 4))]
    alone = [made.run([item])[0] for item in items]
    found = [(o.anomaly, a.anomaly) for o, a in zip(made.run(items), alone, strict=True)]  # type: ignore[union-attr]
    assert all(x is not None and y is not None and x.score == pytest.approx(y.score) for x, y in found)


# --- state ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", ["n", 1])
def test_state_is_kept_per_stream_in_order(rows: int | str) -> None:
    made = Servable.open(summer(rows))
    items = [floats(1, stream="a"), floats(10, stream="b"), floats(2, stream="a"), floats(3, stream="a")]
    assert made.info.stateful
    assert [output(o) for o in made.run(items)] == [[1], [10], [3], [6]]
    assert [output(o) for o in made.run(items[:2])] == [[7], [20]]
    made.forget("a")
    assert [output(o) for o in made.run(items[:2])] == [[1], [30]]


def test_bad_item_does_not_change_its_streams_state() -> None:
    made = Servable.open(summer())
    huge = Item(Tensor(np.array([3e38], "<f4").tobytes(), "f32"), "a")
    outcomes = made.run([floats(1, stream="a"), floats(1, 2, stream="a"), huge, huge, floats(4, stream="a")])
    made.run([floats(5, stream="b")])
    assert fates(outcomes)[:4] == ["ok", "rejected: shape", "ok", "failed: model_output"]
    assert output(made.run([floats(5, stream="b")])[0]) == [10]


def test_context_needs_no_state_tensor() -> None:
    made = servable(scaler(width=4), preprocess=(specs.Context(2),))
    outcomes = made.run([floats(1, 2, stream="s"), floats(3, 4, stream="s"), floats(5, 6, stream="t")])
    assert [output(o) for o in outcomes] == [[0, 0, 2, 4], [2, 4, 6, 8], [0, 0, 10, 12]]


def test_window_cannot_feed_states() -> None:
    made = summer()
    with pytest.raises(BundleError, match="window"):
        Servable.open(
            bundle(
                made.read("model.onnx"),
                states=made.manifest.states,
                constants=made.manifest.constants,
                preprocess=(specs.Window(1, 1),),
            )
        )


def test_state_that_is_not_the_files_is_refused() -> None:
    with pytest.raises(BundleError, match="state 'total'"):
        servable(summer().read("model.onnx"), states=(State("total", "total_next", "float32", (1, 2, 3)),))


# --- golden, variants, threads -------------------------------------------------------------------------------------


def test_golden_samples_are_compared() -> None:
    right = {"outputs": {"y": {"dtype": "float32", "shape": [2], "values": {"0": 2.0, "1": 4.0}}}}
    wrong = {"outputs": {"y": {"dtype": "float32", "shape": [2], "values": {"0": 2.0, "1": 9.0}}}}
    made = with_golden(right, wrong)
    assert [problem.split(":")[0] for problem in made.golden()] == ["b.bin"]
    assert made.info.golden == 2 and made.probe()
    assert not with_golden(wrong).probe() and servable(scaler()).probe()


def with_golden(*expected: dict[str, Any]) -> Servable:
    plain = bundle(scaler())
    names = [f"{letter}.bin" for letter in "ab"[: len(expected)]]
    kind = "application/x-tensor; dtype=float32; shape=2"
    goldens = tuple(Golden(name, kind, answer, 0.01) for name, answer in zip(names, expected, strict=True))
    manifest = msgspec.structs.replace(plain.manifest, golden=goldens)
    files = {"model.onnx": scaler(), **dict.fromkeys(names, np.array([1, 2], "<f4").tobytes())}
    return Servable.open(memory_bundle(manifest, files, plain.path))


def test_variant_of_a_wanted_device_goes_first_and_others_are_named() -> None:
    plain = bundle(scaler())
    (variant,) = plain.manifest.variants
    npu: Variant = msgspec.structs.replace(variant, file="npu.onnx", target="npu")
    files = {"model.onnx": scaler(), "npu.onnx": scaler()}
    both = memory_bundle(msgspec.structs.replace(plain.manifest, variants=(npu, variant)), files, plain.path)
    assert Servable.open(both).info.placement == "onnxruntime:cpu"
    only = memory_bundle(
        msgspec.structs.replace(plain.manifest, variants=(npu,)), {"npu.onnx": scaler()}, plain.path
    )
    with pytest.raises(PlacementError, match="npu"):
        Servable.open(only)


def test_threads_share_a_servable(colour: Servable) -> None:
    wanted = [RED, GREEN, BLUE] * 20
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda rgb: first(colour.run([plain_picture(rgb)])[0]), wanted))
    assert found == ["red", "green", "blue"] * 20


def test_terminated_run_answers_timed_out_and_the_next_is_well() -> None:
    made = servable(looper())
    with ThreadPoolExecutor(1) as pool:
        run = pool.submit(made.run, [integers(2**62)])
        while not run.done():
            made.terminate()
        assert run.result() == [TIMED_OUT]
    assert output(made.run([integers(3)])[0]) == [3]


def test_no_payload_raises() -> None:
    items = [
        floats(1, 2),
        Item(Tensor(b"abc")),
        Item(JsonValues(b"{")),
        Item(EncodedImage(b"x")),
        Item(SenML(b"x", True)),
    ]
    outcomes = servable(scaler()).run(items)
    assert [fate(outcome) for outcome in outcomes] == [
        "ok",
        "rejected: shape",
        "rejected: schema",
        "rejected: content_type",
        "rejected: schema",
    ]
