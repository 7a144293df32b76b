"""What `parplan` says of itself: help with examples, its version, completion of a shell."""

import argparse
import difflib
import os
import shlex
from collections.abc import Iterable

from parplan.errors import ParplanError, one_line
from parplan.sim.software.framework import part_of_software

EXAMPLES = """\
examples:
  parplan plan llama3-8b --cluster 32xh100 --seq-len 8k --global-batch 512
                                    the fastest plan, what it costs and why
  parplan plan config.json --cluster 8xh100 --seq-len 4k --global-batch 64 --tokens 1T
                                    the same for a Hugging Face model, with days
  parplan import train.sh --from megatron --cluster 16xh100
                                    what a launch script will do, and faster plans
  parplan simulate out/plan/plan.json
                                    one plan in detail
  parplan models                    models that are known by name
  parplan hardware list             accelerators and clusters

`parplan COMMAND --help` has the options of a command; `parplan completion bash` completes them.
"""

SHELLS = ("bash", "zsh", "fish")


def version() -> str:
    """The version of the package that is installed."""
    from importlib import metadata

    return metadata.version("parplan")


def near(kind: str, given: str, known: Iterable[str]) -> str:
    """What is said of a word that is not known."""
    names = list(known)
    found = difflib.get_close_matches(given, names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(found)}?" if found else f"known: {', '.join(names)}"
    return f"unknown {kind} {one_line(given)!r}; {hint}"


def check_options(parser: argparse.ArgumentParser, unknown: list[str]) -> None:
    """Raise `ParplanError` for words that no argument takes, with the options that are near."""
    if not unknown:
        return
    word, _, value = unknown[0].partition("=")
    if word == "--framework":
        given = value or next(iter(unknown[1:]), None)
        raise ParplanError(f"{word}: {part_of_software(given, lambda name: f'--software {name}')}")
    options = [name for name in parser._option_string_actions if name.startswith("--")]
    found = difflib.get_close_matches(word, options, n=3, cutoff=0.6)
    if word.startswith("-") and found:
        raise ParplanError(f"unknown option {word}; did you mean {' or '.join(found)}?")
    what = "option" if word.startswith("-") else "argument"
    raise ParplanError(f"unknown {what} {one_line(word)!r} (see {parser.prog} --help)")


def completion_script(shell: str) -> str:
    """The lines with which a shell completes the words of parplan, for its start-up file."""
    # Imported here: no other command needs it.
    from argcomplete.shell_integration import shellcode

    return str(shellcode(["parplan"], True, shell))


def is_completing() -> bool:
    """Whether a shell asks for the words that may follow."""
    return "_ARGCOMPLETE" in os.environ


def completed_command() -> str | None:
    """The command on the line that a shell completes, if there is one."""
    try:
        words = shlex.split(os.environ.get("COMP_LINE", ""))
    except ValueError:
        return None
    return words[1] if len(words) > 1 else None


def complete(parser: argparse.ArgumentParser) -> None:
    """Print the words that may follow, and leave the process."""
    import argcomplete

    from parplan.hardware.machines.presets import accelerator_names, cluster_names
    from parplan.sim.models.model import model_presets

    machines = [*cluster_names(), *(f"8x{name}" for name in accelerator_names())]
    for sub in every_parser(parser):
        for action in sub._actions:
            if action.dest == "model":
                _complete_by(action, list(model_presets()))
            elif action.dest == "cluster":
                _complete_by(action, machines)
    argcomplete.autocomplete(parser)


def _complete_by(action: argparse.Action, names: list[str]) -> None:
    def completer(prefix: str, **others: object) -> list[str]:
        return [name for name in names if name.startswith(prefix)]

    action.completer = completer  # type: ignore[attr-defined]


def every_parser(parser: argparse.ArgumentParser) -> Iterable[argparse.ArgumentParser]:
    """A parser, and those of the commands or actions that it has."""
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for sub in action.choices.values():
                yield from every_parser(sub)
