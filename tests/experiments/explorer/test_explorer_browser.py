"""The page of `parplan explore` in a real browser: chromium without a window."""

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from parplan.experiments.cli import main
from parplan.experiments.explorer.job import ExploredJob, searched
from parplan.experiments.explorer.page import page as page_text
from parplan.experiments.explorer.server import ExplorerServer
from parplan.hardware.machines.presets import cluster_preset
from parplan.sim.models.model import model_preset
from parplan.sim.workload import Workload
from tests.tools.browser import LONGEST_MS, opened_browser

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def job() -> ExploredJob:
    workload = Workload(model_preset("llama2-7b"), seq_len=1024, global_batch=16)
    return replace(searched(workload, cluster_preset("8xh100")), is_whole=True)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with opened_browser() as found:
        yield found


@pytest.fixture(scope="module")
def url(job: ExploredJob) -> Iterator[str]:
    with ExplorerServer(job) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield server.url
        server.shutdown()
        thread.join(timeout=10)


@pytest.fixture
def opened(browser: Any) -> Iterator[Any]:
    """Opens addresses; in the end the console has to be without errors."""
    errors: list[str] = []
    context = browser.new_context(viewport={"width": 1280, "height": 900}, color_scheme="light")
    context.set_default_timeout(LONGEST_MS)

    def go(address: str, ready: str = "body[data-ready=yes]") -> Any:
        tab = context.new_page()
        tab.on("console", lambda m: errors.append(m.text) if m.type == "error" else None)
        tab.on("pageerror", lambda error: errors.append(str(error)))
        tab.goto(address)
        tab.wait_for_selector(ready)
        return tab

    yield go
    context.close()
    assert errors == []


def state(tab: Any) -> dict[str, Any]:
    found: dict[str, Any] = tab.evaluate("state")
    return found


def test_filter_choose_compare_and_a_link_that_restores_it(url: str, opened: Any, job: Any) -> None:
    tab = opened(url)
    every = len(job.trials)
    assert tab.inner_text("#count").startswith(f"{every:,} of {every:,} candidates")
    first = tab.inner_text("#chosen-words")
    assert first == job.table()["text"][tab.evaluate("fastestPlace")]

    tab.uncheck('#filters input[name="tensor_parallel"][value="1"]')
    left = sum(trial.plan.tensor_parallel > 1 for trial in job.trials)
    assert tab.inner_text("#count").startswith(f"{left:,} of {every:,} candidates")
    assert "TP 1 " not in tab.inner_text("#plans tbody")

    tab.click("#plans tbody tr:nth-child(3) td:nth-child(4)")
    third = tab.inner_text("#plans tbody tr:nth-child(3) td:nth-child(4)")
    assert tab.inner_text("#chosen-words") == third
    tab.wait_for_function("document.getElementById('export').textContent.includes('megatron')")
    tab.click("#plans tbody tr:nth-child(1) button")
    tab.wait_for_selector("#both .bars")
    assert tab.locator("#sides > div").count() == 2
    assert tab.locator("#sides dd.differs").count() >= 2
    tab.select_option("#colour", "zero_stage")

    again = opened(tab.url)
    assert state(again) == state(tab)
    assert again.inner_text("#chosen-words") == third
    assert again.inner_text("#count") == tab.inner_text("#count")
    tab.click("#reset")
    tab.wait_for_function(
        f"document.getElementById('count').textContent.startsWith('{every:,} of')"
    )


def test_a_slider_asks_the_planner_again(url: str, opened: Any) -> None:
    tab = opened(url)
    assert "16 sequences" in tab.inner_text("#about")
    slider = tab.locator('#sliders input[name="global_batch"]')
    slider.focus()
    slider.press("ArrowRight")
    tab.wait_for_function("document.getElementById('about').textContent.startsWith('32 sequences')")
    assert state(tab)["sizes"] == {"global_batch": 32}
    tab.wait_for_function("document.getElementById('chosen-note').textContent.startsWith('step')")
    again = opened(tab.url)
    assert again.inner_text("#about").startswith("32 sequences")


def test_ranges_are_drawn_along_an_axis_and_moved_by_keys(url: str, opened: Any) -> None:
    tab = opened(url)
    axis = tab.locator('.axis[data-name="step"]')
    axis.scroll_into_view_if_needed()
    box = axis.bounding_box()
    low, high = box["y"] + box["height"] - 16, box["y"] + 0.6 * box["height"]
    tab.mouse.move(box["x"] + 18, low)
    tab.mouse.down()
    tab.mouse.move(box["x"] + 18, high, steps=3)
    tab.mouse.up()
    (first, last) = state(tab)["ranges"]["step"]
    inside = f"table.step_s.filter((s) => s !== null && s >= {first} && s <= {last}).length"
    few = tab.evaluate("shown.length")
    assert 0 < few == tab.evaluate(inside) < tab.evaluate("table.step_s.length")
    assert tab.evaluate("table.step_s[fastestPlace]") == pytest.approx(first)
    again = opened(tab.url)
    assert again.evaluate("shown.length") == few
    axis.focus()
    tab.keyboard.press("Escape")
    assert state(tab)["ranges"] == {}

    field = tab.locator('.axis[data-name="tensor_parallel"]')
    field.focus()
    tab.keyboard.press("ArrowDown")
    values = tab.evaluate("table.fields.tensor_parallel.values")
    assert state(tab)["ranges"] == {"tensor_parallel": [values[0], values[-2]]}
    shown = tab.evaluate("shown.map((p) => table.fields.tensor_parallel.of[p])")
    assert max(shown) == len(values) - 2
    said = f"{values[0]} to {values[-2]}"  # drawn after what the range changes first
    tab.wait_for_selector(f'.axis[data-name="tensor_parallel"][aria-valuetext="{said}"]')


def test_mouse_keys_and_dark_mode(url: str, opened: Any) -> None:
    tab = opened(url)
    tab.wait_for_timeout(500)
    where = tab.evaluate(
        """() => {
          const chart = document.getElementById('scatter'), box = chart.getBoundingClientRect();
          const {xaxis, yaxis, _size} = chart._fullLayout;
          return [box.left + xaxis._offset + xaxis.d2p(table.step_s[fastestPlace]),
                  box.top + yaxis._offset + yaxis.d2p(table.memory_gb[fastestPlace])];
        }"""
    )
    tab.mouse.move(*where)
    tab.wait_for_selector("#points .tip:not([hidden])")
    said = tab.inner_text("#points .tip")
    assert "DP" in said
    assert "MFU" in said

    text = tab.evaluate("hover(fastestPlace)")
    assert "the fastest" in text
    assert "GB" in text
    far = tab.evaluate("rows[rows.length - 1]")
    x, y = tab.evaluate(f"points.where({{place: {far}}})")
    box = tab.locator("#points").bounding_box()
    tab.mouse.click(box["x"] + x, box["y"] + y)
    nearest = tab.evaluate(f"points.nearest({x}, {y})")
    tab.wait_for_function(f"state.chosen === {nearest}")
    assert tab.inner_text("#chosen-words") == tab.evaluate(f"table.text[{nearest}]")
    tab.wait_for_selector("#gantt .scatterlayer path")
    tab.wait_for_selector("#memory .scatterlayer path")

    tab.evaluate("choose(rows[0])")
    tab.focus("#plans")
    tab.keyboard.press("ArrowDown")
    tab.wait_for_function("state.chosen === rows[1]")
    tab.keyboard.press("c")
    tab.wait_for_selector("#compare:not([hidden])")
    tab.keyboard.press("Escape")
    tab.wait_for_selector("#compare", state="hidden")
    light = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    tab.keyboard.press("d")
    dark = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert light == "rgb(255, 255, 255)"
    assert sum(int(part) for part in dark[4:-1].split(",")) < 100
    assert tab.get_attribute("#theme", "aria-pressed") == "true"


def test_a_file_works_without_a_server_and_on_a_phone(
    job: ExploredJob, tmp_path: Path, opened: Any
) -> None:
    (tmp_path / "page.html").write_text(page_text(job, served=False), encoding="utf-8")
    tab = opened((tmp_path / "page.html").as_uri())
    assert tab.is_hidden("#sizes")
    tab.wait_for_selector("#gantt .scatterlayer path")
    tab.set_viewport_size({"width": 390, "height": 844})
    tab.wait_for_function("document.documentElement.scrollWidth <= 390")
    tab.click("#plans tbody tr:nth-child(20) td:nth-child(4)")
    tab.wait_for_function("document.getElementById('chosen-note').textContent.includes('fastest')")


def test_the_page_goes_on_to_search_everything(job: ExploredJob, opened: Any) -> None:
    with ExplorerServer(replace(job, is_whole=False)) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        tab = opened(server.url)
        tab.wait_for_function("table.is_whole")
        assert "branch-and-bound" in tab.inner_text("#searched")
        assert tab.evaluate("table.step_s.length") > len(job.trials)
        assert state(tab)["chosen"] == tab.evaluate("fastestPlace")
        tab.evaluate("choose(table.step_s.length - 1)")
        again = opened(tab.url)
        again.wait_for_function("table.is_whole")
        words = tab.inner_text("#chosen-words")
        again.wait_for_function(
            f"document.getElementById('chosen-words').textContent === {json.dumps(words)}"
        )
        server.shutdown()
        thread.join(timeout=10)


def test_a_browser_that_is_too_old_says_so(job: ExploredJob, tmp_path: Path, browser: Any) -> None:
    text = page_text(replace(job, trials=job.trials[:20]), served=False)
    (tmp_path / "page.html").write_text(text.replace("class Parallel {", "class Parallel ?? {"))
    tab = browser.new_page()
    tab.goto((tmp_path / "page.html").as_uri())
    tab.wait_for_selector("#problem:not([hidden])")
    assert "too old" in tab.inner_text("#problem")
    tab.close()


@pytest.mark.long
def test_a_report_holds_the_page_and_its_address_the_state(tmp_path: Path, opened: Any) -> None:
    words = ("plan", "llama2-7b", "--cluster", "8xh100", "--seq-len", "1k", "--global-batch", "16")
    assert main([*words, "-q", "--report", "-o", str(tmp_path / "out")]) == 0
    address = (tmp_path / "out" / "report.html").as_uri()
    page = opened(address, ready="#explorer")
    page.locator("#explorer").scroll_into_view_if_needed()
    inner = page.frame_locator("#explorer")
    inner.locator("body[data-ready=yes]").wait_for()
    assert "Beside it, for this page" in inner.locator("#searched").inner_text()
    inner.locator("#plans tbody tr:nth-child(3) td:nth-child(4)").click()
    third = inner.locator("#chosen-words").inner_text()
    again = opened(page.url, ready="#explorer")
    again.locator("#explorer").scroll_into_view_if_needed()
    other = again.frame_locator("#explorer")
    other.locator("body[data-ready=yes]").wait_for()
    assert other.locator("#chosen-words").inner_text() == third
    again.click("nav a >> nth=0")
    assert other.locator("#problem").is_hidden()


@pytest.mark.long
def test_a_page_that_is_left_open_says_so(job: ExploredJob, browser: Any) -> None:
    context = browser.new_context()
    context.set_default_timeout(LONGEST_MS)
    tab = context.new_page()
    with ExplorerServer(job) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        tab.goto(server.url)
        tab.wait_for_selector("body[data-ready=yes]")
        server.shutdown()
        thread.join(timeout=10)
    slider = tab.locator('#sliders input[name="global_batch"]')
    slider.focus()
    slider.press("ArrowRight")
    tab.wait_for_selector("#problem:not([hidden])")
    assert "parplan explore has ended" in tab.inner_text("#problem")
    context.close()


@pytest.mark.long
def test_a_damaged_link_shows_everything(url: str, opened: Any) -> None:
    for fragment in ("#%7B", "#3", f"#{json.dumps({'hidden': 3, 'chosen': 10**9})}"):
        tab = opened(url + fragment)
        assert tab.evaluate("shown.length") == tab.evaluate("table.step_s.length")
