"""A foreign model meets a limited child process first: what is refused, why, and that nobody else notices."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from penstock_models.children import environment
from penstock_models.errors import (
    BundleError,
    GoldenError,
    ModelRefused,
    PenstockError,
    PlacementError,
    UsageError,
)
from penstock_models.executor import ThreadExecutor
from penstock_models.vetting import attempt
from penstock_models.vetting.listening import Ended, conclude
from penstock_models.vetting.verdict import Limits, Reason, Vetted, life_s, refused
from penstock_models.vetting.vet import require_model, vet, vet_blocking
from tests.conftest import ROOT
from tests.models import onnx_files, vetted_files
from tests.models.loaded import floats, output
from tests.models.vetting_children import busy_child, children, descendants, first_child, until

QUICK = Limits(cpu_s=1, wall_s=50)
PATIENT = Limits(cpu_s=60, wall_s=50)
DEMO = ROOT / "models" / "penstock_models" / "demo"


def working_folder(process: psutil.Process) -> list[Path]:
    return list(Path(f"/proc/{process.pid}/cwd/").iterdir())


def gone(pid: int) -> bool:
    """Also one that nobody reaps."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def network() -> str:
    """What keeps a child off it here."""
    return vet_blocking(DEMO / "vibration-1.bundle").network


# --- verdicts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["yard", "vibration"])
def test_the_demo_bundles_pass_and_are_measured(name: str) -> None:
    seen: list[tuple[int, int]] = []
    found = vet_blocking(DEMO / f"{name}-1.bundle", advance=lambda done, total: seen.append((done, total)))
    assert (found.ok, found.reason, found.message) == (True, "", "")
    assert seen == [(n, found.golden) for n in range(1, found.golden + 1)]
    assert found.placement == "onnxruntime:cpu"
    assert 1e6 < found.resident_bytes <= found.peak_bytes < 500e6
    assert found.base_bytes > 10e6
    found.require()


REFUSED: dict[str, tuple[bytes, float | None, Reason, str]] = {
    "huge constant": (vetted_files.huge(), None, "memory", "asked for 400000 MB at once"),
    "huge constant, golden": (vetted_files.huge(), 1.0, "memory", "while running its golden samples"),
    "quadratic": (vetted_files.quadratic(), None, "memory", "asked for 160000 MB at once"),
    "endless loop": (vetted_files.endless(), None, "endless", "used 1 s of processor time"),
    "above": (vetted_files.external("../weights.bin"), None, "external_data", "another file"),
    "absolute": (vetted_files.external("/etc/passwd"), None, "external_data", "another file"),
    "device": (vetted_files.external("/dev/zero"), None, "external_data", "another file"),
    "symbolic link": (vetted_files.external("symlink"), None, "external_data", "another file"),
    "hard link": (vetted_files.external("hardlink"), None, "external_data", "another file"),
    "operator": (vetted_files.foreign_operator(), None, "custom_op", "evil.ops:Evil"),
    "truncated": (onnx_files.classifier()[:-9], None, "truncated", "again"),
    "text": (b"<html>404</html>", None, "not_a_model", "text"),
    "wrong answer": (vetted_files.doubler(), 3.0, "golden", "expected 3"),
}


@pytest.mark.parametrize(("data", "golden", "reason", "words"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused(
    tmp_path: Path, data: bytes, golden: float | None, reason: Reason, words: str
) -> None:
    path = vetted_files.bundle(tmp_path, data, golden=golden)
    (tmp_path / "target").write_bytes(bytes(8))
    (tmp_path / "symlink").symlink_to("target")
    (tmp_path / "hardlink").hardlink_to(tmp_path / "target")
    found = vet_blocking(path, limits=QUICK)
    assert (found.ok, found.reason) == (False, reason), found.message
    assert words in found.message
    assert "\n" not in found.message and "/proc/self" not in found.message
    assert children() == []


def test_memory_is_what_the_limit_allows(tmp_path: Path) -> None:
    """The same model: 64 MB of intermediate, refused under 50 MB, fine under 500."""
    path = vetted_files.bundle(tmp_path, vetted_files.quadratic(side=4096))
    small = vet_blocking(path, limits=Limits(memory_bytes=50_000_000))
    assert (small.reason, "more than 50 MB were needed" in small.message) == ("memory", True)
    large = vet_blocking(path, limits=Limits(memory_bytes=500_000_000))
    assert large.ok and large.peak_bytes > 64e6


def test_a_bundle_that_is_not_what_it_says(tmp_path: Path) -> None:
    path = vetted_files.bundle(tmp_path, vetted_files.doubler())
    path.write_bytes(path.read_bytes().replace(b"two", b"owt"))
    found = vet_blocking(path)
    assert (found.reason, "model.onnx has sha256" in found.message) == ("bundle", True)
    assert found.message.startswith(str(path))


def test_an_unpacked_bundle_and_a_bare_model_file(tmp_path: Path) -> None:
    bare = tmp_path / "doubler" / "7"
    bare.mkdir(parents=True)
    (bare / "model.onnx").write_bytes(vetted_files.doubler())
    found = vet_blocking(bare)
    assert found.ok and found.golden == 1 and found.resident_bytes > 0
    (bare / "model.toml").write_text('file = "model.onnx"\nwhat = 1\n')
    wrong = vet_blocking(bare)
    assert (wrong.reason, "what" in wrong.message, str(bare) in wrong.message) == ("usage", True, True)
    (bare / "model.toml").unlink()
    (bare / "model.onnx").write_bytes(vetted_files.huge())
    assert vet_blocking(bare).reason == "memory"
    (bare / "model.onnx").unlink()
    assert vet_blocking(bare).reason == "bundle"
    shutil.unpack_archive(vetted_files.bundle(tmp_path, vetted_files.doubler()), tmp_path / "open", "tar")
    assert vet_blocking(tmp_path / "open").ok
    (tmp_path / "open" / "model.onnx").unlink()
    (tmp_path / "open" / "model.onnx").symlink_to("/dev/zero")
    assert "a link or a device" in vet_blocking(tmp_path / "open").message


def test_what_is_no_file_is_said_before_a_child_is_started(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no bundle at"):
        vet_blocking(tmp_path / "none.bundle")
    os.mkfifo(tmp_path / "pipe.bundle")
    assert vet_blocking(tmp_path / "pipe.bundle").reason == "bundle"
    with pytest.raises(ModelRefused, match="not a regular file"):
        require_model(Path("/dev/zero"))
    with pytest.raises(UsageError, match="cannot read"):
        require_model(tmp_path / "none.onnx")


def test_broken_models_of_the_kit(realdata: Path) -> None:
    words = {}
    for path in sorted((realdata / "models" / "broken").iterdir()):
        with pytest.raises(ModelRefused) as caught:
            require_model(path)
        words[path.stem] = caught.value.reason
    assert words == {
        "audio_preprocessor_int8": "custom_op",
        "lfs_pointer": "not_a_model",
        "model_invoking_error": "custom_op",
        "person_detect": "bad_quantization",
    }


@pytest.mark.parametrize(
    "name",
    [
        "light_weight_person_detector_192.onnx",
        "mobilenet_v2_1.0_224_quant.tflite",
        "vww_96_int8.tflite",
    ],
)
def test_good_models_of_the_kit_pass(realdata: Path, name: str) -> None:
    require_model(realdata / "models" / name)


@pytest.mark.parametrize(("memory_mb", "rows"), [(140, 4), (300, 8)])
def test_a_batch_that_does_not_fit_is_no_half_batch(tmp_path: Path, memory_mb: int, rows: int) -> None:
    """The golden sample alone is right, and so would be the halves of a batch: in a process without limits it would be
    run whole. Every batch size is run, one after the other."""
    path = vetted_files.bundle(tmp_path, vetted_files.quadratic_batch(), golden=1.0)
    found = vet_blocking(path, limits=Limits(memory_bytes=memory_mb * 10**6))
    assert (found.reason, f"while running batches of {rows}" in found.message) == ("memory", True)


def test_a_large_model_passes_where_the_limit_allows(realdata: Path) -> None:
    """It grows by 300 MB."""
    require_model(realdata / "models" / "light_resnet50.onnx", Limits(memory_bytes=400_000_000))
    with pytest.raises(ModelRefused, match=r"memory: .* more than 200 MB were needed while loading it"):
        require_model(realdata / "models" / "light_resnet50.onnx", Limits(memory_bytes=200_000_000))


# --- ends ------------------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("bundle", BundleError),
        ("golden", GoldenError),
        ("placement", PlacementError),
        ("usage", UsageError),
        ("memory", ModelRefused),
        ("external_data", ModelRefused),
    ],
)
def test_a_refusal_is_the_error_that_loading_would_raise(reason: Reason, kind: type[PenstockError]) -> None:
    with pytest.raises(kind) as caught:
        refused(reason, "two\n lines", ("a",)).require()
    assert type(caught.value) is kind
    assert str(caught.value).endswith("two lines")


def test_how_long_a_verdict_lives() -> None:
    assert life_s(Vetted(True)) is None
    lives = {reason: life_s(refused(reason, "")) for reason in Reason.__args__ if reason}  # type: ignore[attr-defined]
    assert {lives[r] for r in ("memory", "endless", "crashed")} == {300.0}
    assert {lives[r] for r in ("golden", "runtime")} == {3_600.0}
    assert lives["external_data"] == 86_400.0
    assert [r for r, life in lives.items() if not life] == ["placement", "usage", "starved", "internal"]


async def test_a_child_steps_back(tmp_path: Path) -> None:
    """Lowest priority, and among the processes of its parent's session: in one of its own it would count for nothing."""
    path = vetted_files.bundle(tmp_path, vetted_files.endless())
    task = asyncio.create_task(vet(path, limits=PATIENT))
    child = await busy_child()
    assert child.nice() == 19
    assert child.ionice().ioclass == psutil.IOPRIO_CLASS_IDLE
    assert os.getsid(child.pid) == os.getsid(0)
    assert os.getpgid(child.pid) == child.pid
    assert working_folder(child) == []
    task.cancel()
    await asyncio.wait([task])


# --- who else notices ------------------------------------------------------------------------------------------------


@pytest.fixture
async def neighbour(tmp_path: Path) -> AsyncIterator[Callable[[float], "asyncio.Future[float]"]]:
    """A model that serves in this process: doubles what it is given."""
    executor = ThreadExecutor(1)
    info = await executor.load(str(vetted_files.bundle(tmp_path / "n", vetted_files.doubler(), name="n")))

    async def ask(value: float) -> float:
        (outcome,) = await executor.run(info.digest, [floats(value)], 5)
        return float(output(outcome)[0])

    yield lambda value: asyncio.ensure_future(ask(value))
    await executor.close()


@pytest.mark.parametrize(
    ("data", "reason"),
    [(vetted_files.huge(), "memory"), (vetted_files.endless(nested=True), "endless")],
    ids=["huge constant", "nested loops"],
)
async def test_a_neighbour_keeps_its_answers(
    tmp_path: Path, neighbour: Callable[[float], "asyncio.Future[float]"], data: bytes, reason: Reason
) -> None:
    path = vetted_files.bundle(tmp_path, data)
    task = asyncio.create_task(vet(path, limits=QUICK))
    asked = 0
    while not task.done():
        asked += 1
        assert await neighbour(float(asked)) == 2.0 * asked
        await asyncio.sleep(0.005)
    assert task.result().reason == reason
    assert asked > 20


async def test_one_child_at_a_time(tmp_path: Path) -> None:
    paths = [vetted_files.bundle(tmp_path, vetted_files.doubler(), name=f"m{n}") for n in range(3)]
    most = 0
    tasks = [asyncio.create_task(vet(path)) for path in paths]
    while not all(task.done() for task in tasks):
        most = max(most, len(children()))
        await asyncio.sleep(0.01)
    assert all(task.result().ok for task in tasks)
    assert len({task.result().digest for task in tasks}) == 3
    assert most == 1


async def test_cancelling_ends_the_child_or_its_turn(tmp_path: Path) -> None:
    path = vetted_files.bundle(tmp_path, vetted_files.endless())
    running = asyncio.create_task(vet(path, limits=PATIENT))
    waiting = asyncio.create_task(vet(path, limits=PATIENT))
    child = await first_child()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert not psutil.pid_exists(child.pid)
    assert (await vet(vetted_files.bundle(tmp_path, vetted_files.doubler()))).ok  # the next one's turn came


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT], ids=["killed", "interrupted"])
def test_a_child_goes_with_its_parent(tmp_path: Path, sent: signal.Signals) -> None:
    path = vetted_files.bundle(tmp_path, vetted_files.endless())
    code = (
        "import signal, sys; from penstock_models.vetting.vet import vet_blocking\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background jobs ignore it
        "vet_blocking(sys.argv[1])"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(path)], stderr=subprocess.DEVNULL) as parent:
        until(lambda: bool(children(parent.pid)))
        (child,) = children(parent.pid)
        try:
            parent.send_signal(sent)
            until(lambda: not child.is_running())
            parent.wait(10)
        finally:
            parent.kill()


def test_an_interrupt_while_the_turn_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted(ThreadPoolExecutor):
        def submit(self, *work: Any, **named: Any) -> Any:
            super().submit(*work, **named)
            raise KeyboardInterrupt

    path = vetted_files.bundle(tmp_path, vetted_files.endless())
    began = time.monotonic()
    with Interrupted(1) as turns:
        monkeypatch.setattr("penstock_models.vetting.vet._turns", turns)
        with pytest.raises(KeyboardInterrupt):
            vet_blocking(path, limits=PATIENT)
    assert children() == [] and time.monotonic() - began < 20  # of the 50 that it may take


def test_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    open_files = len(list(Path("/proc/self/fd").iterdir()))
    for data, limits in ((vetted_files.doubler(), QUICK), (vetted_files.endless(), Limits(wall_s=0.3))):
        vet_blocking(vetted_files.bundle(tmp_path, data), limits=limits)
    assert list((tmp_path / "tmp").iterdir()) == []
    assert len(list(Path("/proc/self/fd").iterdir())) == open_files


def test_the_environment_stays_outside() -> None:
    outer = {
        "AWS_SECRET": "x",
        "PATH": "/bin",
        "CUDA_VISIBLE_DEVICES": "0",
        "PYTHONPATH": "models",
        "LANG": "de",
    }
    inner = environment(outer)
    assert {"PATH", "CUDA_VISIBLE_DEVICES"} <= inner.keys()
    assert not {"AWS_SECRET", "LANG"} & inner.keys()
    assert all(Path(place).is_absolute() for place in inner["PYTHONPATH"].split(os.pathsep))


def test_a_path_that_is_no_text(tmp_path: Path) -> None:
    path = vetted_files.bundle(tmp_path, vetted_files.doubler())
    odd = path.rename(Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.bundle")))
    assert vet_blocking(odd).ok
    odd.write_bytes(b"no bundle")
    assert vet_blocking(odd).reason == "bundle"


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that everybody may read."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="runs as the unprivileged user that it is already")
@pytest.mark.skipif(not shutil.which("setpriv"), reason="no setpriv (util-linux) to give up privileges with")
def test_without_privileges(open_folder: Path) -> None:
    """The same verdicts, with the same limits, as `nobody`."""
    good = vetted_files.bundle(open_folder, vetted_files.doubler(), golden=2.0)
    huge = vetted_files.bundle(open_folder, vetted_files.huge(), name="huge")
    code = (
        "import sys, os; from penstock_models.vetting.vet import vet_blocking as vet\n"
        "from penstock_models.vetting.verdict import Limits\n"
        "print(os.geteuid(), *[(f.reason, f.network) for f in (vet(p, limits=Limits(cpu_s=1)) for p in sys.argv[1:])])"
    )
    # It may read the interpreter, wherever that is installed, and has no other right.
    read = "-all,+dac_read_search"
    rights = [f"--inh-caps={read}", "--ambient-caps=+dac_read_search", f"--bounding-set={read}"]
    words = [sys.executable, "-c", code, str(good), str(huge)]
    done = subprocess.run(
        ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", *rights, *words],
        capture_output=True,
        text=True,
        timeout=50,
        cwd="/",
    )
    assert done.stderr == ""
    user, _, verdicts = done.stdout.strip().partition(" ")
    assert user != "0"
    assert verdicts == f"('', '{network()}') ('memory', '{network()}')"
