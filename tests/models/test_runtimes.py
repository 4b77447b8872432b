"""Sessions: proven placement, refusals by name, batches, threads, and ending a run."""

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from penstock_models.allocator import return_freed_memory
from penstock_models.errors import ModelRefused, PlacementError, UsageError
from penstock_models.resident import own_resident_bytes
from penstock_models.runtimes import RunError, RunTerminated, open_session
from penstock_models.runtimes.litert import _powers
from penstock_models.runtimes.ort import _require_assignment
from penstock_models.runtimes.placement import NotProven, first_proven
from penstock_models.runtimes.quiet import FirstWithout
from tests.models.loaded import looper, picker, scaler
from tests.models.onnx_files import model, tensor


def test_cpu_is_the_default_and_is_said() -> None:
    assert open_session(scaler(), "onnx").placement == "onnxruntime:cpu"
    assert open_session(scaler(), "onnx", devices=("cpu",)).placement == "onnxruntime:cpu"


@pytest.mark.parametrize("device", ["cuda", "openvino", "FooExecutionProvider", "AzureExecutionProvider"])
def test_device_that_is_not_proven_is_passed_over_or_named(device: str) -> None:
    """Azure's provider is compiled in and takes no node, so that a graph of constants alone shows no other either."""
    for data in (scaler(), folded()):
        assert open_session(data, "onnx", devices=(device, "cpu")).placement == "onnxruntime:cpu"
        with pytest.raises(PlacementError, match=device):
            open_session(data, "onnx", devices=(device,))


def folded() -> bytes:
    """The shape of a fixed input: a graph that folds to one constant."""
    node = helper.make_node("Shape", ["x"], ["y"])
    made = model([node], [tensor("x", [1, 2])], [tensor("y", [2], TensorProto.INT64)])
    return bytes(made.SerializeToString())


class Assigned:
    """What is asked of an ONNX Runtime session: which provider got which part of the graph."""

    def __init__(self, *names: str) -> None:
        self._names = names

    def get_provider_graph_assignment_info(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(ep_name=name) for name in self._names]


@pytest.mark.parametrize(
    ("names", "words"),
    [((), "no node"), (("CPUExecutionProvider",), "CPU"), (("QNNExecutionProvider", "Other"), "to Other")],
)
def test_assignment_that_proves_nothing(names: tuple[str, ...], words: str) -> None:
    _require_assignment(Assigned("QNNExecutionProvider"), "QNNExecutionProvider")
    with pytest.raises(NotProven, match=words):
        _require_assignment(Assigned(*names), "QNNExecutionProvider")


def test_provider_is_said_by_its_short_name() -> None:
    assert open_session(scaler(), "onnx", devices=("CPUExecutionProvider",)).placement == "onnxruntime:cpu"


def test_every_candidate_is_named_with_its_reason() -> None:
    def attempt(device: str) -> str:
        raise NotProven(f"no {device} here")

    with pytest.raises(PlacementError, match=r"a: no a here; b: no b here"):
        first_proven(("a", "b"), attempt)


def test_broken_model_ends_the_walk() -> None:
    with pytest.raises(ModelRefused) as refused:
        open_session(b"not a model", "onnx", devices=("cuda", "cpu"))
    assert refused.value.reason == "runtime"


def test_unknown_operator_is_named() -> None:
    node = helper.make_node("Frobnicate", ["x"], ["y"], domain="com.example")
    made = model([node], [tensor("x", [1])], [tensor("y", [1])]).SerializeToString()
    with pytest.raises(ModelRefused, match="Frobnicate") as refused:
        open_session(made, "onnx")
    assert refused.value.reason == "custom_op"


def test_unknown_runtime_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="onnx, tflite"):
        open_session(b"", "caffe")


@pytest.mark.parametrize(("rows", "expected"), [("n", 0), (1, 1), (4, 1)])
def test_only_an_open_axis_is_a_dynamic_batch(rows: int | str, expected: int) -> None:
    assert open_session(scaler(rows), "onnx").max_batch == expected


@pytest.mark.parametrize("dtype", [TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT64])
def test_dtypes_go_in_and_out(dtype: int) -> None:
    session = open_session(scaler(dtype=dtype), "onnx")
    name = session.inputs[0].dtype
    out = session.run({"x": np.array([[1, 2]], name)})["y"]
    assert out.dtype == name == session.outputs[0].dtype and out.tolist() == [[2, 4]]


def test_text_tensors_are_refused() -> None:
    node = helper.make_node("Identity", ["x"], ["y"])
    ends = [tensor("x", [1], TensorProto.STRING)], [tensor("y", [1], TensorProto.STRING)]
    with pytest.raises(ModelRefused, match="tensor\\(string\\)"):
        open_session(onnx.ModelProto.SerializeToString(model([node], *ends)), "onnx")


def test_model_that_raises_is_a_run_error() -> None:
    session = open_session(picker(), "onnx")
    assert session.run({"x": np.array([[2]])})["y"].tolist() == [[20]]
    with pytest.raises(RunError):
        session.run({"x": np.array([[7]])})
    assert session.run({"x": np.array([[1]])})["y"].tolist() == [[10]]


def test_terminate_ends_the_run_of_one_thread_only() -> None:
    session = open_session(looper(), "onnx")
    begun = threading.Barrier(3)
    idents: list[int] = []

    def forever() -> None:
        idents.append(threading.get_ident())
        begun.wait()
        session.run({"x": np.array([[2**62]])})

    with ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(forever) for _ in range(2)]
        begun.wait()
        while not runs[0].done() and not runs[1].done():  # a run that has not begun yet cannot be ended
            session.terminate(idents[0])
        assert sum(run.done() for run in runs) == 1
        while not all(run.done() for run in runs):
            session.terminate()
        assert all(isinstance(run.exception(), RunTerminated) for run in runs)
    assert session.run({"x": np.array([[3]])})["y"].tolist() == [[3]]


def test_closed_session_says_so() -> None:
    session = open_session(scaler(), "onnx")
    session.close()
    with pytest.raises(RunError, match="closed"):
        session.run({"x": np.zeros((1, 2), np.float32)})


def test_the_run_after_the_warm_up_gives_back_what_the_largest_batch_took() -> None:
    session = open_session(scaler(width=200_000), "onnx")
    one = {"x": np.ones((1, 200_000), np.float32)}
    session.run(one)
    before = own_resident_bytes()
    session.run({"x": np.ones((128, 200_000), np.float32)})
    session.run(one)
    assert own_resident_bytes() - before > 80e6  # of 102 MB, kept for the next
    session.warmed(2)
    assert np.all(session.run(one)["y"] == 2)
    return_freed_memory()
    assert own_resident_bytes() - before < 40e6
    assert np.all(session.run(one)["y"] == 2)


# --- LiteRT, on the kit's files ------------------------------------------------------------------------------------


def test_batches_are_powers_of_two() -> None:
    assert _powers(48, 64) == [32, 16] and _powers(1, 64) == [1] and _powers(150, 64) == [64, 64, 16, 4, 2]


@pytest.mark.parametrize("rows", [1, 2, 7, 64, 100])
def test_litert_batch_equals_its_rows(realdata: Path, rows: int) -> None:
    session = open_session((realdata / "models/ad01_int8.tflite").read_bytes(), "tflite")
    assert session.max_batch == 64 and session.placement == "litert:cpu+xnnpack"
    x = np.random.default_rng(0).integers(-128, 128, (rows, 640)).astype(np.int8)
    whole = session.run({"input_1": x})["Identity"]
    assert whole.shape == (rows, 640)
    assert all(
        np.array_equal(whole[i], session.run({"input_1": x[i : i + 1]})["Identity"][0]) for i in range(rows)
    )


def test_litert_model_that_cannot_be_resized_stays_at_one(realdata: Path) -> None:
    data = (realdata / "models/mobilenet_v1_0.25_128_quant.tflite").read_bytes()
    assert open_session(data, "tflite").max_batch == 1


def test_litert_interpreters_are_not_shared_between_threads(realdata: Path) -> None:
    session = open_session((realdata / "models/magic_wand.tflite").read_bytes(), "tflite")
    x = np.random.default_rng(0).random((200, 1, 128, 3, 1), np.float32)
    alone = [session.run({"conv2d_input": row})["Identity"] for row in x]
    session.warmed(2)
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda row: session.run({"conv2d_input": row})["Identity"], x))
    assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))
    assert {len(idle) for idle in session._idle.values()} == {2}  # type: ignore[attr-defined]


def test_litert_makes_no_interpreter_in_a_run_that_was_made_ready_for(
    realdata: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = open_session((realdata / "models/ad01_int8.tflite").read_bytes(), "tflite")
    x = np.zeros((48, 640), np.int8)
    session.run({"input_1": x})
    session.warmed(3)
    made: list[int] = []
    real = session._interpreter  # type: ignore[attr-defined]

    def make(size: int) -> object:
        made.append(size)
        return real(size)

    monkeypatch.setattr(session, "_interpreter", make)
    taken = [session._take(size) for size in (32, 16) for _ in range(3)]  # type: ignore[attr-defined]
    assert not made and len({id(one) for one in taken}) == 6
    session._take(32)  # type: ignore[attr-defined]
    assert made == [32]


def test_litert_wrong_shape_is_a_run_error(realdata: Path) -> None:
    session = open_session((realdata / "models/mobilenet_v1_0.25_128_quant.tflite").read_bytes(), "tflite")
    with pytest.raises(RunError):
        session.run({"input": np.zeros((1, 7, 7, 3), np.uint8)})


@pytest.mark.parametrize("device", ["cuda", "edgetpu", "/nowhere/libdelegate.so"])
def test_litert_delegate_that_is_not_there(realdata: Path, device: str) -> None:
    data = (realdata / "models/magic_wand.tflite").read_bytes()
    assert open_session(data, "tflite", devices=(device, "cpu")).placement.startswith("litert:cpu")
    with pytest.raises(PlacementError, match=device):
        open_session(data, "tflite", devices=(device,))


def test_litert_says_nothing_by_itself(realdata: Path) -> None:
    """In a process of its own: the line comes once a process."""
    code = (
        "import sys; from pathlib import Path; from penstock_models.runtimes import open_session;"
        "open_session(Path(sys.argv[1]).read_bytes(), 'tflite'); sys.stderr.write('mine')"
    )
    model_file = realdata / "models" / "vww_96_int8.tflite"
    done = subprocess.run(
        [sys.executable, "-c", code, model_file], capture_output=True, text=True, timeout=30
    )
    assert (done.returncode, done.stderr) == (0, "mine")


NOISE = b"noise\n"


def test_only_the_unwanted_line_is_kept_off_and_only_until_a_call_succeeds(
    capfd: pytest.CaptureFixture[str],
) -> None:
    first = FirstWithout(NOISE)

    def fails() -> None:
        os.write(2, b"why\n" + NOISE)
        raise RuntimeError

    with pytest.raises(RuntimeError):
        first(fails)
    first(lambda: os.write(2, b"a\n" + NOISE + b"b\n"))
    assert capfd.readouterr().err == "why\na\nb\n"
    first(lambda: os.write(2, NOISE))
    assert capfd.readouterr().err == "noise\n"


def test_other_threads_lose_nothing_meanwhile(capfd: pytest.CaptureFixture[str]) -> None:
    first = FirstWithout(NOISE)

    def writes() -> None:
        other = threading.Thread(target=lambda: os.write(2, b"other\n"))
        other.start()
        other.join()
        os.write(2, NOISE)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(first, [writes] * 4))
    err = capfd.readouterr().err
    assert err.count("other\n") == 4
    assert err.count("noise\n") == 3, "the line comes once a process; later calls are not held"


def test_without_a_standard_error_the_call_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(descriptor: int) -> int:
        raise OSError(9, "Bad file descriptor")

    monkeypatch.setattr(os, "dup", closed)
    called: list[int] = []
    FirstWithout(NOISE)(lambda: called.append(1))
    assert called == [1]
