"""Profiles: read strictly, looked up honestly, compared and planned for."""

import dataclasses
import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parplan.backend.calibration.this_machine import machine_here
from parplan.errors import ParplanError
from parplan.experiments.arguments.workload import PROFILE
from parplan.hardware.estimates.kernel_times import estimate, kernel_s
from parplan.hardware.estimates.profile import (
    CollectiveCall,
    Machine,
    MeasuredCollective,
    MeasuredKernel,
    MeasuredLayer,
    MeasuredOptimizer,
    Profile,
    Timing,
)
from parplan.hardware.estimates.profile_compare import agreements, compared
from parplan.hardware.estimates.profile_file import check_machine, read_profile, write_profile
from parplan.hardware.estimates.profile_lookup import profile_index
from parplan.hardware.kernels.accelerator import Accelerator, DenseRates
from parplan.hardware.kernels.kernel import Attention, Gemm, Kernel, MemoryBound
from parplan.hardware.machines.from_profile import cluster_of_profile
from tests.commands import parplan

MACHINE = Machine(
    device="some processor",
    device_kind="cpu",
    num_processes=2,
    cores=2,
    threads_per_process=1,
    memory_bytes=2**33,
    backend="gloo",
    torch="2.13.0",
    python="3.11.7",
)

SIZES = (64, 256, 1024)


def timing(seconds: float, spread_s: float = 0.0) -> Timing:
    return Timing(seconds=seconds, spread_s=spread_s, samples=3)


def profile_of(times: dict[Kernel | CollectiveCall, float], **rest: object) -> Profile:
    return Profile(
        machine=MACHINE,
        date="2026-01-01T00:00:00+00:00",
        kernels=tuple(
            MeasuredKernel(kernel=k, timing=timing(s))
            for k, s in times.items()
            if not isinstance(k, CollectiveCall)
        ),
        collectives=tuple(
            MeasuredCollective(collective=c, timing=timing(s))
            for c, s in times.items()
            if isinstance(c, CollectiveCall)
        ),
        **rest,  # type: ignore[arg-type]
    )


def gemm(m: int, n: int, k: int, **rest: object) -> Gemm:
    return Gemm(m=m, n=n, k=k, dtype="fp32", **rest)  # type: ignore[arg-type]


def send(num_bytes: int, ranks: int = 2) -> CollectiveCall:
    return CollectiveCall(op="send", num_bytes=num_bytes, num_ranks=ranks, ranks_per_node=ranks)


GRID = {
    gemm(m, n, k): 1e-5 + 2.0 * m * n * k / (1e10 + 1e8 * (m * n) ** 0.5)
    for m in SIZES
    for n in SIZES
    for k in SIZES
}

SAMPLE = profile_of(
    {
        **GRID,
        MemoryBound(num_bytes=2.0**20): 1e-4,
        Attention(
            batch=1, heads=4, kv_heads=4, query_len=64, key_len=64, head_size=64, dtype="bf16"
        ): 1e-4,
        send(1024): 1e-4,
        send(2**20): 1e-3,
    },
    layers=(
        MeasuredLayer(
            model="gpt-tiny",
            layer="block",
            micro_batch=4,
            seq_len=64,
            precision="fp32",
            recomputation="none",
            forward_s=1e-3,
            spread_forward_s=1e-5,
            backward_s=2e-3,
            spread_backward_s=0.0,
            samples=6,
        ),
    ),
    optimizer=MeasuredOptimizer(num_parameters=1000, timing=timing(1e-5, 1e-6)),
)

counts = st.integers(1, 2**40)
seconds = st.floats(1e-12, 1e6)
dtypes = st.sampled_from(("fp32", "tf32", "fp16", "bf16", "fp8"))
timings = st.builds(Timing, seconds=seconds, spread_s=st.floats(0, 1e6), samples=counts)
kernels = st.one_of(
    st.builds(
        Gemm,
        m=counts,
        n=counts,
        k=counts,
        dtype=dtypes,
        batch=counts,
        transposed=st.sampled_from(("NN", "TN", "NT")),
        accumulate=st.booleans(),
    ),
    st.builds(
        Attention,
        batch=counts,
        heads=counts,
        kv_heads=counts,
        query_len=counts,
        key_len=counts,
        head_size=counts,
        dtype=dtypes,
    ),
    st.builds(MemoryBound, num_bytes=st.floats(1, 1e15)),
)
profiles = st.builds(
    Profile,
    machine=st.just(MACHINE),
    date=st.text(st.characters(exclude_categories=["C", "Z"])),
    kernels=st.lists(
        st.builds(MeasuredKernel, kernel=kernels, timing=timings), unique_by=lambda m: m.kernel
    ).map(tuple),
    collectives=st.lists(
        st.builds(
            MeasuredCollective,
            collective=st.builds(
                CollectiveCall,
                op=st.sampled_from(("all_reduce", "broadcast", "send")),
                num_bytes=counts,
                num_ranks=st.integers(8, 64),
                ranks_per_node=st.integers(1, 8),
            ),
            timing=timings,
        ),
        unique_by=lambda m: m.collective,
    ).map(tuple),
    optimizer=st.none() | st.builds(MeasuredOptimizer, num_parameters=counts, timing=timings),
)


@given(profile=profiles)
def test_a_written_profile_is_read_as_it_was(
    profile: Profile, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("profile") / "profile.json"
    write_profile(profile, path)
    assert read_profile(path) == profile


def refused(tmp_path: Path, change) -> str:
    """The message for the sample's file after `change(table)`."""
    path = tmp_path / "profile.json"
    write_profile(SAMPLE, path)
    table = json.loads(path.read_text())
    change(table)
    path.write_text(json.dumps(table))
    with pytest.raises(ParplanError) as caught:
        read_profile(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message.removeprefix(f"{path}: ")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("parplan_profile"), "not a profile"),
        (lambda t: t.update(parplan_profile=2), "not a profile: expected 'parplan_profile': 1"),
        (lambda t: t.update(extra=1), "profile: unknown key 'extra'"),
        (lambda t: t.pop("machine"), "profile: missing key 'machine'"),
        (lambda t: t["machine"].update(cores="2"), "profile.machine.cores: expected int"),
        (lambda t: t["machine"].update(cores=0), "profile.machine: cores: must be at least 1"),
        (lambda t: t["machine"].update(backend="mpi"), "profile.machine.backend: 'mpi' is not"),
        (
            lambda t: t["kernels"][3]["timing"].update(seconds=-1.0),
            "profile.kernels[3].timing: seconds: must be positive, got -1.0",
        ),
        (
            lambda t: t["kernels"][3]["timing"].update(spread_s=-1.0),
            "profile.kernels[3].timing: spread_s: must not be negative",
        ),
        (
            lambda t: t["kernels"][3]["timing"].update(seconds=float("nan")),
            "not valid JSON: NaN is no number of JSON",
        ),
        (lambda t: t["kernels"][0]["gemm"].update(dtype="fp23"), "unknown data type 'fp23'"),
        (lambda t: t["kernels"][0]["gemm"].update(m=0), "m: must be at least 1, got 0"),
        (lambda t: t["kernels"][0].pop("gemm"), "profile.kernels[0]: expected one of gemm,"),
        (lambda t: t["kernels"].append(t["kernels"][0]), "profile.kernels: measured twice"),
        (
            lambda t: t["collectives"][0]["collective"].update(op="gather"),
            "profile.collectives[0].collective.op: 'gather' is not one of",
        ),
        (
            lambda t: t["collectives"][0]["collective"].update(num_ranks=1),
            "num_ranks: must be at least 2",
        ),
        (
            lambda t: t["layers"][0].update(backward_s=-2),
            "profile.layers[0]: backward_s: must be positive, got -2.0",
        ),
        (lambda t: t["optimizer"].pop("timing"), "profile.optimizer: missing key 'timing'"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(tmp_path: Path, change, message: str) -> None:
    assert message in refused(tmp_path, change)


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    write_profile(SAMPLE, path)
    content = path.read_text()
    for end in random.Random(0).sample(range(len(content) - 2), 20):
        path.write_text(content[:end])
        with pytest.raises(ParplanError, match="not valid JSON"):
            read_profile(path)


def test_a_profile_of_another_machine_is_refused_and_of_another_set_up_warned_about() -> None:
    assert check_machine(SAMPLE, MACHINE, "p.json") == []
    other = dataclasses.replace(MACHINE, torch="2.12.0", cores=4)
    first, second = check_machine(SAMPLE, other, "p.json")
    assert first.startswith("p.json: machine.cores: 2, here 4")
    assert second.startswith("p.json: machine.torch: '2.13.0', here '2.12.0'")
    with pytest.raises(ParplanError, match=r"p\.json: machine\.device: 'some processor', here 'H'"):
        check_machine(SAMPLE, dataclasses.replace(MACHINE, device="H"), "p.json")


def test_a_measured_point_is_looked_up_as_it_is() -> None:
    index = profile_index(SAMPLE)
    for measured in SAMPLE.kernels:
        found = index.kernel(measured.kernel)
        assert found is not None
        assert (found.seconds, found.origin) == (measured.timing.seconds, "measured")
    for measured in SAMPLE.collectives:
        found = index.collective(measured.collective)
        assert found is not None
        assert (found.seconds, found.origin) == (measured.timing.seconds, "measured")


@given(times=st.lists(seconds, min_size=2, max_size=6, unique=True), data=st.data())
def test_between_two_sizes_the_time_lies_between_theirs(times: list[float], data) -> None:
    points = {MemoryBound(num_bytes=4.0**i): s for i, s in enumerate(sorted(times), start=5)}
    sizes, found = list(points), list(points.values())
    left = data.draw(st.integers(0, len(sizes) - 2))
    num_bytes = data.draw(st.floats(sizes[left].num_bytes, sizes[left + 1].num_bytes))
    answer = profile_index(profile_of(points)).kernel(MemoryBound(num_bytes=num_bytes))
    assert answer is not None
    assert answer.origin in ("measured", "interpolated")
    assert found[left] * (1 - 1e-9) <= answer.seconds <= found[left + 1] * (1 + 1e-9)


@given(m=st.integers(64, 1024), n=st.integers(64, 1024), k=st.integers(64, 1024))
def test_inside_the_grid_a_product_lies_between_the_corners_of_its_cell(
    m: int, n: int, k: int
) -> None:
    low = gemm(*(max(s for s in SIZES if s <= x) for x in (m, n, k)))
    high = gemm(*(min(s for s in SIZES if s >= x) for x in (m, n, k)))
    answer = profile_index(SAMPLE).kernel(gemm(m, n, k))
    assert answer is not None
    assert answer.origin == ("measured" if gemm(m, n, k) in GRID else "interpolated")
    assert GRID[low] * (1 - 1e-9) <= answer.seconds <= GRID[high] * (1 + 1e-9)


@pytest.mark.parametrize(
    ("kernel", "nearest"),
    [
        (gemm(4096, 1024, 1024), gemm(1024, 1024, 1024)),
        (gemm(1024, 1024, 8192), gemm(1024, 1024, 1024)),
        (gemm(256, 256, 256, batch=8), gemm(256, 256, 256)),
        (gemm(256, 256, 256, transposed="NN"), gemm(256, 256, 256)),
        (gemm(256, 256, 256, accumulate=True), gemm(256, 256, 256)),
    ],
)
def test_outside_the_nearest_efficiency_holds_and_the_answer_says_so(
    kernel: Gemm, nearest: Gemm
) -> None:
    answer = profile_index(SAMPLE).kernel(kernel)
    assert answer is not None
    assert answer.origin == "extrapolated"
    assert answer.seconds == pytest.approx(GRID[nearest] * kernel.flops / nearest.flops)


def test_nothing_is_shorter_than_the_shortest_that_was_seen() -> None:
    index = profile_index(SAMPLE)
    tiny, message = index.kernel(gemm(1, 1, 1)), index.collective(send(4))
    assert tiny is not None
    assert message is not None
    assert tiny.seconds == min(GRID.values())
    assert message.seconds == 1e-4


def test_without_data_of_its_kind_the_model_decides() -> None:
    index = profile_index(SAMPLE)
    device = Accelerator(
        name="device",
        peak_flop_per_s=DenseRates(fp32=1e12, bf16=2e12),
        memory_bytes=2**30,
        hbm_bytes_per_s=1e11,
        gemm_efficiency=0.5,
        hbm_efficiency=0.5,
        kernel_launch_s=1e-6,
    )
    kernel = Gemm(m=256, n=256, k=256, dtype="bf16")
    assert index.kernel(kernel) is None
    found = estimate(device, index, kernel)
    assert (found.seconds, found.origin) == (kernel_s(device, kernel), "modelled")
    assert estimate(device, index, gemm(256, 256, 256)).origin == "measured"
    reduce = CollectiveCall(op="all_reduce", num_bytes=4, num_ranks=2, ranks_per_node=2)
    assert index.collective(reduce) is None


def test_collectives_of_more_ranks_keep_the_bus_bandwidth() -> None:
    def all_reduce(num_bytes: int, ranks: int) -> CollectiveCall:
        return CollectiveCall(
            op="all_reduce", num_bytes=num_bytes, num_ranks=ranks, ranks_per_node=ranks
        )

    index = profile_index(profile_of({all_reduce(2**20, 2): 1e-3, all_reduce(2**24, 2): 1e-2}))
    more = index.collective(all_reduce(2**24, 4))
    assert more is not None
    assert more.origin == "extrapolated"
    assert more.seconds == pytest.approx(1e-2 * 2 * 3 / 4)


def test_agreement_counts_overlapping_intervals() -> None:
    def with_times(first: float, second: float) -> Profile:
        return dataclasses.replace(
            SAMPLE,
            kernels=(
                MeasuredKernel(kernel=gemm(1, 1, 1), timing=timing(first, 0.1)),
                MeasuredKernel(kernel=MemoryBound(num_bytes=8.0), timing=timing(second, 0.1)),
            ),
            collectives=(),
            layers=(),
            optimizer=None,
        )

    *kinds, everything = agreements(compared(with_times(1.0, 1.0), with_times(1.15, 1.25)))
    assert [(k.kind, k.agree) for k in kinds] == [("gemm fp32", 1), ("memory-bound", 0)]
    assert (everything.compared, everything.agree) == (2, 1)
    assert everything.difference == pytest.approx(0.2)


def test_the_machine_of_a_profile_can_be_planned_for(tmp_path: Path) -> None:
    cluster = cluster_of_profile(SAMPLE)
    best = max(k.flops / s for k, s in GRID.items())
    assert cluster.accelerator.peak_flop_per_s.fp32 == best
    assert cluster.accelerator.peak_flop_per_s.bf16 is None
    assert cluster.num_accelerators == 2
    assert cluster.link_between(0, 1).latency_s == 1e-4
    write_profile(SAMPLE, tmp_path / "profile.json")
    words = ("plan", "gpt-tiny", "--seq-len", "64", "--global-batch", "16")
    words = (*words, "--no-mixed-precision", "--space", "full")
    outputs = []
    for given_as in (("--profile", "profile.json"), ("--cluster", "here")):
        if "here" in given_as:
            write_profile(dataclasses.replace(SAMPLE, machine=machine_here(2)), tmp_path / PROFILE)
        done = parplan(*words, *given_as, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        plan = json.loads((tmp_path / "out" / "plan" / "plan.json").read_text())
        outputs.append(plan["predicted"])
    assert outputs[0] == outputs[1]
    done = parplan("simulate", "out/plan/plan.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"device": "another processor"},
            "profile.json: machine.device: 'another processor', here",
        ),
        ({"num_processes": 4096}, "profile.json: machine.num_processes: 4096, more than the cores"),
    ],
)
def test_a_profile_of_another_machine_is_not_here(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    other = dataclasses.replace(machine_here(2), **change)
    write_profile(dataclasses.replace(SAMPLE, machine=other), tmp_path / PROFILE)
    words = ("plan", "gpt-tiny", "--seq-len", "64", "--global-batch", "16")
    done = parplan(*words, "--cluster", "here", cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "--cluster or --profile: one of them is needed"),
        (("--cluster", "here"), "there is no profile.json; parplan calibrate makes it"),
        (("--cluster", "8xh100", "--profile", "p.json"), "leave out --cluster 8xh100"),
        (("--profile", "p.json"), "p.json: cannot be read: No such file or directory"),
    ],
)
def test_a_missing_profile_is_one_line(tmp_path: Path, words, message: str) -> None:
    done = parplan(
        *("plan", "gpt-tiny", "--seq-len", "64", "--global-batch", "16"), *words, cwd=tmp_path
    )
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_profiles_are_compared_on_the_command_line(tmp_path: Path) -> None:
    write_profile(SAMPLE, tmp_path / "a.json")
    slower = dataclasses.replace(
        SAMPLE,
        kernels=tuple(
            dataclasses.replace(m, timing=timing(2 * m.timing.seconds)) for m in SAMPLE.kernels
        ),
    )
    write_profile(slower, tmp_path / "b.json")
    done = parplan("hardware", "compare-profiles", "a.json", "b.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = {line.split("  ")[0]: line.split() for line in done.stdout.splitlines()}
    assert rows["gemm fp32"][2:5] == ["27", "0", "0%"]
    assert "+100.0%" in rows["gemm fp32"]
    assert rows["send"][1:3] == ["2", "2"]
