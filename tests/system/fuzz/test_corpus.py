"""Files that once ended in something else than a result or one line; `ok-`: they may be read."""

import signal
from pathlib import Path

import pytest

from parplan.errors import ParplanError
from tests.system.fuzz.readers import READERS, valid
from tests.system.fuzz.world import read_content
from tests.system.test_fuzz import LIMIT_S, alarm

CORPUS = sorted(path for path in (Path(__file__).parent / "corpus").rglob("*") if path.is_file())


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_what_failed_once_is_one_line(path: Path, tmp_path: Path) -> None:
    content = path.read_bytes()
    assert content != valid()[path.parent.name]
    said = ""
    with alarm(LIMIT_S):
        try:
            read_content(path.parent.name, content, tmp_path)
        except ParplanError as error:
            said = str(error)
    assert said or path.name.startswith("ok-"), "was accepted"
    assert not said or said.isprintable()
    assert len(said) < 3000
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0


@pytest.mark.parametrize("name", READERS)
def test_a_file_that_is_right_is_read(name: str, tmp_path: Path) -> None:
    assert read_content(name, valid()[name], tmp_path)
