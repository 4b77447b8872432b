"""Steps: each against its definition or against the library that it must equal."""

from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from penstock_models.errors import BundleError
from penstock_models.manifest import Quantization, TensorSpec
from penstock_models.rejection import Rejection
from penstock_models.steps import specs
from penstock_models.steps.boxes import Boxes, decode_boxes, decode_yolox, suppress
from penstock_models.steps.pictures import PicturePlan, resize
from penstock_models.steps.scores import finite_rows, softmax, squared_error, top_k
from penstock_models.steps.series import MAX_WINDOWS, SeriesPlan
from penstock_models.steps.values import apply_value
from tests.models.pictures import photo


def bgr(width: int = 64, height: int = 48) -> np.ndarray:
    return np.ascontiguousarray(np.asarray(photo(width, height))[..., ::-1])


def picture_spec(dtype: str = "float32", shape: tuple[int | None, ...] = (1, 3, 24, 32)) -> TensorSpec:
    return TensorSpec("x", dtype, shape, Quantization(0.5, 3))


# --- resize --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(32, 24), (17, 5), (64, 48), (100, 90)])
@pytest.mark.parametrize("gray", [False, True])
def test_antialias_equals_pillow(size: tuple[int, int], gray: bool) -> None:
    source = bgr()[..., :1].copy() if gray else bgr()
    found, _ = resize(source, specs.Resize(*size, filter="antialias"))
    image = Image.fromarray(source[..., 0] if gray else source)
    expected = np.asarray(image.resize(size, Image.Resampling.BILINEAR)).reshape(size[1], size[0], -1)
    assert np.abs(found.astype(int) - expected).max() <= 1


@pytest.mark.parametrize(("filter", "flag"), [("linear", cv2.INTER_LINEAR), ("area", cv2.INTER_AREA)])
def test_linear_and_area_are_opencvs(filter: specs.Filter, flag: int) -> None:
    found, _ = resize(bgr(), specs.Resize(20, 10, filter=filter))
    assert np.array_equal(found, cv2.resize(bgr(), (20, 10), interpolation=flag))


@pytest.mark.parametrize("filter", ["linear", "area", "antialias"])
@pytest.mark.parametrize("mode", ["stretch", "letterbox", "crop"])
@pytest.mark.parametrize("source", [(640, 480), (30, 400), (1, 3000), (3000, 1), (7, 7)])
def test_every_mode_gives_its_size(filter: specs.Filter, mode: str, source: tuple[int, int]) -> None:
    step = specs.Resize(32, 24, mode=mode, filter=filter)  # type: ignore[arg-type]
    found, _ = resize(np.zeros((source[1], source[0], 3), np.uint8), step)
    assert found.shape == (24, 32, 3)


def test_letterbox_pads_at_its_anchor() -> None:
    white = np.full((10, 20, 3), 255, np.uint8)
    top, _ = resize(white, specs.Resize(40, 40, mode="letterbox", pad=7))
    middle, _ = resize(white, specs.Resize(40, 40, mode="letterbox", pad=7, anchor="center"))
    assert (top[:20] == 255).all() and (top[20:] == 7).all()
    assert (middle[:10] == 7).all() and (middle[10:30] == 255).all() and (middle[30:] == 7).all()


@given(
    st.integers(40, 200),
    st.integers(40, 200),
    st.sampled_from(["stretch", "letterbox", "crop"]),
    st.sampled_from(["top_left", "center"]),
)
def test_geometry_leads_back_to_the_picture(width: int, height: int, mode: str, anchor: str) -> None:
    """A bright spot in the middle of the picture is found there again through the geometry."""
    picture = np.zeros((height, width, 3), np.uint8)
    cv2.circle(picture, (width // 2, height // 2), max(2, min(width, height) // 6), (255, 255, 255), -1)
    small, geometry = resize(picture, specs.Resize(96, 80, mode=mode, anchor=anchor, pad=0))  # type: ignore[arg-type]
    y, x = (axis.mean() for axis in np.nonzero(small[..., 0] > 127))
    assert geometry.ax * (x + 0.5) / 96 + geometry.bx == pytest.approx((width // 2 + 0.5) / width, abs=0.05)
    assert geometry.ay * (y + 0.5) / 80 + geometry.by == pytest.approx((height // 2 + 0.5) / height, abs=0.05)


# --- values --------------------------------------------------------------------------------------------------------

NORMALIZE = specs.Normalize(scale=1 / 255, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


def plainly(order: str) -> np.ndarray:
    small = cv2.resize(bgr(), (32, 24), interpolation=cv2.INTER_LINEAR)
    return small[..., ::-1] if order == "rgb" else small


def planned(*steps: specs.Preprocess, dtype: str = "float32", planar: bool = True) -> np.ndarray:
    shape = (1, 3, 24, 32) if planar else (1, 24, 32, 3)
    layout = (specs.Layout("nchw"),) if planar else ()
    row, _ = PicturePlan((specs.Resize(32, 24), *steps, *layout), picture_spec(dtype, shape))(bgr())
    assert row.shape == shape[1:] and row.dtype == dtype and row.flags.c_contiguous
    return row.transpose(1, 2, 0) if planar else row


@pytest.mark.parametrize("planar", [True, False])
@pytest.mark.parametrize("order", ["rgb", "bgr"])
class TestPicturePlan:
    def test_normalize(self, order: str, planar: bool) -> None:
        found = planned(specs.Color(order), NORMALIZE, planar=planar)  # type: ignore[arg-type]
        expected = (plainly(order) / 255 - np.array(NORMALIZE.mean)) / np.array(NORMALIZE.std)
        assert np.abs(found - expected).max() < 1e-5

    def test_cast_with_offset(self, order: str, planar: bool) -> None:
        found = planned(specs.Color(order), specs.Cast("int8", -128), dtype="int8", planar=planar)  # type: ignore[arg-type]
        assert np.array_equal(found, plainly(order).astype(int) - 128)

    @pytest.mark.parametrize("dtype", ["float32", "float16", "int16", "int64", "uint8"])
    def test_plain_cast(self, order: str, planar: bool, dtype: str) -> None:
        found = planned(specs.Color(order), specs.Cast(dtype), dtype=dtype, planar=planar)  # type: ignore[arg-type]
        assert np.array_equal(found, plainly(order))

    def test_quantize(self, order: str, planar: bool) -> None:
        found = planned(specs.Color(order), specs.Quantize(), dtype="int8", planar=planar)  # type: ignore[arg-type]
        assert np.array_equal(found, np.clip(np.rint(plainly(order) / 0.5) + 3, -128, 127))


def test_gray() -> None:
    steps = (specs.Resize(32, 24), specs.Color("gray"))
    row, _ = PicturePlan(steps, picture_spec("uint8", (1, 24, 32, 1)))(bgr())
    expected = cv2.cvtColor(cv2.resize(bgr(), (32, 24)), cv2.COLOR_BGR2GRAY)
    assert np.array_equal(row[..., 0], expected)


def test_gray_before_resize_is_done_in_that_order() -> None:
    steps = (specs.Color("gray"), specs.Resize(32, 24))
    row, _ = PicturePlan(steps, picture_spec("uint8", (1, 24, 32, 1)))(bgr())
    assert np.array_equal(row[..., 0], cv2.resize(cv2.cvtColor(bgr(), cv2.COLOR_BGR2GRAY), (32, 24)))


WRONG_PLANS = [
    ((specs.Resize(30, 24), specs.Layout("nchw")), "resize gives"),
    ((specs.Resize(32, 24),), "cannot take"),
    ((specs.Resize(32, 24), specs.Resize(32, 24)), "2 times"),
    ((NORMALIZE, specs.Resize(32, 24), specs.Layout("nchw")), "before normalize"),
    ((specs.Resize(32, 24), specs.Layout("nchw"), specs.Window(2, 1)), "series"),
    ((specs.Resize(32, 24), specs.Cast("int8"), specs.Layout("nchw")), "takes float32"),
    ((specs.Resize(32, 24), specs.Normalize(mean=(0, 0)), specs.Layout("nchw")), "1 or 3"),
]


@pytest.mark.parametrize(("steps", "text"), WRONG_PLANS)
def test_steps_that_do_not_fit_are_refused(steps: tuple[specs.Preprocess, ...], text: str) -> None:
    with pytest.raises(BundleError, match=text):
        PicturePlan(steps, picture_spec())


# --- series --------------------------------------------------------------------------------------------------------


def series(
    *steps: specs.Preprocess, row: tuple[int | None, ...] = (6,), dtype: str = "float32"
) -> SeriesPlan:
    return SeriesPlan(steps, TensorSpec("x", dtype, (None, *row), Quantization(0.5, 10)), row)


def test_windows_become_rows() -> None:
    plan = series(specs.Window(3, 2), specs.Reshape((6,)))
    values = np.arange(14, dtype=np.float32)
    assert plan.shape_of(14, ()) == (7, 2) == plan.shape_of(14, (7, 2)) == plan.shape_of(14, (1, 7, 2))
    rows = plan.rows(values.reshape(1, 7, 2), ready=True).data
    assert rows.tolist() == [[0, 1, 2, 3, 4, 5], [4, 5, 6, 7, 8, 9], [8, 9, 10, 11, 12, 13]]


def test_windows_are_bounded() -> None:
    plan = series(specs.Window(3, 1), specs.Reshape((6,)))
    for rows in (2, MAX_WINDOWS + 3):
        with pytest.raises(Rejection) as refused:
            plan.rows(np.zeros((1, rows, 2), np.float32), ready=True)
        assert refused.value.reason == "shape"


def test_context_is_prepended_and_handed_on() -> None:
    plan = series(specs.Context(2), row=(6,))
    first = plan.rows(np.array([[1, 2, 3, 4]], np.float32), ready=True)
    second = plan.rows(np.array([[5, 6, 7, 8]], np.float32), ready=True, carried=first.context)
    assert plan.expected == (4,)
    assert first.data.tolist() == [[0, 0, 1, 2, 3, 4]]
    assert second.data.tolist() == [[3, 4, 5, 6, 7, 8]]


def test_quantize_rounds_and_saturates_and_keeps_the_real_values() -> None:
    plan = series(specs.Quantize(), row=(4,), dtype="int8")
    made = plan.rows(np.array([[0.2, 0.25, -200, 200]], np.float32), ready=False)
    assert made.data.tolist() == [[10, 10, -128, 127]]
    assert made.real is not None and made.real[0, 2] == -200


def test_ready_values_skip_quantize() -> None:
    plan = series(specs.Quantize(), row=(2,), dtype="int8")
    assert plan.accepts(np.dtype("int8")) is True
    assert plan.accepts(np.dtype("float32")) is False
    assert plan.rows(np.array([[1, 2]], np.int8), ready=True).data.tolist() == [[1, 2]]


CASTS: list[tuple[str, list[float], str, int, list[float]]] = [
    ("float32", [0.5, 1.9, 40000], "float32", -1, [-0.5, 0.9, 39999]),
    ("float16", [60000], "float32", 30000, [90000]),
    ("float32", [300.7, -300], "int8", 1, [127, -128]),
    ("int16", [32767, -5], "int16", 100, [32767, 95]),
    ("int16", [32767, -5], "int32", 100, [32867, 95]),
    ("uint8", [0, 200], "int8", -128, [-128, 72]),
    ("int64", [2**63 - 1, -(2**63)], "int64", 100, [2**63 - 1, 100 - 2**63]),
    ("int64", [2**63 - 1, -(2**63)], "int64", -100, [2**63 - 101, -(2**63)]),
    ("int16", [5], "uint16", -10, [0]),
    ("float32", [3e9, -3e9, 7.9], "int32", 0, [2**31 - 1, -(2**31), 7]),
    ("float32", [1e19, -1e19], "int64", 0, [2**63 - 1, -(2**63)]),
    ("float64", [2.0**53 + 2, 1e300], "int64", 0, [2**53 + 2, 2**63 - 1]),
    ("float16", [40000, -40000], "int16", 0, [32767, -32768]),
    ("int64", [-1, 2**40], "uint8", 0, [0, 255]),
    ("uint16", [65535], "int8", 0, [127]),
]


@pytest.mark.parametrize(("given", "values", "dtype", "offset", "expected"), CASTS)
def test_cast_adds_exactly_and_saturates(
    given: str, values: list[float], dtype: str, offset: int, expected: list[float]
) -> None:
    found = apply_value(specs.Cast(dtype, offset), np.array(values, given), TensorSpec("x", dtype, (None,)))
    assert found.dtype == dtype
    assert found.tolist() == (pytest.approx(expected) if dtype.startswith("float") else expected)


WRONG_SERIES: list[tuple[tuple[specs.Preprocess, ...], tuple[int | None, ...], str]] = [
    ((specs.Window(3, 1), specs.Context(2)), (5, 2), "context stands after step window"),
    ((specs.Normalize(mean=(1, 2)),), (4, 3), "1 or 3 values"),
    ((specs.Normalize(std=(1, 2)), specs.Window(2, 1), specs.Reshape((6,))), (6,), "1 or 3 values"),
    ((specs.Normalize(mean=(1, 2)),), (), "1 or 1 values"),
]


@pytest.mark.parametrize(("steps", "row", "text"), WRONG_SERIES)
def test_series_steps_that_do_not_fit_are_refused(
    steps: tuple[specs.Preprocess, ...], row: tuple[int | None, ...], text: str
) -> None:
    with pytest.raises(BundleError, match=text):
        series(*steps, row=row)


@pytest.mark.parametrize("row", [(4, 2), (None, 2), (4, None)])
def test_normalize_by_channel(row: tuple[int | None, ...]) -> None:
    plan = series(specs.Normalize(mean=(1, 2)), row=row)
    found = plan.rows(np.tile(np.array([3, 5], np.float32), (1, 4, 1)), ready=False).data
    assert found.tolist() == [[[2, 3]] * 4]


@pytest.mark.parametrize(
    ("plan", "shape"),
    [
        (((specs.Normalize(mean=(1, 2)),), (4, None)), (1, 4, 3)),
        (((specs.Normalize(mean=(1, 2)), specs.Reshape((6,))), (6,)), (1, 6)),
    ],
)
def test_channels_that_only_an_item_tells_are_its_fault(plan: Any, shape: tuple[int, ...]) -> None:
    with pytest.raises(Rejection, match="channel"):
        series(*plan[0], row=plan[1]).rows(np.zeros(shape, np.float32), ready=False)


DTYPES = [
    ((), "float32", "float32", True),
    ((), "float32", "float64", None),
    ((), "float32", "int8", None),
    ((specs.Quantize(),), "int8", "uint8", None),
    ((specs.Normalize(scale=2),), "float32", "int16", False),
    ((specs.Normalize(scale=2),), "float32", "float32", False),
    ((specs.Cast("float32"),), "float32", "uint8", False),
]


@pytest.mark.parametrize(("steps", "model", "given", "expected"), DTYPES)
def test_dtypes(steps: tuple[specs.Preprocess, ...], model: str, given: str, expected: bool | None) -> None:
    plan = series(*steps, dtype=model)
    if expected is None:
        with pytest.raises(Rejection) as refused:
            plan.accepts(np.dtype(given))
        assert refused.value.reason == "dtype"
    else:
        assert plan.accepts(np.dtype(given)) is expected


SHAPES = [
    ((6,), 6, (), (6,)),
    ((6,), 6, (1, 6), (6,)),
    ((6,), 7, (), None),
    ((6,), 6, (2, 3), None),
    ((2, 3), 6, (3, 2), None),
    ((None,), 9, (), (9,)),
    ((None, 3), 9, (), (3, 3)),
    ((None, 3), 10, (), None),
    ((None, None), 9, (), None),
    ((None, None), 9, (3, 3), (3, 3)),
    ((2, 3), 6, (4, 3), None),
]


@pytest.mark.parametrize(("row", "size", "declared", "expected"), SHAPES)
def test_shapes(
    row: tuple[int | None, ...], size: int, declared: tuple[int, ...], expected: tuple[int, ...] | None
) -> None:
    plan = series(row=row)
    if expected is None:
        with pytest.raises(Rejection) as refused:
            plan.shape_of(size, declared)
        assert refused.value.reason == "shape"
    else:
        assert plan.shape_of(size, declared) == expected


# --- scores and boxes ----------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 9), min_size=1, max_size=40), st.integers(1, 12))
def test_top_k_is_the_stable_order(values: list[int], k: int) -> None:
    expected = sorted(range(len(values)), key=lambda i: (-values[i], i))[:k]
    assert top_k(np.array(values, np.float32), k)[:k].tolist() == expected


def test_softmax_of_large_values() -> None:
    found = softmax(np.array([[1000.0, 1000.0], [0.0, np.log(3.0)]]))
    assert found.tolist() == pytest.approx(np.array([[0.5, 0.5], [0.25, 0.75]]))


def test_squared_error_of_each_row() -> None:
    assert squared_error(np.array([[1.0, 3.0], [0.0, 0.0]]), np.array([[0.0, 0.0], [0.0, 2.0]])).tolist() == [
        5,
        2,
    ]


def test_finite_rows() -> None:
    assert finite_rows(np.zeros((2, 3))) is None
    assert finite_rows(np.full((2, 3), 1e308)) is None  # the sum overflows, the values do not
    found = finite_rows(np.array([[1.0, np.nan], [1.0, 2.0], [np.inf, -np.inf]]))
    assert found is not None and found.tolist() == [False, True, False]


def test_yolox_decodes_a_cell() -> None:
    output = np.zeros((4 * 3 + 2 * 1, 7), np.float32)  # a 32×24 input: grids of strides 8 and 16
    output[5] = [0.5, 0.25, 0.0, np.log(2), 0.9, 0.1, 0.8]  # cell x 1, y 1 of stride 8
    output[0] = [0, 0, 0, 0, 0.9, 0.3, 0.3]  # 0.27: below
    found = decode_yolox(output, specs.DecodeYolox(score=0.3, strides=(8, 16)), 32, 24)
    assert found.scores.tolist() == pytest.approx([0.72]) and found.classes.tolist() == [1]
    centre, size = np.array([12.0, 10.0]), np.array([8.0, 16.0])
    box = np.hstack([centre - size / 2, centre + size / 2]) / [32, 24, 32, 24]
    assert found.xyxy[0].tolist() == pytest.approx(box.tolist())


def test_boxes_skip_background() -> None:
    scores = np.array([[0.1, 0.9, 0.0], [0.9, 0.1, 0.0], [0.0, 0.2, 0.8]], np.float32)
    boxes = np.arange(12, dtype=np.float32).reshape(3, 4)
    found = decode_boxes(scores, boxes, specs.DecodeBoxes(score=0.7))
    assert found.classes.tolist() == [0, 1] and found.xyxy[:, 0].tolist() == [0, 8]


corner = st.integers(0, 20)
box = st.tuples(corner, corner, st.integers(1, 12), st.integers(1, 12), st.integers(0, 2))


@given(st.lists(box, max_size=25), st.booleans(), st.sampled_from([0.0, 0.3, 0.5, 1.0]))
def test_suppression_is_the_plain_greedy_one(boxes: list[tuple[int, ...]], across: bool, iou: float) -> None:
    xyxy = np.array([[x, y, x + w, y + h] for x, y, w, h, _ in boxes], np.float32).reshape(-1, 4)
    scores = np.linspace(1, 0.5, len(boxes), dtype=np.float32)
    classes = np.array([b[4] for b in boxes], int)
    found = suppress(Boxes(xyxy, scores, classes), specs.Nms(iou, across))
    kept: list[int] = []
    for i in range(len(boxes)):
        if all(
            (classes[i] != classes[k] and not across) or not overlaps(xyxy[i], xyxy[k], iou) for k in kept
        ):
            kept.append(i)
    assert found.scores.tolist() == scores[kept].tolist()


def overlaps(a: np.ndarray, b: np.ndarray, iou: float) -> bool:
    across = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    down = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    areas = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return bool(np.float32(across * down) / np.float32(areas - across * down) > np.float32(iou))
