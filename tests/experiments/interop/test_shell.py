"""Launch scripts are read by the grammar of the shell, branch by branch, and never executed."""

from pathlib import Path

import pytest

from parplan.errors import ParplanError
from parplan.experiments.interop.importers.from_megatron import from_megatron
from parplan.experiments.interop.importers.imported import Given, ImportedSettings
from parplan.experiments.interop.reading.sources import SOURCES
from parplan.experiments.interop.shell.launch_text import Flags, processes, read_flags

SIZES = "--num-layers 4 --hidden-size 64 --num-attention-heads 4 --seq-length 32 --vocab-size 128"


def flags_of(text: str, **variables: str) -> Flags:
    return read_flags(text, "launch", variables)


@pytest.mark.parametrize(
    ("text", "name", "words"),
    [
        ("TP=4 # was 2 \\\npython pretrain.py --x $TP", "--x", ["4"]),
        ("A=1; B=2\npython pretrain.py --x $A$B", "--x", ["12"]),
        ('ARGS=(--a 1)\nARGS+=("--x 2")\npython pretrain.py ${ARGS[@]}', "--x", ["2"]),
        ('A="--a 1"\nA+=" --x 3"\npython pretrain.py $A', "--x", ["3"]),
        ("python pretrain.py --x ${N:-2}", "--x", ["2"]),
        (": ${N:=5}\npython pretrain.py --x $N", "--x", ["5"]),
        ("A=2\npython pretrain.py --x $((A * (A + 3)))", "--x", ["10"]),
        ("A=2\npython pretrain.py --x `expr $A \\* 4`", "--x", ["8"]),
        ("export A=7\npython pretrain.py --x $A", "--x", ["7"]),
        ('C="python pretrain.py --x 1"\nsrun bash -c "cd /; $C"', "--x", ["1"]),
        ('C="pretrain.py --x 1"\neval "python $C"', "--x", ["1"]),
        ("sbatch <<EOF\npython pretrain.py --x 6\nEOF", "--x", ["6"]),
        ("f() { python pretrain.py --x $1; }\nf 9", "--x", ["9"]),
        ("M=a\nif [ $M = a ]; then X=1; else X=2; fi\npython pretrain.py --x $X", "--x", ["1"]),
        ("M=3\nif (( M > 3 )); then X=1; else X=2; fi\npython pretrain.py --x $X", "--x", ["2"]),
        ("M=8B\ncase $M in 8B) X=32;; *) X=80;; esac\npython pretrain.py --x $X", "--x", ["32"]),
        ("G=${G:-$((2 * A))}\nA=3\npython pretrain.py --x ${X:-$((A * 2))}", "--x", ["6"]),
        ("#SBATCH -N 4\n#SBATCH --ntasks-per-node=2\npython t.py --x $SLURM_NPROCS", "--x", ["8"]),
        ("[[ -z $T ]] && T=4\npython pretrain.py --x $T", "--x", ["4"]),
        ("python prepare.py --y 1\npython pretrain.py --x 1 --num-layers 2", "--x", ["1"]),
        ("DATA=<where it is>\npython pretrain.py --d $DATA --x 1", "--x", ["1"]),
    ],
)
def test_the_shell_is_read_as_it_would_be_run(text: str, name: str, words: list[str]) -> None:
    assert flags_of(text).words[name] == words


def test_arguments_of_a_script_are_given_by_their_places() -> None:
    text = "A=$1\nB=${12}\npython pretrain.py --a $A --x $B"
    flags = flags_of(text, **{"12": "7"})
    assert flags.number("--x") == 7
    with pytest.raises(ParplanError, match=r"--a: \$1 is not set here; give --set 1=VALUE"):
        flags.number("--a")


BRANCHES = f"""case $MODEL in
  8B) L=32 ;;
  70B) L=80 ;;
esac
if [ -f warm ]; then EXTRA="--load warm"; fi
python pretrain_gpt.py {SIZES} --num-layers $L $EXTRA
"""


def test_a_branch_that_is_not_known_is_named_and_can_be_chosen() -> None:
    with pytest.raises(ParplanError, match=r"case \$MODEL of 8B, 70B\); give --set MODEL=VALUE"):
        flags_of(BRANCHES).number("--num-layers")
    assert flags_of(BRANCHES, MODEL="8B").number("--num-layers") == 32
    given = Given(devices=1, variables={"MODEL": "70B"})
    found = SOURCES["megatron"](BRANCHES, "launch", given)
    assert found.model is not None
    assert found.model.num_layers == 80
    assert not found.not_understood
    bearing = BRANCHES.replace("--load warm", "--swiglu")
    with pytest.raises(ParplanError, match=r"--swiglu: \$EXTRA depends on a branch"):
        SOURCES["megatron"](bearing, "launch", given)


@pytest.mark.parametrize(
    ("text", "devices"),
    [
        ("#SBATCH --nodes=4\n#SBATCH --gpus-per-node=8\nsrun python pretrain.py --x 1", 32),
        ("#SBATCH -N 2\n#SBATCH --ntasks-per-node 4\nsrun python pretrain.py --x 1", 8),
        ("#SBATCH --ntasks=16\nsrun python pretrain.py --x 1", 16),
        ("#SBATCH --nodes=2\ntorchrun --nproc_per_node 8 pretrain.py --x 1", 16),
        ("torchrun --nproc-per-node=8 --nnodes 2 pretrain.py --x 1", 16),
        ("deepspeed --num_gpus 8 --num_nodes 2 pretrain.py --x 1", 16),
        ("accelerate launch --num_processes 16 pretrain.py --x 1", 16),
        ("mpirun -np 8 python pretrain.py --x 1", 8),
        ("torchrun --nproc_per_node gpu pretrain.py --x 1", None),
    ],
)
def test_launchers_give_the_number_of_devices(text: str, devices: int | None) -> None:
    assert processes(flags_of(text)) == devices


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("if true; then\npython x.py --num-layers 4", "cannot be parsed"),
        ("\0\1\2", "zero bytes"),
        ("X='eval $X'\neval $X", "without end|is not"),
        ("model: gpt\nlayers: 3", "nothing in it is an argument of Megatron-LM"),
        (
            "python a.py --num-layers 4 --x 8\npython a.py --num-layers 5 --x 8",
            "2 different launches",
        ),
    ],
)
def test_what_cannot_be_read_is_one_line(text: str, message: str) -> None:
    with pytest.raises(ParplanError, match=message):
        SOURCES["megatron"](text, "launch", Given(devices=1))


def test_nothing_is_executed(tmp_path: Path) -> None:
    made = tmp_path / "made"
    text = f"X=$(touch {made})\ntouch {made}\npython pretrain.py {SIZES} --micro-batch-size $X"
    with pytest.raises(ParplanError, match="is not executed; give --set X=VALUE"):
        SOURCES["megatron"](text, "launch", Given(devices=1))
    assert not made.exists()


def test_a_misspelt_flag_gets_a_near_name_and_is_not_passed_over() -> None:
    text = f"python pretrain.py {SIZES} --tensor-model-paralel-size 4"
    found = SOURCES["megatron"](text, "launch", Given(devices=1))
    (what,) = found.not_understood.values()
    assert what.endswith("did you mean --tensor-model-parallel-size?")


@pytest.mark.parametrize(
    ("flags", "fields"),
    [
        ("--model-parallel-size 2 --batch-size 3", {"tensor_parallel": 2, "batch_per_device": 3}),
        ("--checkpoint-activations", {"recomputation": "full"}),
        ("--deepspeed-activation-checkpointing", {"recomputation": "full"}),
        ("--activations-checkpoint-method uniform", {"recomputation": "full"}),
        ("--zero-stage 2", {"distribute_gradient": True}),
        ("--cpu-optimizer", {"offload_optimizer": True}),
        (
            "--pipeline-model-parallel-size 2 --enable-zero-bubble --zero-bubble-v-schedule",
            {"schedule": "zb-v", "virtual_stages": 2},
        ),
    ],
)
def test_names_of_other_releases_and_forks_are_known(flags: str, fields: dict[str, object]) -> None:
    found = SOURCES["megatron"](f"python pretrain.py {SIZES} {flags}", "launch", Given(devices=8))
    assert {name: found.plan[name] for name in fields} == fields
    assert not found.not_understood


LAUNCH = (
    "torchrun --nproc-per-node 8 pretrain_gpt.py --num-layers $LAYERS --hidden-size 1024 "
    "--num-attention-heads 16 --seq-length 1024 --max-position-embeddings 1024 "
    "--vocab-size 32000 --micro-batch-size 1 --global-batch-size 8 --bf16\n"
)


def sourced(folder: Path, name: str) -> ImportedSettings:
    """A launch that reads a file by `source`."""
    launch = folder / "launch.sh"
    launch.write_text(f"source {name}\n{LAUNCH}")
    given = Given(devices=8, variables={"LAYERS": "2"} if "no_layers" in name else {})
    return from_megatron(launch.read_text(), str(launch), given)


def test_a_file_beside_a_launch_is_read_by_source(tmp_path: Path) -> None:
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "model.sh").write_text("LAYERS=12\n")
    for name in ("conf/model.sh", "./conf/model.sh", '"$(dirname $0)/conf/model.sh"'):
        found = sourced(tmp_path, name)
        assert found.model is not None
        assert found.model.num_layers == 12
        assert not found.not_understood


def test_files_elsewhere_are_not_read_by_source(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    (tmp_path / "no_layers.sh").write_text("exit 1; '")
    (own / "no_layers_link.sh").symlink_to(tmp_path / "no_layers.sh")
    names = ("../no_layers.sh", str(tmp_path / "no_layers.sh"), "no_layers_link.sh", "no_layers.x")
    for name in names:
        found = sourced(own, name)
        assert list(found.not_understood) == [f"source {name}"]


def test_files_that_read_each_other_end(tmp_path: Path) -> None:
    (tmp_path / "a.sh").write_text("source a.sh\n")
    with pytest.raises(ParplanError, match=r"commands within commands|files by source"):
        sourced(tmp_path, "a.sh")
    (tmp_path / "b.sh").write_text("")
    launch = tmp_path / "launch.sh"
    launch.write_text("source b.sh\n" * 40 + LAUNCH)
    with pytest.raises(ParplanError, match="more than 30 files by source"):
        from_megatron(launch.read_text(), str(launch), Given(devices=8))


def test_an_expansion_on_a_continued_line_of_a_text_is_its_value() -> None:
    text = 'A="--a 1"\nB=(--b 2)\nC=" \\\n  x.py --y 3 \\\n  $A \\\n  ${B[@]} \\\n  "\n'
    flags = flags_of(text + 'srun bash -c "torchrun $C"\n')
    assert flags.words == {"--y": ["3"], "--a": ["1"], "--b": ["2"]}
