"""Files that lie beside a launch."""

import re
from pathlib import Path

from parplan._files import is_file, without_links

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
        inside = without_links(path).is_relative_to(without_links(folder))
        return path if inside and is_file(path) and is_file(Path(where)) else None
    except (OSError, ValueError):
        return None


def module_beside(where: str, module: str) -> Path | None:
    """The file of a Python module in the package that the launch `where` is in; None for others.

    The package is the nearest folder around the launch that is called as the module begins, or, for
    names that begin with a dot, that of the launch itself.
    """
    parts = module.lstrip(".").split(".")
    folder = Path(where).absolute().parent
    if not all(part.isidentifier() for part in parts):
        return None
    try:
        if module.startswith("."):
            root = folder if module[:2] != ".." else None
        else:
            root = next((one for one in (folder, *folder.parents) if one.name == parts[0]), None)
            parts = parts[1:]
        if root is None or not Path(where).is_file():
            return None
        plain = root.joinpath(*parts)
        for path in (plain.with_name(f"{plain.name}.py"), plain / "__init__.py"):
            if path.is_file() and path.resolve().is_relative_to(root.resolve()):
                return path
    except (OSError, ValueError):
        pass
    return None
