"""Wrong values, files and options for the command line, and what is said of each.

Each is the words of a command in a folder that has a `plan.json`, and files that are made there
before: text, bytes, or a kind of special file. All of them are refused with exit code 2.
"""

import dataclasses
import gzip
import json
import os
from pathlib import Path

from parplan.hardware.machines.presets import CLUSTERS
from parplan.sim.models.model import model_preset

JOB = ("--cluster", "8xh100", "--seq-len", "64", "--global-batch", "16")
PLAN = ("plan", "gpt-tiny", *JOB)
FIFO, FOLDER, LOOP, ZEROS = "a pipe", "a folder", "a link to itself", "a link to /dev/zero"
DEEP = 100_000


@dataclasses.dataclass(frozen=True)
class Attack:
    """A command that has to be refused."""

    words: tuple[str, ...]
    says: str
    """Part of the line on stderr."""
    files: tuple[tuple[str, str | bytes], ...] = ()
    special: tuple[tuple[str, str], ...] = ()


def refused(*words: str, says: str, **files: str | bytes) -> Attack:
    """An attack; `files`: by name, with `_` in place of the last dot."""
    named = tuple((".".join(name.rsplit("_", 1)), text) for name, text in files.items())
    return Attack(words, says, named)


def make(attack: Attack, folder: Path) -> None:
    """Make the files of an attack in a folder."""
    for name, text in attack.files:
        (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    for name, kind in attack.special:
        if kind == FIFO:
            os.mkfifo(folder / name)
        elif kind == FOLDER:
            (folder / name).mkdir()
        else:
            (folder / name).symlink_to("/dev/zero" if kind == ZEROS else name)


def _toml(**changed: object) -> str:
    """A model like gpt-tiny but for some of its fields."""
    own = dataclasses.asdict(model_preset("gpt-tiny")) | changed
    own.pop("name")
    lines = []
    for key, value in own.items():
        if value is not None:
            word = str(value).lower() if isinstance(value, bool) else value
            lines.append(f"{key} = {word if not isinstance(value, str) else repr(value)}")
    return "[mine]\n" + "\n".join(lines) + "\n"


def _config(**changed: str) -> str:
    """A `config.json` but for some of its fields, which are JSON."""
    own = {
        **{"model_type": '"llama"', "num_hidden_layers": "2", "hidden_size": "64"},
        **{"num_attention_heads": "4", "intermediate_size": "128", "vocab_size": "100"},
        **changed,
    }
    return "{" + ", ".join(f'"{key}": {value}' for key, value in own.items()) + "}"


NODES = CLUSTERS.read_text()


def _cluster(old: str, new: str) -> str:
    """Two DGX-1 with one value changed."""
    begin = NODES.index("[node.dgx-1-v100]")
    node = NODES[begin : NODES.index("[node.dgx-2", begin)].replace("dgx-1-v100", "mine")
    assert old in node
    own = '[cluster.own]\ntitle = "own"\nnode = "mine"\nnum_nodes = 2\nsource = "a test"\n'
    return node.replace(old, new, 1) + own


def _on(text: str, says: str) -> Attack:
    job = ("--seq-len", "64", "--global-batch", "16")
    return refused("plan", "gpt-tiny", "--cluster", "c.toml", *job, says=says, c_toml=text)


def _model(text: str, says: str) -> Attack:
    return refused("plan", "m.toml", *JOB, says=says, m_toml=text)


def _hf(text: str | bytes, says: str) -> Attack:
    return refused("plan", "config.json", *JOB, says=says, config_json=text)


def _launch(source: str, name: str, text: str | bytes, says: str) -> Attack:
    words = ("import", name, "--from", source, "--cluster", "8xh100")
    return Attack(words, says, ((name, text),))


def _special(kind: str, name: str, *words: str, says: str = "cannot be read") -> Attack:
    return Attack(words, says, special=((name, kind),))


LONG = "x" * 5000
DIGITS = "9" * 5000
TRACE = '{"ph": "X", "name": "ProfilerStep#1", "ts": 0, "dur": 10}'
YAML_BOMB = "a0: &a0 {x: 1}\n" + "".join(
    f"a{i}: &a{i} {{p: *a{i - 1}, q: *a{i - 1}}}\n" for i in range(1, 25)
)

OPTIONS = [
    refused("plan", "gpt-tiny", "--cluster", "8xh100", *words, says=says)
    for words, says in (
        (("--seq-len", "６４", "--global-batch", "16"), "--seq-len"),
        (("--seq-len", "6_4", "--global-batch", "16"), "--seq-len"),
        (("--seq-len", "6,,4", "--global-batch", "16"), "--seq-len"),
        (("--seq-len", "1e400", "--global-batch", "16"), "--seq-len"),
        (("--seq-len", "nan", "--global-batch", "16"), "--seq-len"),
        (("--seq-len", "", "--global-batch", "16"), "--seq-len"),
        (("--seq-len", "64", "--global-batch", "16,,1"), "--global-batch"),
        (("--seq-len", "64", "--global-batch", "-1"), "global batch: must be"),
    )
] + [
    refused(*PLAN, *words, says=says)
    for words, says in (
        (("--budget", "infs"), "more than 0 seconds"),
        (("--budget", "nans"), "more than 0 seconds"),
        (("--budget", "1_0"), "expected evaluations"),
        (("--num-stages", "٣"), "expected auto or a number"),
        (("--num-stages", DIGITS), "expected auto or a number"),
        (("--deadline-days", "5"), "only with --objective fewest-accelerators"),
        (("--noise", "0.1"), "only with --objective expected-step-time"),
        (("--straggler", "1.5:0.1"), "only with --objective expected-step-time"),
        (("--checkpoint-s", "5"), "only with --accelerator-mtbf-hours"),
        (("--checkpoint-every", "5"), "only with --accelerator-mtbf-hours"),
        (("--accelerator-mtbf-hours", "5"), "only with --tokens, or --objective"),
        (("--currency", "EUR"), "only with --price-per-hour"),
        (("--between", "5:1"), "only with several clusters"),
        (("--ap-version", "24.5"), "only with --space ap"),
        (("--gap", "1", "--planner", "random"), "only with --planner branch-and-bound"),
        (("--objective", "expected-step-time", "--straggler", "nan:nan"), "FACTOR:SHARE"),
        (("--planner", f"{LONG}:f"), "cannot be imported"),
        (("--space", f"{LONG}.toml"), "cannot be read"),
        (("--software", f"{LONG}.toml:x"), "cannot be read"),
        (("-o", LONG), "cannot be written"),
    )
]

FILES = [
    _model("\ufeffa = 1", "a"),
    _model(f"{'.'.join('a' * 50_000)} = 1", "a dotted key of more than"),
    _model("[" * DEEP, "not valid TOML"),
    _model(f"[mine]\nnum_layers = {DIGITS}", "not valid TOML"),
    _model(_toml(learned_positions=-5), "learned_positions: must be at least 0"),
    _model(_toml(head_dim=10**12), "head_dim: must be at most"),
    _model(_toml(num_layers=10**7), "num_layers: must be at most"),
    _model(_toml(vocab_size=0), "vocab_size: must be at least 1"),
    _model(_toml() + "local = {window = 99999999999}\n", "window: must be at most"),
    _hf("[" * DEEP, "nested too deeply"),
    _hf(b"\xff\xfe{\x00}\x00", "not UTF-8"),
    _hf(_config(num_hidden_layers='2, "num_hidden_layers": 3'), "is there twice"),
    _hf(_config(vocab_size="1e400"), "larger than every float"),
    _hf(_config(vocab_size="NaN"), "no number of JSON"),
    _hf(_config(num_hidden_layers="true"), "num_hidden_layers"),
    _hf(_config(num_attention_heads="0"), "num_attention_heads"),
    refused("plan", f"{LONG}.toml", *JOB, says="cannot be read"),
    refused("plan", f"{LONG}.json", *JOB, says="cannot be read"),
    _special(LOOP, "m.toml", "plan", "m.toml", *JOB),
    _special(LOOP, "config.json", "plan", "config.json", *JOB),
    _special(ZEROS, "m.toml", "plan", "m.toml", *JOB),
    _special(FIFO, "m.toml", "plan", "m.toml", *JOB),
    _special(FIFO, "s.csv", "simulate", "plan.json", "--schedule", "s.csv"),
    _special(ZEROS, "s.csv", "simulate", "plan.json", "--schedule", "s.csv"),
    _special(FIFO, "t.json", "simulate", "plan.json", "--measured", "t.json"),
    _special(ZEROS, "t.json", "simulate", "plan.json", "--measured", "t.json"),
    _special(ZEROS, "r.jsonl", "validate", "r.jsonl"),
    _special(FIFO, "l.sh", "import", "l.sh", "--from", "megatron", "--cluster", "8xh100"),
    _special(FOLDER, "p.json", "simulate", "p.json"),
    _special(FIFO, "out", *PLAN, "-o", "out", says="cannot be written"),
    refused(*PLAN, "-o", "/dev/null", says="cannot be written"),
]

MACHINES = [
    _on(_cluster("efficiency = 0.92", "efficiency = 1.5"), "efficiency: must be at most 1"),
    _on(_cluster("efficiency = 0.9\n", "efficiency = 0\n"), "efficiency: must be at least"),
    _on(_cluster("nics_per_node = 4", "nics_per_node = 0"), "nics_per_node: must be at least 1"),
    _on(_cluster("latency_us = 5", "latency_us = -1"), "latency_us: must be at least 0"),
    _on(_cluster("latency_us = 5", "latency_us = inf"), "expected a finite number"),
    _on(_cluster("= 12.5", "= 1e300"), "must be at most"),
    _on(_cluster("[0, 1, 1, 2,", "[9, 1, 1, 2,"), "peer_links[0][0]"),
    _on(_cluster("latency_us = 3", "latency_us = 3\ndims = [0, 8]"), "dims: must be at least 1"),
    _on(_cluster("accelerators = 8", "accelerators = 0"), "accelerators: 1 to"),
    _on("cluster = 5", "expected tables"),
    refused("plan", "gpt-tiny", "--cluster", "８xh100", *JOB[2:], says="unknown cluster"),
    refused("plan", "gpt-tiny", "--cluster", f"{DIGITS}xh100", *JOB[2:], says="unknown cluster"),
    refused(
        *("plan", "gpt-tiny", "--cluster", "8xh100+8xa100-80gb", *JOB[2:]),
        *("--between", "nan:1"),
        says="expected GB/s:us",
    ),
    *(
        refused(*words, says=says)
        for words, says in (
            (("scale", "gpt-tiny", *JOB, "--sizes", "１,2"), "--sizes"),
            (("landscape", "gpt-tiny", *JOB, "--x", "network_bandwidth=1e300"), "factor has to be"),
            (("landscape", "gpt-tiny", *JOB, "--x", "num_stages=٣"), "expected a whole number"),
            (("landscape", "gpt-tiny", *JOB, "--x", "num_stages="), "expected a whole number"),
            (("landscape", "gpt-tiny", *JOB, "--x", f"stage_ends={'[' * DEEP}"), "stage_ends"),
        )
    ),
]

PLANS = [
    refused("simulate", "plan.json", *words, says=says)
    for words, says in (
        (("--slow", "1=2", "1=3"), "rank 1 is given twice"),
        (("--slow", "1_0=2"), "is not RANK=FACTOR"),
        (("--slow", "1=nan"), "is not RANK=FACTOR"),
        (("--slow", f"{DIGITS}=2"), "is not RANK=FACTOR"),
        (("--measured-step", "5"), "only with --measured"),
        (("--currency", "EUR"), "only with --price-per-hour"),
        (("--post-validation",), "--steps"),
        (("--bytes", "5"), "needs --collective"),
    )
] + [
    *(
        refused("simulate", "plan.json", "--measured", "t.json", says=says, t_json=text)
        for text, says in (
            (
                f'{{"traceEvents": [{TRACE.replace("10", "{}")}]}}',
                "event 0: dur: expected a",
            ),
            (f'{{"traceEvents": [{TRACE.replace("10", "NaN")}]}}', "event 0: dur"),
            (f'{{"traceEvents": {"[" * DEEP}', "not a Chrome trace"),
            ('{"traceEvents": [1, null, [2]]}', "no step is marked"),
        )
    ),
    refused(
        *("simulate", "plan.json", "--measured", "t.json.gz"),
        says="not a Chrome trace",
        **{"t.json_gz": gzip.compress(b"{")[:-6]},
    ),
    refused("dry-run", "plan.json", "--stages", "٠", says="--stages"),
    refused("dry-run", "plan.json", "--stages", "0,,1", says="--stages"),
    refused("export", "plan.json", "--to", "megatron", "--cluster", "3xh100", says="3"),
]

LAUNCHES = [
    _launch("torchtitan", "t.toml", f"{'.'.join('a' * 50_000)} = 1", "a dotted key of more than"),
    _launch("torchtitan", "t.toml", "[" * DEEP, "not valid TOML"),
    _launch("deepspeed", "d.json", '{"a":' * DEEP, "nested too deeply"),
    _launch("deepspeed", "d.json", '{"zero_optimization": {}, "zero_optimization": {}}', "twice"),
    _launch("deepspeed", "d.json", '{"train_batch_size": NaN}', "no number of JSON"),
    _launch("deepspeed", "d.json", '{"train_batch_size": 1e999}', "larger than every float"),
    _launch("transformers", "a.json", "[" * DEEP, "nested too deeply"),
    _launch("axolotl", "a.yaml", YAML_BOMB, "more than"),
    _launch("nemo", "a.yaml", "a: &a\n  b: *a\n", "more than"),
    _launch("accelerate", "a.yaml", "[" * 50_000, "nested too deeply"),
    _launch("llama-factory", "a.yaml", "bf16: true\nbf16: false\n", "is there twice"),
    _launch("maxtext", "a.yml", "steps: 1\nsteps: 2\n", "is there twice"),
]

OTHERS = [
    refused(*words, says=says)
    for words, says in (
        (("benchmark", "--samples", "5"), "only with --planners"),
        (("benchmark", "--repeats", "5"), "only with --execution"),
        (("benchmark", "--planners", "--unseen"), "not together with --planners"),
        (("validate", "--draws", "5"), "only with --fit-study"),
        (("validate", "--search-seconds", "5"), "only with --search"),
        (("validate", "--search", "--worst"), "not together with"),
        (("execute", "--node-rank", "1"), "only with --nnodes above 1"),
        (("explore", ".", "--software", "fsdp"), "only with --seq-len"),
        (("report", "nowhere"), "is not a folder"),
        (("report", LONG), "is not a folder"),
        (("report", ".", "-o", "/dev/null"), "is a device"),
        (("compare", "nowhere"), "not there"),
        (("explore", LONG), "parplan: error"),
        (("execute", "--nnodes", "2", "--rdzv-endpoint", "a:99999"), "need HOST:PORT"),
        (("calibrate", "-o", "plan.json"), "is no profile"),
        (("hardware", "show", f"{LONG}.toml"), "cannot be read"),
        (("completion", "csh"), "unknown value 'csh'"),
        (("no\x1b[31mcommand",), r"\x1b[31m"),
    )
]

EMPTY = {
    **{"format": 1, "workload": None, "num_processes": 2, "calibration": [], "candidates": []},
    **{"executed": [], "out_of_memory": [], "hand_written": []},
}
RESULTS = [
    refused("compare", ".", says=says, execution_json=json.dumps({**EMPTY, **changed}))
    for changed, says in (
        ({"executed": "x"}, "not what an execution leaves"),
        ({"executed": [{}]}, "not what an execution leaves"),
        ({"executed": None}, "not what an execution leaves"),
        ({"num_processes": "2"}, "expected a number of at least 1"),
        ({"num_processes": -1}, "expected a number of at least 1"),
        ({"workload": 5}, "expected a table"),
        ({"candidates": [[{}, -1]]}, "expected a number of at least 0"),
        ({"hand_written": [{"name": 1}]}, "not what an execution leaves"),
    )
]

ATTACKS = [*RESULTS, *OPTIONS, *FILES, *MACHINES, *PLANS, *LAUNCHES, *OTHERS]
