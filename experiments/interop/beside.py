"""Files that lie beside a launch."""

import re
from pathlib import Path

_OWN_FOLDER = re.compile(r"^\$\(\.\.\.\)/|^\$[A-Za-z_]\w*/|^\./")


def beside(where: str, name: str) -> Path | None:
    """The file `name` in the folder of the launch `where`, or below; None for any other.

    A folder at its begin that is not known is taken for that of the launch. What lies elsewhere is
    not read: a launch may name any file of the machine.
    """
    folder = Path(where).parent
    plain = _OWN_FOLDER.sub("", name)
    if not plain or plain.startswith(("/", "~")) or ".." in Path(plain).parts:
        return None
    path = folder / plain
    try:
        inside = path.resolve().is_relative_to(folder.resolve())
        return path if inside and path.is_file() and Path(where).is_file() else None
    except (OSError, ValueError):
        return None
