"""The pages of runs in a real browser: drawn, without errors, without network, on large and small screens."""

import io
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from penstock_sim.report.compare import compare
from penstock_sim.report.page import compare_page, report_page
from penstock_sim.run.records import Event
from tests.fakes.browser import DevTools, Tab, browser
from tests.fakes.recorded import FAULTS, mix_second, row, rows, summary, written

pytestmark = [pytest.mark.system, pytest.mark.slow]

HARM = "<script>document.title='harmed'</script><img src=x onerror=\"document.title='harmed'\">"
DRAWN = """new Promise((done) => {
  const seen = () => document.documentElement.dataset.drawn && done(Number(document.documentElement.dataset.drawn));
  new MutationObserver(seen).observe(document.documentElement, { attributes: true }); seen();
})"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """URLs of files: a run, one that was cut off, one with names that mean harm, and two runs compared."""
    folder = tmp_path_factory.mktemp("pages")
    passed = written(folder / "passed", rows(60), closing=summary())
    slower = written(folder / "slower", rows(60, 2, median_ms=50.0), closing=summary())
    cut_off = written(folder / "cut", rows(30))
    harmful = written(
        folder / "harm",
        [row(n, {HARM: mix_second([1.0] * 5, **{HARM: 1})}) for n in range(20)],
        [Event(3.0, HARM, HARM)],
        summary(name=HARM, notes=(HARM,), fates={HARM: {HARM: 1}}),
        scenario=HARM,
    )
    texts = {
        "passed": report_page(passed),
        "cut": report_page(cut_off),
        "harm": report_page(harmful),
        "compared": compare_page(compare(passed, slower), passed, slower),
    }
    for name, text in texts.items():
        (folder / f"{name}.html").write_text(text)
    return {name: (folder / f"{name}.html").as_uri() for name in texts}


@pytest.fixture
async def chromium(tmp_path: Path) -> AsyncIterator[DevTools]:
    async with browser(tmp_path / "profile") as devtools:
        yield devtools


async def drawn(tab: Tab, url: str) -> int:
    """How many lines are drawn, once they are; the page was quiet and asked for nothing but itself."""
    lines = int(await tab.value(DRAWN))
    assert tab.errors == []
    assert [request for request in tab.requests if not request.startswith(("data:", "blob:"))] == [url]
    return lines


async def count(tab: Tab, selector: str) -> int:
    return int(await tab.value(f"document.querySelectorAll({selector!r}).length"))


async def colours(tab: Tab) -> tuple[int, float]:
    """How many colours the page has, and how light it is on the whole (0 to 1)."""
    picture = Image.open(io.BytesIO(await tab.picture())).convert("RGB")
    found = picture.getcolors(1 << 24) or []
    return len(found), float(np.asarray(picture).mean()) / 255


async def fits(tab: Tab, width: int) -> None:
    """Nothing is wider than the screen, and the legend stands beside the plots, or below them where there is no room."""
    assert await tab.value("document.documentElement.scrollWidth") <= width
    legend, axis = [
        await tab.value(f"document.querySelector('.plot {part}').getBoundingClientRect().toJSON()")
        for part in (".legend .bg", ".xtitle")
    ]
    assert legend["right"] <= width
    assert (legend["top"] > axis["bottom"]) is (width < 800)


async def has_bands(tab: Tab) -> None:
    """Each fault is a band with its name on each plot, where it was."""
    assert await count(tab, ".plot .shapelayer path") == 8 * len({event.kind for event in FAULTS})
    labels = await tab.value(
        "[...document.querySelectorAll('.shapelayer text')].map((label) => label.textContent)"
    )
    assert sorted(labels) == ["clock_jump"] * 8 + ["link_cut"] * 8
    expected = await tab.value(
        "[10, 18].map((at) => plot._fullLayout.xaxis.d2p(at) + plot._fullLayout.xaxis._offset)"
    )
    band = await tab.value(
        """(() => { const band = document.querySelector('.shapelayer path').getBoundingClientRect();
        const edge = plot.getBoundingClientRect().left; return [band.left - edge, band.right - edge]; })()"""
    )
    assert band == pytest.approx(expected, abs=1.5)


async def shows_a_moment(tab: Tab) -> None:
    """Pointing at one plot shows the values of all of them."""
    at = await tab.value(
        "(plot.scrollIntoView(), plot.querySelector('.nsewdrag').getBoundingClientRect().toJSON())"
    )
    middle, top = at["left"] + at["width"] / 2, at["top"] + 50
    for step in range(3):
        await tab.say("Input.dispatchMouseEvent", type="mouseMoved", x=middle + step, y=top)
    shown = await tab.value(
        """new Promise((done) => { const layer = document.querySelector('.hoverlayer');
        const seen = () => layer.textContent.includes('connected') && done(layer.textContent);
        new MutationObserver(seen).observe(layer, { childList: true, subtree: true }); seen(); })"""
    )
    for title in ("latency of cam, ms", "latency of vib, ms", "expired: in_queue", "memory, MB"):
        assert title in shown


@pytest.mark.parametrize("width", [1280, 400])
async def test_a_run_is_drawn(chromium: DevTools, pages: dict[str, str], width: int) -> None:
    tab = await chromium.open(pages["passed"], width)
    lines = await drawn(tab, pages["passed"])
    assert lines == 2 * 3 + 3 + 3 + 3 + 3 + 3 + 1
    assert await count(tab, ".scatterlayer .trace:has(path.js-line[d^=M])") == lines
    assert await count(tab, ".plot .cartesianlayer > .subplot") == 8
    assert await count(tab, ".legend .traces") == lines + 8, "each line, and the title of each plot"
    await fits(tab, width)
    await has_bands(tab)
    many, light = await colours(tab)
    assert many > 100 and light > 0.8
    if width == 1280:
        await shows_a_moment(tab)


async def test_the_page_is_dark_where_the_reader_wants_that(
    chromium: DevTools, pages: dict[str, str]
) -> None:
    tab = await chromium.open(pages["passed"], 1280, dark=True)
    await drawn(tab, pages["passed"])
    assert (await colours(tab))[1] < 0.3
    fill = "getComputedStyle(document.querySelector('.plot .xtick text')).fill"
    assert await tab.value(fill) == "rgb(230, 233, 237)"


async def test_names_that_mean_harm_are_text(chromium: DevTools, pages: dict[str, str]) -> None:
    tab = await chromium.open(pages["harm"], 1280)
    assert await drawn(tab, pages["harm"]) > 0
    assert await tab.value("document.title") == f"PASSED: {HARM}"
    assert await count(tab, "img") == 0 and await count(tab, "svg a") == 0
    assert HARM in await tab.value("document.querySelector('h1').textContent")
    legend = await tab.value(
        "[...document.querySelectorAll('.legendtext')].map((entry) => entry.textContent)"
    )
    assert HARM in legend


async def test_a_comparison_and_a_cut_off_run_on_a_small_screen(
    chromium: DevTools, pages: dict[str, str]
) -> None:
    tab = await chromium.open(pages["compared"], 400)
    assert await drawn(tab, pages["compared"]) == 2 * 4 + 4 * 2
    assert await tab.value("document.querySelector('.verdict strong').textContent") == "WORSE"
    await fits(tab, 400)
    tab = await chromium.open(pages["cut"], 400)
    await drawn(tab, pages["cut"])
    await fits(tab, 400)
    assert "INCOMPLETE" in await tab.value("document.querySelector('header').innerText")
    assert await tab.value("document.querySelector('.verdict').getBoundingClientRect().bottom < innerHeight")
