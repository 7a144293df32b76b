"""Our orders are those of torch's schedule classes, and torch's runtime takes our lists."""

from collections.abc import Callable
from pathlib import Path
from unittest.mock import MagicMock

import pytest

pytest.importorskip("torch")
from torch.distributed.pipelining import schedules as torch_schedules
from torch.distributed.pipelining.schedules import _PipelineScheduleRuntime

from parplan.sim.programs.instructions import Program, computations, read_program, write_csv
from parplan.sim.programs.with_messages import add_communication
from parplan.sim.schedules import CATALOGUE, make_program, why_not

MULTI_STAGE = {
    "interleaved-1f1b": "ScheduleInterleaved1F1B",
    "looped-bfs": "ScheduleLoopedBFS",
    "interleaved-zb": "ScheduleInterleavedZeroBubble",
    "zb-v": "ScheduleZBVZeroBubble",
    "dualpipe-v": "ScheduleDualPipeV",
}
ON_TORCH = sorted(name for name, kind in CATALOGUE.items() if kind.one_copy)


def stage(index: int, num_ranks: int, num_stages: int) -> MagicMock:
    """What a schedule asks of a stage before it runs, without a process group."""
    return MagicMock(
        stage_index=index, group_rank=0, group_size=num_ranks, num_stages=num_stages, submod=None
    )


def torch_order(name: str, p: int, m: int, v: int) -> tuple[tuple[str, ...], ...]:
    stages = [stage(i, p, p * v) for i in range(v)]
    schedule = getattr(torch_schedules, name)(stages, m, loss_fn=MagicMock())
    return tuple(tuple(str(a) for a in schedule.pipeline_order[r] if a) for r in range(p))


def texts(program: Program) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(map(str, instructions)) for instructions in program)


@pytest.mark.parametrize("name", MULTI_STAGE)
@pytest.mark.parametrize("p", [1, 2, 3, 4, 5, 8])
def test_orders_of_several_stages_per_rank(name: str, p: int) -> None:
    compared = 0
    for m in (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 16, 17, 24):
        for v in (1, 2, 3):
            if v not in CATALOGUE[name].virtual_stages:
                continue
            if why_not(name, p, m, v):
                with pytest.raises(ValueError, match="micro"):
                    torch_order(MULTI_STAGE[name], p, m, v)
            else:
                expected = torch_order(MULTI_STAGE[name], p, m, v)
                assert texts(make_program(name, p, m, v)) == expected
                compared += 1
    assert compared


@pytest.mark.parametrize("p", [1, 2, 4, 7])
def test_zb_h1_is_the_interleaved_zero_bubble_of_one_stage_per_rank(p: int) -> None:
    for m in (p, 2 * p, 5 * p):
        expected = torch_order("ScheduleInterleavedZeroBubble", p, m, 1)
        assert texts(make_program("zb-h1", p, m)) == expected


@pytest.mark.parametrize(("name", "torch_name"), [("gpipe", "GPipe"), ("1f1b", "1F1B")])
def test_orders_of_one_stage_per_rank(
    name: str, torch_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # These two have no list in torch: run their step and look at what it calls.
    schedule_class = getattr(torch_schedules, f"Schedule{torch_name}")
    monkeypatch.setattr(schedule_class, "_initialize_stage", MagicMock())
    for p, m in [(1, 1), (1, 4), (2, 2), (2, 5), (4, 4), (4, 9), (6, 13)]:
        ran = tuple(tuple(ran_by_step(schedule_class, rank, p, m)) for rank in range(p))
        assert ran == texts(make_program(name, p, m))


def ran_by_step(schedule_class: Callable[..., MagicMock], rank: int, p: int, m: int) -> list[str]:
    ran: list[str] = []
    one = stage(rank, p, p)
    one.is_last = False
    one.forward_one_chunk.side_effect = lambda i, *_, **__: ran.append(f"{rank}F{i}")
    one.backward_one_chunk.side_effect = lambda i, *_, **__: ran.append(f"{rank}B{i}")
    for part in ("fwd", "bwd"):
        for what in ("recv", "send"):
            getattr(one, f"get_{part}_{what}_ops").return_value = []
    schedule_class(one, m, loss_fn=MagicMock())._step_microbatches([()] * m, [{}] * m, [None] * m)
    return ran


def runtime(program: Program, p: int, m: int, v: int, tmp_path: Path, form: str) -> MagicMock:
    path = tmp_path / "schedule.csv"
    path.write_text(write_csv(program))
    stages = [stage(i, p, p * v) for i in range(v)]
    result = _PipelineScheduleRuntime(stages, m, loss_fn=MagicMock())
    result._load_csv(str(path), format=form)
    return result  # type: ignore[no-any-return]


def sizes(name: str) -> list[tuple[int, int, int]]:
    kind = CATALOGUE[name]
    return [
        (p, m, v)
        for p in (1, 2, 4)
        for m in (1, 4, 8, 12)
        for v in (1, 2, 4)
        if v in kind.virtual_stages and not why_not(name, p, m, v)
    ]


@pytest.mark.parametrize("name", ON_TORCH)
def test_the_runtime_takes_our_lists_with_communication(name: str, tmp_path: Path) -> None:
    for p, m, v in sizes(name):
        # Torch's dry run knows neither overlapped pairs nor REDUCE_GRAD.
        plain = add_communication(computations(make_program(name, p, m, v)))
        loaded = runtime(plain, p, m, v, tmp_path, "compute_comms")
        assert texts(plain) == tuple(
            tuple(map(str, loaded.pipeline_order_with_comms[r])) for r in range(p)
        )
        loaded._simulate()
        full = add_communication(make_program(name, p, m, v), reduce_gradients=True)
        runtime(full, p, m, v, tmp_path, "compute_comms")


@pytest.mark.parametrize("name", ON_TORCH)
def test_we_send_and_receive_what_torch_would(name: str, tmp_path: Path) -> None:
    for p, m, v in sizes(name):
        program = make_program(name, p, m, v)
        loaded = runtime(program, p, m, v, tmp_path, "compute_only")
        torch_own = tuple(loaded.pipeline_order_with_comms[r] for r in range(p))
        path = tmp_path / "own.csv"
        loaded._dump_csv(str(path))
        read = read_program(path.read_text())
        assert texts(read) == tuple(tuple(map(str, actions)) for actions in torch_own)
        assert computations(read) == computations(program)
        ours = texts(add_communication(program, reduce_gradients=True))
        kept = [[t for t in row if "SHARD" not in t] for row in texts(read)]
        assert [sorted(row) for row in kept] == [sorted(row) for row in ours]
