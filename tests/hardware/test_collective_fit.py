"""The fit of collectives: it finds what is there, keeps to its split, and is what is shipped."""

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from parplan.errors import ParplanError
from parplan.experiments.cli import main
from parplan.experiments.fits.collective_data import SWEEPS, Sweep, read_sweeps, split
from parplan.experiments.fits.collective_fit import (
    BLOCKS,
    Constants,
    cross_validated_errors,
    fit,
    predicted_s,
    relative_errors,
    with_constants,
)
from parplan.experiments.fits.collective_report import bandwidth_figure, median_error, rounded
from parplan.hardware.collectives.group import group_of
from parplan.hardware.collectives.times import LIBRARY, PROTOCOLS, Collective, collective_s
from parplan.hardware.machines.presets import cluster_preset
from parplan.hardware.network.collective_efficiency import (
    EFFICIENCIES,
    PLAIN,
    CollectiveEfficiency,
    EfficiencyTable,
    read_efficiencies,
)

TRUE = CollectiveEfficiency(
    launch_us=15,
    step_latencies=1.5,
    bandwidth_share=0.95,
    ramp_bytes=8e6,
    ramp_power=0.6,
    low_latency_step_latencies=0.5,
    low_latency_share=0.2,
    all_to_all_share=0.8,
)
A100 = "nvlink3-switch"
ONE_BLOCK = [block for block in BLOCKS if A100 in block.free]


def synthetic(num_ranks: int, op: str = "all_reduce") -> Sweep:
    sweep = Sweep(
        id=f"{op} {num_ranks}",
        hardware="a100",
        op=op,
        group=group_of(cluster_preset("dgx-a100"), range(num_ranks)),
        inside_class=A100,
        across_class=None,
        algorithms=LIBRARY,
        protocols=PROTOCOLS,
        host_timed=False,
        num_bytes=tuple(2.0**power for power in range(12, 33)),
        seconds=(),
    )
    return replace(sweep, seconds=tuple(predicted_s(sweep, Constants(classes={A100: TRUE}))))


def test_a_fit_recovers_the_constants_that_made_the_data() -> None:
    sweeps = [*(synthetic(n) for n in range(2, 9)), synthetic(4, "all_to_all")]
    found = fit(sweeps, ONE_BLOCK).classes[A100]
    for name, value in asdict(TRUE).items():
        if value is not None:
            assert getattr(found, name) == pytest.approx(value, rel=0.1), name
    assert cross_validated_errors(sweeps[:3], ONE_BLOCK).keys() == {s.id for s in sweeps[:3]}


def test_one_disturbed_measurement_does_little() -> None:
    sweeps = [synthetic(n) for n in range(2, 9)]
    slow = list(sweeps[0].seconds)
    slow[10] *= 10
    disturbed = [replace(sweeps[0], seconds=tuple(slow)), *sweeps[1:]]
    found = fit(disturbed, ONE_BLOCK, num_starts=2)
    assert np.median(relative_errors(sweeps[0], found)) < 0.02


def test_the_fit_plays_the_same_model_as_the_planner() -> None:
    for sweep in (synthetic(8), synthetic(4, "all_to_all")):
        constants = Constants(classes={A100: TRUE})
        group = with_constants(sweep, constants)
        for num_bytes, seconds in zip(sweep.num_bytes, predicted_s(sweep, constants), strict=True):
            asked = Collective(op=sweep.op, num_bytes=num_bytes)
            assert collective_s(asked, group) == pytest.approx(seconds)


@pytest.fixture(scope="module")
def classes() -> dict[str, EfficiencyTable]:
    return read_efficiencies()


@pytest.fixture(scope="module")
def sweeps(classes: dict[str, EfficiencyTable]) -> list[Sweep]:
    return read_sweeps(SWEEPS, classes)[0]


@pytest.fixture(scope="module")
def constants(sweeps: list[Sweep]) -> Constants:
    return fit([sweep for sweep in sweeps if sweep.part == "fit"])


def test_parts_do_not_overlap(sweeps: list[Sweep]) -> None:
    points = [(sweep.id, size) for sweep in sweeps for size in sweep.num_bytes]
    assert len(points) == len(set(points))
    whole = {sweep.id for sweep in sweeps if sweep.part in ("held out", "transfer")}
    assert not whole & {sweep.id for sweep in sweeps if sweep.part in ("fit", "interpolated")}


def test_the_split_depends_on_names_alone(sweeps: list[Sweep]) -> None:
    made = [synthetic(n) for n in range(2, 9)]
    other = [replace(s, seconds=tuple(2 * x for x in s.seconds)) for s in reversed(made)]
    parts = [(s.id, s.part) for s in split(made)]
    assert parts == [(s.id, s.part) for s in split(other)]
    assert sum(part == "held out" for _, part in parts) == len(made) // 3


def test_every_sweep_is_used_or_says_why_not(
    sweeps: list[Sweep], classes: dict[str, EfficiencyTable]
) -> None:
    unusable = read_sweeps(SWEEPS, classes)[1]
    ids = {json.loads(line)["id"] for line in SWEEPS.read_text().splitlines()}
    assert {sweep.id for sweep in sweeps} | set(unusable) == ids
    assert not {sweep.id for sweep in sweeps} & set(unusable)


def test_shares_of_a_known_bandwidth_are_sweeps(sweeps: list[Sweep]) -> None:
    """Of 400 GB/s, by SimAI's file: more nodes need longer messages for the same share."""
    whole = {s.id: s for s in sweeps if s.hardware.startswith("Alibaba")}
    assert sorted(whole) == [f"coll-0{number}" for number in range(50, 57)]
    few = whole["coll-050"]
    assert few.op == "all_gather"
    size, seconds = few.num_bytes[-1], few.seconds[-1]
    assert seconds == pytest.approx(15 / 16 * size / (0.96 * 400e9))
    at = [s.num_bytes.index(536870912) for s in whole.values()]
    times = [s.seconds[i] for s, i in zip(whole.values(), at, strict=True)]
    assert times == sorted(times)
    assert all(sweep.protocols == ("simple",) for sweep in whole.values())


def test_errors_on_sweeps_that_were_not_fitted(sweeps: list[Sweep], constants: Constants) -> None:
    for part in ("held out", "interpolated"):
        own = [sweep for sweep in sweeps if sweep.part == part]
        long, num_long = median_error(own, constants, long=True)
        short, num_short = median_error(own, constants, long=False)
        assert num_long > 20
        assert num_short >= 5
        assert long is not None
        assert short is not None
        assert long <= 0.10
        assert short <= 0.25
        if part == "held out":
            readme = (Path(__file__).parents[2] / "README.md").read_text()
            shown = f"within {100 * long:.0f} % from 1 MiB on, and {100 * short:.0f} % below"
            assert shown in " ".join(readme.split())


def test_the_picture_shows_measured_and_model(sweeps: list[Sweep], constants: Constants) -> None:
    figure = bandwidth_figure(sweeps, constants)
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert {axes.get_ylabel() for axes in shown} == {"bus bandwidth [GB/s]"}
    assert {axes.get_xlabel() for axes in shown} == {"size [bytes]"}
    assert all(len(axes.lines) > 2 for axes in shown)


def test_the_command_writes_what_is_shipped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], classes: dict[str, EfficiencyTable]
) -> None:
    written = tmp_path / "constants.toml"
    output = tmp_path / "results"
    words = ["hardware", "fit-collectives", "--write", str(written), "-o", str(output)]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "held out" in out
    assert "message size not stated" in out
    assert {path.name for path in output.iterdir()} == {
        "collectives.png",
        "errors.csv",
        "manifest.json",
    }
    again = read_efficiencies(written)
    assert list(again) == list(classes)
    for name, table in classes.items():
        assert again[name].source == table.source
        assert _values(again[name]) == pytest.approx(_values(table), rel=0.01)
    assert written.read_text().splitlines()[:5] == EFFICIENCIES.read_text().splitlines()[:5]


def _values(table: EfficiencyTable) -> dict[str, float]:
    return {name: v for name, v in asdict(table.constants).items() if v is not None}


def test_only_fitted_sweeps_are_named_as_sources(
    sweeps: list[Sweep], classes: dict[str, EfficiencyTable]
) -> None:
    fitted = {sweep.id for sweep in sweeps if sweep.part == "fit"}
    named = {sweep for t in classes.values() for sweep in re.findall(r"coll-\d+", t.source)}
    assert named == fitted


@pytest.mark.parametrize(
    ("cluster", "tier", "expected"),
    [
        ("8xh100", 0, "nvlink4-switch"),
        ("4xdgx-a100", 0, "nvlink3-switch"),
        ("4xdgx-a100", 1, "infiniband"),
        ("2xaws-p6-b200", 1, "efa"),
        ("hgx-h800", 0, "nvlink4-switch"),
        ("dgx-1-v100", 0, "nvlink2-mesh"),
        ("mi355x-8", 0, "xgmi-mesh"),
        ("pcie4-8", 0, None),
        ("16xtpu-v4", 0, None),
    ],
)
def test_the_constants_are_on_the_tiers_of_a_cluster(
    cluster: str, tier: int, expected: str | None, classes: dict[str, EfficiencyTable]
) -> None:
    constants = PLAIN if expected is None else classes[expected].constants
    assert cluster_preset(cluster).tiers[tier].collectives == constants


def test_numbers_are_rounded_as_written() -> None:
    assert [rounded(x) for x in (1.23456, 123456.0, 0.000123456)] == [1.235, 123500.0, 0.0001235]


def _refused(text: str, message: str, path: Path, known: dict[str, EfficiencyTable]) -> None:
    path.write_text(text)
    with pytest.raises(ParplanError, match=message):
        read_sweeps(path, known)


def test_malformed_sweeps_are_refused_by_line(
    tmp_path: Path, classes: dict[str, EfficiencyTable]
) -> None:
    path = tmp_path / "sweeps.jsonl"
    line = json.loads(SWEEPS.read_text().splitlines()[0])
    cases: Sequence[tuple[dict[str, object], str]] = (
        ({**line, "hardware": "abacus"}, "sweeps.jsonl:1: 'abacus' is not in"),
        ({**line, "ranks": 8}, "sweeps.jsonl:1: unknown key 'ranks'"),
        ({**line, "op": "gossip"}, "sweeps.jsonl:1: collective 'gossip'"),
        ({**line, "n_accelerators": 9}, "sweeps.jsonl:1: 9 ranks in 1 nodes of 8"),
    )
    for table, message in cases:
        _refused(json.dumps(table), message, path, classes)
    _refused("{", "sweeps.jsonl:1: not valid JSON", path, classes)
    with pytest.raises(ParplanError, match=r"no\.jsonl: cannot be read"):
        read_sweeps(tmp_path / "no.jsonl", classes)


def test_malformed_constants_are_refused_by_key(tmp_path: Path) -> None:
    path = tmp_path / "constants.toml"
    text = EFFICIENCIES.read_text()
    for old, new, message in (
        ("launch_us = ", "lunch_us = ", "unknown key 'lunch_us'"),
        ("launch_us = ", "launch_us = -", "launch_us: must not be negative"),
        ('"nvswitch"', '"string"', "fabrics: 'string' is not one of"),
        ("bandwidth_share = 1.017", "bandwidth_share = 0", "bandwidth_share: must be positive"),
    ):
        assert old in text
        path.write_text(text.replace(old, new, 1))
        with pytest.raises(ParplanError, match=message):
            read_efficiencies(path)
