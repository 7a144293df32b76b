"""The flags of a command line, or of a shell script that makes one. Nothing is run."""

import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from parplan.errors import ParplanError
from parplan.experiments.interop.shell.script import Script, read_script
from parplan.experiments.interop.shell.values import MARK, Unknowns

_FLAG = re.compile(r"--[A-Za-z][\w.-]*(=.*)?", re.DOTALL)
_PROGRAM = re.compile(r"(\S*\.py|pretrain\S*)")
_NESTED = re.compile(r"(^|\s)--[A-Za-z]")
_PATH = re.compile(f"({MARK.pattern})+/")
_VALUED = re.compile(
    r"-(path|file|dir|model|interval|iters|samples|tokens|fraction|type|name|project|entity|style|"
    r"format|prefix|port|addr|rank|config|lr|size|seed|decay|workers)$|"
    r"^--(load|save|split|lr|seed|finetune-from|pretrained-checkpoint|log-level)$"
)
"""Names of flags with a value: an unset variable behind one is that value, not further flags."""

OF_TRAINERS = ("--per-device-train-batch-size", "--per-gpu-train-batch-size")
"""The same of a Hugging Face trainer."""

_OF_SLURM = {
    "--nodes": ("SLURM_NNODES", "SLURM_JOB_NUM_NODES"),
    "--ntasks": ("SLURM_NTASKS", "SLURM_NPROCS"),
    "--ntasks-per-node": ("SLURM_NTASKS_PER_NODE",),
    "--gpus-per-node": ("SLURM_GPUS_PER_NODE", "SLURM_GPUS_ON_NODE"),
    "--gpus": ("SLURM_GPUS",),
    "--cpus-per-task": ("SLURM_CPUS_PER_TASK",),
}
"""Directives of Slurm, and the variables by which a job is told them."""

OF_MODELS = ("--num-layers", "--tensor-model-parallel-size", "--hidden-size", "--seq-length")
"""Flags by which a launch of training is told from other commands."""


@dataclass(slots=True, kw_only=True)
class Flags:
    """The flags of a launch, and the words after each up to the next one."""

    where: str
    words: dict[str, list[str]] = field(default_factory=dict)
    command: str = ""
    """The first word of the launch, without folders."""
    program: str = ""
    """The Python file that is started, as the launch names it."""
    starters: tuple[str, ...] = ()
    """What starts it, without folders: `srun`, `accelerate`."""
    launcher: dict[str, str] = field(default_factory=dict)
    """Flags of `srun`, `torchrun` and their like."""
    unclear: list[str] = field(default_factory=list)
    """Words in the place of flags that are not known."""
    used: set[str] = field(default_factory=set)
    unknowns: Unknowns = field(default_factory=Unknowns)
    files: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def has(self, *names: str) -> bool:
        """Whether any of these flags is there."""
        self.used.update(names)
        return any(name in self.words for name in names)

    def text(self, *names: str) -> str | None:
        """The value of the first of these flags that is there.

        Raises `ParplanError` for a flag without a value, and for a variable that is not set.
        """
        self.used.update(names)
        for name in names:
            if name in self.words:
                if not self.words[name]:
                    raise ParplanError(f"{self.where}: {name}: has no value")
                return self._known(name, self.words[name][0])
        return None

    def number(self, *names: str) -> int | None:
        """The same as a whole number."""
        found = self.text(*names)
        if found is None:
            return None
        try:
            return int(found)
        except ValueError:
            raise ParplanError(
                f"{self.where}: {names[0]}: expected a whole number, got {found!r}"
            ) from None

    def texts(self, name: str) -> list[str]:
        """All words after a flag."""
        self.used.add(name)
        return [self._known(name, word) for word in self.words.get(name, [])]

    def others(self) -> list[str]:
        """The flags that nobody asked for."""
        return [name for name in self.words if name not in self.used]

    def _known(self, name: str, word: str) -> str:
        for unknown in self.unknowns.within(word):
            raise ParplanError(f"{self.where}: {name}: {unknown.why}")
        return word


def read_flags(text: str, where: str, variables: Mapping[str, str]) -> Flags:
    """The flags of the launch in `text`; `variables` go before those that it sets itself.

    Raises `ParplanError` for text that is no shell script, and for two different launches.
    """
    script = read_script(text, where, variables, _variables(_directives(text)))
    launches = [list(_separate(words, script)) for words in script.commands]
    chosen = _launch(launches, script)
    flags = Flags(where=where, unknowns=script.scope.unknowns, files=script.files)
    flags.notes = script.notes
    _launcher(_directives(text), flags)
    flags.command = next(iter(chosen), "").rpartition("/")[2]
    start = _program(chosen)
    flags.program = next((word for word in chosen[start:][:1] if _PROGRAM.fullmatch(word)), "")
    _launcher(chosen[:start], flags)
    flags.starters = tuple(word.rpartition("/")[2] for word in chosen[:start])
    current: list[str] | None = None
    name = ""
    for word in chosen[start:]:
        if _FLAG.fullmatch(word):
            name, given, value = word.partition("=")
            current = flags.words[name.replace("_", "-")] = [value] if given else []
        elif current is not None:
            current.append(word)
        is_value = bool(_VALUED.search(name)) and current == [word]
        if word.startswith("\ue000") and not is_value and not _PATH.match(word):
            flags.unclear.append(word)
    return flags


def _separate(words: list[str], script: Script) -> Iterator[str]:
    """The words, those of `bash -c "torchrun --a 1"` each by itself."""
    for word in words:
        if re.search(r"\s", word) and _NESTED.search(word):
            try:
                yield from shlex.split(word, comments=True)
            except ValueError as error:
                raise ParplanError(f"{script.where}: not a command line: {error}") from None
        else:
            yield word


def _launch(launches: list[list[str]], script: Script) -> list[str]:
    """The words of the command that trains; of all together where only flags are there."""

    def strong(words: list[str]) -> int:
        names = set(_names(words))
        return sum(name in names for name in OF_MODELS)

    found = [words for words in launches if any(_FLAG.fullmatch(word) for word in words)]
    if found and all(words[0].startswith("--") for words in found):
        return [word for words in found for word in words]
    most = max((strong(words) for words in found), default=0)
    training = [words for words in found if most and strong(words) == most]
    if not most:
        training = [words for words in found if any(one in OF_TRAINERS for one in _names(words))]
    if training and MARK.fullmatch(branch := training[0][-1]):
        training = [
            words for words in found if words in training or (words[-1] == branch and strong(words))
        ]
    different = {tuple(words) for words in training}
    if len(different) > 1:
        raise ParplanError(
            f"{script.where}: {len(different)} different launches; {_why(training, script)}"
        )
    for words in found:
        if words[0].startswith("--"):
            script.notes.append(
                f"{' '.join(words)[:60]}: not understood; it stands by itself, behind a comment "
                "or without a backslash"
            )
    if training:
        return training[0]
    kept = [w for values in script.scope.variables.values() for w in _separate(values, script)]
    if strong(kept):
        return kept
    return max(found, key=len, default=kept)


def _names(words: list[str]) -> list[str]:
    """Words as the names of flags, without values."""
    return [word.partition("=")[0].replace("_", "-") for word in words]


def _why(launches: list[list[str]], script: Script) -> str:
    """What several launches depend on, where that is known."""
    for words in launches:
        for unknown in script.scope.unknowns.within(words[-1]):
            if unknown.why.startswith("the command depends"):
                return unknown.why
    return "give one, or choose the branch by --set NAME=VALUE"


def _program(words: list[str]) -> int:
    """Where the flags of the launcher end."""
    places = [i for i, word in enumerate(words) if _PROGRAM.fullmatch(word)]
    return places[0] if places else 0


def _launcher(words: list[str], flags: Flags) -> None:
    aliases = {"-N": "--nodes", "-n": "--ntasks", "-np": "--np"}
    for place, word in enumerate(words):
        name, given, value = word.partition("=")
        name = aliases.get(name, name).replace("_", "-")
        if name.startswith("--") and (given or place + 1 < len(words)):
            flags.launcher[name] = value if given else words[place + 1]
    if any(word.rpartition("/")[2] == "deepspeed" for word in words):
        flags.launcher.setdefault("--nproc-per-node", flags.launcher.get("--num-gpus", ""))
        flags.launcher.setdefault("--nnodes", flags.launcher.get("--num-nodes", ""))
    if "accelerate" in [word.rpartition("/")[2] for word in words]:
        flags.launcher.setdefault("--ntasks", flags.launcher.get("--num-processes", ""))


def _directives(text: str) -> list[str]:
    """The words of `#SBATCH --nodes=4`, and of its short form `-N 4`."""
    words: list[str] = []
    for line in re.findall(r"^#SBATCH\s+(\S.*)$", text[:1_000_000], re.MULTILINE):
        words += re.split(r"\s#", line)[0].replace("=", " ").split()
    return words


def _variables(directives: list[str]) -> dict[str, str]:
    """What Slurm tells a job of its own directives."""
    said = Flags(where="")
    _launcher(directives, said)
    found = {
        variable: value
        for name, variables in _OF_SLURM.items()
        if (value := said.launcher.get(name, "")).isdigit()
        for variable in variables
    }
    nodes, each = (found.get(name) for name in ("SLURM_NNODES", "SLURM_NTASKS_PER_NODE"))
    if nodes and each and "SLURM_NTASKS" not in found:
        found["SLURM_NTASKS"] = found["SLURM_NPROCS"] = str(int(nodes) * int(each))
    return found


def processes(flags: Flags) -> int | None:
    """How many devices are started; None where it is not said as a number."""

    def number(*names: str) -> int | None:
        for name in names:
            values = [flags.launcher.get(name), *(flags.words.get(name) or [])[:1]]
            for value in values:
                if value and (digits := re.fullmatch(r"(?:[a-z]\w*:)*(\d{1,6})", value)):
                    return int(digits[1])
        return None

    flags.used.update({"--nproc-per-node", "--nnodes"})
    per_node = number("--nproc-per-node")
    nodes = number("--nnodes", "--nodes")
    unclear_nodes = MARK.search(flags.launcher.get("--nnodes", ""))
    if per_node is not None and not (nodes is None and unclear_nodes):
        return per_node * (nodes or 1)
    if per_node is None and (tasks := number("--ntasks", "--np")) is not None:
        return tasks
    each = number("--ntasks-per-node", "--gpus-per-node", "--gres")
    return each * nodes if each is not None and nodes is not None else None
