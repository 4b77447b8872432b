"""How a vetting child ends, and what that means: crashes, silence, floods, lies, and what it left behind."""

import asyncio
import os
import signal
from pathlib import Path

import psutil
import pytest

from penstock_models.vetting import attempt
from penstock_models.vetting.listening import Ended, conclude
from penstock_models.vetting.verdict import Limits, Reason
from penstock_models.vetting.vet import vet, vet_blocking
from tests.conftest import ROOT
from tests.models import vetted_files
from tests.models.vetting_children import PATIENT, busy_child, children, descendants, first_child, until


def gone(pid: int) -> bool:
    """Also one that nobody reaps."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.mark.parametrize(
    ("sent", "limits", "reason", "words"),
    [
        (signal.SIGSEGV, PATIENT, "crashed", "ended by SIGSEGV while"),
        (signal.SIGKILL, PATIENT, "memory", "as the kernel does"),
        (signal.SIGSTOP, Limits(wall_s=1.5), "endless", "was not done after 1.5 s"),
    ],
    ids=["crashes", "is killed", "hangs"],
)
async def test_a_child_that_ends_without_a_word(
    tmp_path: Path, sent: signal.Signals, limits: Limits, reason: Reason, words: str
) -> None:
    path = vetted_files.bundle(tmp_path, vetted_files.endless())
    task = asyncio.create_task(vet(path, limits=limits))
    child = await (first_child() if sent == signal.SIGSTOP else busy_child())
    child.send_signal(sent)
    found = await task
    assert (found.reason, words in found.message) == (reason, True), found.message
    assert children() == []


@pytest.fixture
def rogue(monkeypatch: pytest.MonkeyPatch) -> None:
    """A child that does not do its work."""
    monkeypatch.setattr(attempt, "CHILD", "tests.models.rogue_child")
    monkeypatch.setattr(attempt, "END_S", 0.1)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))


@pytest.mark.usefixtures("rogue")
@pytest.mark.parametrize(
    ("act", "ok", "reason", "message"),
    [
        ("talk", False, "internal", "the child said more than 262144 bytes while starting"),
        ("complain", False, "endless", "was not done after 1.5 s, while starting"),
        ("stay", True, "", ""),
        ("paint", False, "golden", "[2Jall is well!!!"),
        ("babble", False, "internal", "left with code 3 while starting"),
    ],
)
def test_a_child_that_was_taken_over(
    tmp_path: Path, act: str, ok: bool, reason: Reason, message: str
) -> None:
    """What it says is bounded, and it is ended whatever it does."""
    path = vetted_files.bundle(tmp_path, vetted_files.doubler())
    found = vet_blocking(path, (act,), limits=Limits(wall_s=1.5))
    assert (found.ok, found.reason, message in found.message) == (ok, reason, True), found
    texts = [found.message, found.digest, found.placement, *found.problems]
    assert len(texts) <= 23 and all(text.isprintable() and len(text) <= 500 for text in texts)
    assert descendants() == []


@pytest.mark.usefixtures("rogue")
def test_what_a_child_left_behind_is_ended(tmp_path: Path) -> None:
    """Where the kernel has no filter, it can start processes."""
    found = vet_blocking(vetted_files.bundle(tmp_path, vetted_files.doubler()), ("leave",))
    assert found.ok
    until(lambda: gone(int(found.digest)))


ENDS: list[tuple[Ended, Reason, str]] = [
    (Ended(-11, "loading it", "a\nb c\n"), "crashed", "ended by SIGSEGV while loading it b c"),
    (
        Ended(-6, "loading it", "what():  std::bad_alloc\n"),
        "memory",
        "more than 7 MB were needed while loading",
    ),
    (Ended(-63, "loading it", ""), "crashed", "ended by signal 63"),
    (Ended(-24, "loading it", ""), "endless", "used 3 s of processor time"),
    (Ended(-9, "loading it", ""), "memory", "was killed while loading it"),
    (Ended(-9, "loading it", "", late=True), "endless", "was not done after 4 s"),
    (Ended(-9, "loading it", "", late=True, waited_s=3), "starved", "waited 3 of 4 s for a processor"),
    (Ended(-9, "loading it", "", late=True, waited_s=1), "endless", "was not done after 4 s"),
    (Ended(-9, "loading it", "", flooded=True), "internal", "said more than"),
    (
        Ended(1, "starting", "Traceback\nImportError: numpy\n"),
        "internal",
        "code 1 while starting: ImportError",
    ),
    (Ended(1, "packing it", "MemoryError\n"), "memory", "more than 7 MB"),
]


@pytest.mark.parametrize(("ended", "reason", "words"), ENDS)
def test_what_an_end_means(ended: Ended, reason: Reason, words: str) -> None:
    found = conclude(ended, "m.bundle", Limits(memory_bytes=7_000_000, cpu_s=3, wall_s=4))
    assert (found.ok, found.reason) == (False, reason)
    assert found.message.startswith("m.bundle: ") and words in found.message
