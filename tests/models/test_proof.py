"""Warm-up over every size of batch, and batches that answer otherwise than their items alone."""

from collections import Counter
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper

from penstock_models import proof
from penstock_models.bundle import Bundle, memory_bundle
from penstock_models.manifest import Golden
from penstock_models.servable import Servable
from tests.models.loaded import bundle, floats, output, scaler, summer
from tests.models.onnx_files import model, tensor


def with_golden(made: Bundle, *samples: tuple[list[float], list[float]]) -> Bundle:
    """The bundle with golden inputs and the outputs `y` that are expected of them."""
    files = {entry.path: made.read(entry.path) for entry in made.manifest.files}
    golden = []
    for index, (inputs, wanted) in enumerate(samples):
        name = f"golden/{index}.bin"
        files[name] = np.array(inputs, "<f4").tobytes()
        values = {str(i): value for i, value in enumerate(wanted)}
        expected: dict[str, Any] = {
            "outputs": {"y": {"dtype": "float32", "shape": [len(wanted)], "values": values}}
        }
        kind = f"application/x-tensor; dtype=float32; shape={len(inputs)}"
        golden.append(Golden(name, kind, expected, 0.01))
    manifest = msgspec.structs.replace(made.manifest, golden=tuple(golden), files=())
    return memory_bundle(manifest, files, made.path)


def mixer() -> bytes:
    """y = x less the mean over the batch: its rows are no strangers to each other."""
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["mean"], axes=[0], keepdims=1),
        helper.make_node("Sub", ["x", "mean"], ["y"]),
    ]
    made = model(nodes, [tensor("x", ["n", 2])], [tensor("y", ["n", 2])], [])
    return bytes(made.SerializeToString())


def test_every_size_of_batch_has_run_before_a_version_serves() -> None:
    made = Servable.open_checked(with_golden(bundle(scaler()), ([1, 2], [2, 4])))
    assert list(made.info.batch_ms) == [1, 2, 4, 8, 16, 32, 64] and made.info.max_batch == 64
    assert all(ms > 0 for ms in made.info.batch_ms.values())
    assert output(made.run([floats(3, 4)])[0]) == [6, 8]


def test_each_golden_sample_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made = with_golden(bundle(scaler()), *(([float(n), 1.0], [2.0 * n, 2.0]) for n in range(1, 9)))
    servable, reads, real = Servable.open(made), Counter[str](), Bundle.read

    def counted(of: Bundle, name: str) -> bytes:
        reads[name] += 1
        return real(of, name)

    monkeypatch.setattr(Bundle, "read", counted)
    assert servable.golden() == []
    assert reads == {f"golden/{n}.bin": 1 for n in range(8)}


def test_without_golden_samples_zeros_do() -> None:
    assert list(Servable.open_checked(bundle(scaler())).info.batch_ms) == [1, 2, 4, 8, 16, 32, 64]


def test_a_version_whose_batches_answer_otherwise_takes_none() -> None:
    made = Servable.open_checked(with_golden(bundle(mixer()), ([1, 2], [0, 0]), ([5, 9], [0, 0])))
    assert (made.info.max_batch, list(made.info.batch_ms)) == (1, [1])
    answers = made.run([floats(3, 4), floats(7, 9)])
    assert [output(answer) for answer in answers] == [[0, 0], [0, 0]]


def test_a_stateful_version_is_warm_and_remembers_nothing_of_it() -> None:
    made = Servable.open_checked(with_golden(summer(), ([1], [1])))
    assert made.info.max_batch == 64 and len(made.info.batch_ms) == 7
    assert output(made.run([floats(3, stream="golden/0")])[0]) == [3]


def test_no_size_is_begun_that_would_take_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Servable.open(bundle(scaler()))
    real, now = made._engine.trial, 0.0

    def slow(rows: int) -> None:
        nonlocal now
        now += 0.015 * rows
        real(rows)

    monkeypatch.setattr(proof, "time", SimpleNamespace(perf_counter=lambda: now))
    monkeypatch.setattr(made._engine, "trial", slow)
    made.warm()
    assert list(made.info.batch_ms) == [1, 2] and made.info.max_batch == 2
    assert made.info.batch_ms[2] <= proof.LONGEST_S * 1e3


@given(st.lists(st.tuples(st.floats(-9, 9, width=32), st.floats(-9, 9, width=32)), min_size=1, max_size=70))
def test_a_batch_answers_what_its_items_answer_alone(rows: list[tuple[float, float]]) -> None:
    made = SCALER
    items = [floats(*row) for row in rows]
    assert made.run(items) and [output(a) for a in made.run(items)] == [
        output(made.run([i])[0]) for i in items
    ]


SCALER = Servable.open_checked(bundle(scaler()))
