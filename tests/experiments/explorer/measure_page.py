"""Times of the page of `parplan explore` with many candidates, in chromium without a window.

    python tests/experiments/explorer/measure_page.py [CANDIDATES] [--keep FOLDER]

Prints, for each way to use the page, milliseconds from the event until the next picture is on the
screen (`first`), and until all charts have followed (`all`), the median and the slowest of some
repetitions, and the processor time of the page for each, which other programs don't change as much.
Candidates are those of one search, again with longer steps until there are enough.
Charts are drawn by software here, without a graphics card.
"""

import argparse
import statistics
import sys
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from parplan.experiments.explorer.job import ExploredJob, searched
from parplan.experiments.explorer.page import page
from parplan.hardware.machines.presets import cluster_preset
from parplan.sim.models.model import model_preset
from parplan.sim.workload import Workload

SOFTWARE_GL = (
    *("--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader"),
    "--enable-unsafe-swiftshader",
)
REPEATED = 5

TIMER = """async (source) => {
  const frames = () => new Promise((done) =>
    requestAnimationFrame(() => requestAnimationFrame(done)));
  const work = new Function("i", source);
  const found = [];
  for (let i = 0; i < %d; i++) {
    await settled();
    await frames();
    const start = performance.now();
    work(i);
    await frames();
    const first = performance.now() - start;
    await settled();
    await frames();
    found.push([first, performance.now() - start]);
  }
  return found;
}"""

WAYS = {
    "filter": "document.querySelectorAll('#filters input')[0].click();",
    "colour": "const s = document.getElementById('colour'); s.selectedIndex = i % s.length;"
    "s.dispatchEvent(new Event('change'));",
    "choose": "document.querySelectorAll('#plans tbody tr')[5 + i].click();",
    "compare": "document.querySelectorAll('#plans tbody button')[1].click();",
    "range": "brush('step', [steps()[0], steps()[100 + 500 * i]]);",
    "landscape axis": "const s = document.getElementById('across'); s.selectedIndex = i % s.length;"
    "s.dispatchEvent(new Event('change'));",
    "dark": "document.getElementById('theme').click();",
    "reset": "document.getElementById('reset').click();",
}

HELPERS = """
window.steps = () => table.step_s.filter((s) => s !== null).sort((a, b) => a - b);
window.brush = (name, range) => { parallel.changed(name, range); };
"""


def many_candidates(count: int) -> ExploredJob:
    """A job with `count` candidates."""
    workload = Workload(model_preset("llama2-7b"), seq_len=1024, global_batch=16)
    job = searched(workload, cluster_preset("8xh100"))
    trials = list(job.trials)
    turn = 1
    while len(trials) < count:
        turn += 1
        trials += [
            replace(trial, step_s=None if trial.step_s is None else trial.step_s * turn**0.1)
            for trial in job.trials
        ]
    return replace(job, trials=tuple(trials[:count]))


class Measured(NamedTuple):
    """Milliseconds of one way to use the page."""

    times: list[tuple[float, float]]
    """To the first picture, to the last one."""
    processor_ms: float


def measured(tab: Any) -> dict[str, Measured]:
    """Times of each way to use an open page."""
    tab.evaluate(HELPERS)
    clock = tab.context.new_cdp_session(tab)
    clock.send("Performance.enable", {"timeDomain": "threadTicks"})
    ways = {n: partial(tab.evaluate, TIMER % REPEATED, source) for n, source in WAYS.items()}
    ways["hover"] = lambda: [_hovered(tab, i) for i in range(REPEATED)]
    found = {}
    for name, work in ways.items():
        before = _processor_ms(clock)
        times = work()
        found[name] = Measured(times, (_processor_ms(clock) - before) / REPEATED)
    return found


def _processor_ms(clock: Any) -> float:
    metrics = clock.send("Performance.getMetrics")["metrics"]
    return next(1e3 * float(m["value"]) for m in metrics if m["name"] == "TaskDuration")


def _hovered(tab: Any, i: int) -> tuple[float, float]:
    """From the mouse on a point until its text is there."""
    x, y = tab.evaluate(
        """(i) => {
          const { left, top } = document.getElementById('points').getBoundingClientRect();
          const [x, y] = points.where({ place: rows[10 * i] });
          return [left + x, top + y];
        }""",
        i,
    )
    tab.mouse.move(5, 5)
    tab.wait_for_timeout(200)
    waits = tab.evaluate_handle(
        """() => { const box = document.getElementById('points');
          const done = new Promise((tell) => box.addEventListener('mousemove', () => {
            const start = performance.now();
            requestAnimationFrame(() => requestAnimationFrame(() => tell(
              box.querySelector('.tip').hidden ? Infinity : performance.now() - start)));
          }, { once: true }));
          return { done }; }"""
    )
    tab.mouse.move(x, y)
    took = float(tab.evaluate("(waits) => waits.done", waits))
    return took, took


def say(line: str) -> None:
    """A line of the output."""
    sys.stdout.write(f"{line}\n")


def main(arguments: list[str]) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("candidates", type=int, nargs="?", default=10_000)
    parser.add_argument("--browser", default="/usr/bin/chromium")
    parser.add_argument("--keep", type=Path, help="folder for the page and a picture of it")
    args = parser.parse_args(arguments)
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as name, sync_playwright() as driver:
        folder = args.keep or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "page.html"
        path.write_text(page(many_candidates(args.candidates), served=False), encoding="utf-8")
        browser = driver.chromium.launch(executable_path=args.browser, args=SOFTWARE_GL)
        tab = browser.new_page(viewport={"width": 1280, "height": 900})
        tab.goto(path.as_uri())
        tab.wait_for_selector("body[data-ready=yes]")
        opened = tab.evaluate("performance.now()")
        say(f"{args.candidates:,} candidates, {path.stat().st_size / 1e6:.1f} MB")
        say(f"opened in {opened / 1e3:.2f} s")
        say(f"{'':16}{'first':>10}{'slowest':>10}{'all':>10}{'slowest':>10}{'processor':>11} [ms]")
        for way, (times, processor_ms) in measured(tab).items():
            columns = [
                f(list(one)) for one in zip(*times, strict=True) for f in (statistics.median, max)
            ] + [processor_ms]
            say(f"{way:16}" + "".join(f"{value:10.0f}" for value in columns))
        if args.keep:
            tab.screenshot(path=str(folder / "page.png"), full_page=True)
        browser.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
