"""One pipeline over two kinds of accelerators."""

import json
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest

from parplan.errors import ParplanError
from parplan.experiments.cli import main
from parplan.hardware.machines.presets import cluster_preset
from parplan.hardware.network.cluster import Link
from parplan.planners.costs.cost_cache import SharedCosts
from parplan.planners.costs.trial import judge
from parplan.planners.mixed_clusters import MixedLayout, MixedSearch, mixed_search
from parplan.sim.models.model import model_preset
from parplan.sim.software.framework import NO_OVERHEAD
from parplan.sim.workload import Workload

SLOW, FAST = cluster_preset("2xa100-40gb"), cluster_preset("2xh100")
LINK = Link(latency_s=5e-6, bytes_per_s=25e9)
WORKLOAD = Workload(
    model=replace(model_preset("llama3-8b"), num_layers=8),
    seq_len=2048,
    global_batch=8,
    framework=NO_OVERHEAD,
)


def test_faster_accelerators_get_more_blocks_and_no_division_is_much_faster() -> None:
    search = MixedSearch(WORKLOAD, [SLOW, FAST], LINK)
    report = mixed_search(search)
    best = report.best
    assert best is not None
    layers = dict.fromkeys(best.parts, 0)
    for name, count in zip(best.parts, best.plan.stage_layers or (), strict=True):
        layers[name] += count
    assert layers["2xh100"] > layers["2xa100-40gb"]
    assert sum(layers.values()) == 8
    assert report.least_s <= (best.step_s or 0.0)
    stages = best.plan.num_stages
    every = [s for s in product(range(1, 9), repeat=stages) if sum(s) == 8]
    steps = [search.trial(best.layout, split, 0.0).step_s for split in every]
    assert (best.step_s or 0.0) <= 1.02 * min(s for s in steps if s is not None)
    # The bound holds for every division.
    bound_s = search.bound_s(best.layout)
    assert all(s is None or s >= bound_s for s in steps)


def test_two_equal_parts_are_one_cluster_but_for_the_link() -> None:
    """With the link that is there anyway, steps and memory are those of the whole."""
    one = cluster_preset("16xa100-80gb")
    node = cluster_preset("8xa100-80gb")
    wide = one.tiers[-1].link
    search = MixedSearch(WORKLOAD, [node, replace(node, name="other")], wide)
    shared = SharedCosts(WORKLOAD, one)
    tried = 0
    for layout in search.layouts():
        if layout.plan.num_stages != 2 or layout.plan.data_parallel not in (2, 8):
            continue
        plan = layout.plan
        whole = judge(WORKLOAD, one, 0.8, plan)
        trial = search.trial(layout, plan.layers_of_stages(8), 0.0)
        assert trial.memory_bytes == whole.memory_bytes
        if whole.fits:
            (timed,) = shared.timed([whole])
            assert trial.step_s == pytest.approx(timed.step_s, rel=1e-9)
            tried += 1
    assert tried > 10


def test_each_part_is_held_to_its_own_memory() -> None:
    search = MixedSearch(WORKLOAD, [SLOW, FAST], LINK, memory_ratio=0.5)
    layout = next(iter(x for x in search.layouts() if x.plan.num_stages == 2 and x.order == (0, 1)))
    plan = replace(layout.plan, recomputation="none", num_micro_batches=8, batch_per_device=1)
    plain = MixedLayout(layout.order, layout.stages, plan)
    tight = search.trial(plain, (7, 1), 0.0)
    assert "stage 0 on a100-sxm-40gb" in tight.reason
    assert tight.step_s is None


def test_what_cannot_be_mixed() -> None:
    with pytest.raises(ParplanError, match="at least two"):
        MixedSearch(WORKLOAD, [SLOW], LINK)
    odd = replace(WORKLOAD, model=replace(WORKLOAD.model, num_layers=1))
    with pytest.raises(ParplanError, match="do not divide over 2xa100-40gb"):
        mixed_search(MixedSearch(odd, [SLOW, FAST], LINK))


def test_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    request = ["plan", "gpt3-1.3b", "--seq-len", "1024", "--global-batch", "4"]
    assert main([*request, "--cluster", "2xa100-40gb+2xh100", "--between", "25:5"]) == 0
    err = capsys.readouterr().err
    assert "2xh100: layers of its stages: " in err
    assert "can be gained (gap)" in err
    found = json.loads(Path("out/plan/mixed.json").read_text())
    assert {s["cluster"] for s in found["stages"]} == {"2xa100-40gb", "2xh100"}
    for options, message in (
        (("--cluster", "2xh100+2xh100"), "names one twice"),
        (("--cluster", "2xa100-40gb+2xh100", "--between", "fast"), "expected GB/s:us"),
        (("--cluster", "2xa100-40gb+2xh100", "--planner", "random"), "--planner: not with several"),
        (("--cluster", "2xa100-40gb+2xh100", "--objective", "cost"), "only step-time"),
    ):
        assert main([*request, *options]) == 2
        assert message in capsys.readouterr().err
