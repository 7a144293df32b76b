"""Runs the blocks of a documentation page in order, in one folder, as a reader does.

- A block after "saved as `NAME`:" becomes that file.
- A console block is commands after `$ `, each with what it prints: stdout, then stderr.
- A Python block is run; the comments that it ends with are what it prints.

`PARPLAN_WRITE_DOCS=1` writes what is printed into the page.
"""

import contextlib
import io
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from parplan.experiments.cli import main

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE)
SAVED = re.compile(r"[Ss]aved\s+as\s+`([^`]+)`[^`]*:\s*$")


class Ran(NamedTuple):
    """One thing that was run."""

    what: str
    shown: str
    printed: str


def run_page(page: Path, where: Path, patch: pytest.MonkeyPatch) -> list[Ran]:
    """What each block of `page` shows, and what it prints in the folder `where`."""
    patch.chdir(where)
    patch.syspath_prepend(str(where))
    text = page.read_text(encoding="utf-8")
    ran: list[Ran] = []
    changed, end = [], 0
    for match in BLOCK.finditer(text):
        language, body = match[1], match[2]
        saved = SAVED.search(text[end : match.start()].rstrip())
        if saved:
            (where / saved[1]).write_text(body, encoding="utf-8")
        elif language == "console":
            done = list(_console(body))
            ran += done
            body = "".join(f"$ {one.what}\n{one.printed}" for one in done)
        elif language == "python":
            one = _python(body)
            ran.append(one)
            body = one.what + one.printed
        changed += [text[end : match.start()], f"```{language}\n{body}```"]
        end = match.end()
    if os.environ.get("PARPLAN_WRITE_DOCS"):
        page.write_text("".join([*changed, text[end:]]), encoding="utf-8")
    return ran


def _console(body: str) -> Iterator[Ran]:
    for part in re.split(r"^\$ ", body, flags=re.MULTILINE)[1:]:
        lines = part.splitlines(keepends=True)
        count = next(i for i, line in enumerate(lines, 1) if not line.endswith("\\\n"))
        command = "".join(lines[:count]).rstrip("\n")
        yield Ran(command, "".join(lines[count:]), _printed(command))


def _printed(command: str) -> str:
    words = shlex.split(command.replace("\\\n", " "))
    while "=" in words[0]:
        words = words[1:]
    assert words[0] == "parplan", command
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(words[1:])
    assert code == 0, err.getvalue()
    return steady(out.getvalue() + err.getvalue())


def _python(body: str) -> Ran:
    shown = re.search(r"(?:^#(?: .*)?\n)*\Z", body, flags=re.MULTILINE)
    assert shown is not None
    code = body[: shown.start()]
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(code, "block", "exec"), {"__name__": "__block__"})
    printed = "".join(f"# {line}".rstrip() + "\n" for line in out.getvalue().splitlines())
    return Ran(code, shown[0], printed)


def steady(text: str) -> str:
    """Without what depends on the speed of the machine."""
    text = re.sub(
        r"^parplan: \w+(?: \(best step [^)]*\))?: \d+ of \d+\n", "", text, flags=re.MULTILINE
    )
    text = re.sub(
        r"^parplan: [\d.]+ s; results", "parplan: 1.0 s; results", text, flags=re.MULTILINE
    )
    return re.sub(r"= \d+ \[ms\]", "= 5 [ms]", text)
