"""The licences of what parplan needs, from their own metadata: `python -m tests.tools.licences`.

Advice alone: what a package says of itself can be incomplete.
"""

import re
import sys
from email.message import Message
from importlib import metadata
from typing import Any

KNOWN = (
    "BSD",
    "MIT",
    "Apache",
    "PSF",
    "Python Software Foundation",
    "HPND",
    "Pillow",
    "ISC",
    "MPL",
)
"""Words of permissive licences, and of MPL, which binds changes of its own files alone."""


def runtime_packages(root: str = "parplan") -> list[str]:
    """What `root` needs without extras, and what that needs, by name."""
    found: dict[str, None] = {}
    waiting = [root]
    while waiting:
        for wanted in metadata.requires(waiting.pop()) or ():
            name = re.split(r"[^\w.-]", wanted, maxsplit=1)[0].lower()
            if "extra ==" in wanted or name in found:
                continue
            try:
                metadata.version(name)
            except metadata.PackageNotFoundError:
                continue  # Of another system or version of Python.
            found[name] = None
            waiting.append(name)
    return sorted(found)


def licence(about: Message | Any) -> str:
    """What a package says of its licence, in a line."""
    said = [line for line in about.get_all("Classifier") or () if line.startswith("License ::")]
    words = [about.get("License-Expression"), *said, (about.get("License") or "").split("\n")[0]]
    return "; ".join(word.removeprefix("License :: OSI Approved :: ") for word in words if word)


def main() -> None:
    for name in runtime_packages():
        said = licence(metadata.metadata(name)) or "says nothing"
        mark = "" if any(known in said for known in KNOWN) else "  <- look at it"
        sys.stdout.write(f"{name:20} {said[:90]}{mark}\n")


if __name__ == "__main__":
    main()
