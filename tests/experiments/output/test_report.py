"""The report of an output folder: whole, safe, without a network, and its tables sort."""

import csv
import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from parplan.errors import ParplanError
from parplan.experiments.cli import COMMANDS, main, make_parser
from parplan.experiments.report.render import render
from parplan.experiments.report.tables import csv_block, read_table, rounded

PLAN = ["plan", "gpt3-1.3b", "--cluster", "8xa100", "--seq-len", "1024", "--global-batch", "16"]
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("report")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(where)
        assert main([*PLAN, "--report", "-o", "made"]) == 0
    return where / "made"


def without_explorer(page: str) -> str:
    return re.sub(r'<script type="application/json".*?</script>', "", page, flags=re.DOTALL)


def text_of(page: str) -> str:
    return html.unescape(re.sub(r"<[^>]*>", " ", page))


def test_everything_of_the_folder_is_in_it(planned: Path) -> None:
    page = without_explorer((planned / "report.html").read_text(encoding="utf-8"))
    text = text_of(page)
    predicted = json.loads((planned / "plan.json").read_text())["predicted"]
    assert f"{predicted['step_s']:.4g} s" in text
    assert "nearest alternatives" in text
    assert page.count("data:image/png;base64,") == len(list(planned.glob("*.png"))) == 3
    rows = list(csv.DictReader((planned / "trials.csv").read_text().splitlines()))
    assert f"Every candidate ({len(rows)} rows, trials.csv)" in text
    assert all(row["step_s"] in page for row in rows)
    assert "on Ampere accelerators: the median of" in text
    assert json.loads((planned / "manifest.json").read_text())["commit"] in text


def test_it_needs_nothing_from_elsewhere(planned: Path) -> None:
    page = without_explorer((planned / "report.html").read_text(encoding="utf-8"))
    assert re.findall(r"""(?:src|href)=["'](?!data:|#)([^"']*)""", page) == []
    assert "@import" not in page
    assert "url(" not in page
    assert "fetch(" not in page


def test_the_candidates_of_a_search_are_part_of_the_report(planned: Path) -> None:
    page = (planned / "report.html").read_text(encoding="utf-8")
    (text,) = re.findall(r'id="explorer-page">(.*?)</script>', page, flags=re.DOTALL)
    (data,) = re.findall(r'id="data">(.*?)</script>', json.loads(text), flags=re.DOTALL)
    rows = list(csv.DictReader((planned / "trials.csv").read_text().splitlines()))
    table = json.loads(data)["table"]
    own = [str(step) if step is not None else "" for step in table["step_s"][: len(rows)]]
    assert own == [row["step_s"] for row in rows]
    assert len(table["step_s"]) > 10 * len(rows), "plans that the search ruled out are shown too"
    assert "Beside it, for this page" in table["search"]


def test_a_page_of_others_stays(
    planned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "out"
    shutil.copytree(planned, folder)
    (folder / "report.html").write_text("mine")
    assert main(["report", str(folder)]) == 2
    assert "report.html: is there already" in capsys.readouterr().err
    (folder / "explore.html").write_text("mine")
    assert main(["explore", str(folder), "-o", str(folder / "explore.html")]) == 2
    assert (folder / "explore.html").read_text() == "mine"


def test_pictures_can_be_left_out(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    words = [*PLAN, "--space", "full", "-q", "-o", str(folder)]
    assert main(words) == 0
    assert list(folder.glob("*.png"))
    assert main([*words, "--no-pictures"]) == 0
    assert not list(folder.glob("*.png"))
    manifest = json.loads((folder / "manifest.json").read_text())
    assert not [name for name in manifest["files"] if name.endswith(".png")]
    assert (folder / "timeline.json").is_file()


def test_a_folder_is_rendered_again_and_text_is_escaped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    (inner / "why.csv").write_text("what,step_s\n<script>alert(1)</script>,2.5\n")
    (tmp_path / "schedule.csv").write_text("0F0,0F1,0B0\n1F0,1B0\n")
    (tmp_path / "summary.txt").write_text("the <b>answer</b>")
    assert main(["report", str(tmp_path)]) == 0
    path = tmp_path / "report.html"
    assert capsys.readouterr().out == f"{path}\n"
    page = path.read_text(encoding="utf-8")
    assert "<script>alert" not in page
    assert "&lt;b&gt;answer" in page
    assert "0F0,0F1,0B0" in page
    assert "<h2>inner</h2>" in page
    assert main(["report", str(tmp_path), "-o", str(tmp_path / "again.html")]) == 0
    assert "again.html" not in path.read_text(encoding="utf-8")


@pytest.mark.parametrize(("name", "message"), [("none", "is not a folder"), ("", "holds nothing")])
def test_nothing_to_show_is_an_error(name: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ParplanError, match=message):
        render(tmp_path / name)


def test_a_mistake_leaves_an_earlier_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, planned: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(planned, "made")
    before = Path("made/report.html").read_bytes()
    assert main([*PLAN, "--cluster", "8xa10", "--report", "-o", "made"]) == 2
    assert Path("made/report.html").read_bytes() == before


def test_commands_that_write_a_folder_have_the_option(
    capsys: pytest.CaptureFixture[str],
) -> None:
    have = set()
    for name in COMMANDS:
        with pytest.raises(SystemExit):
            make_parser(name).parse_args([name, "--help"])
        if "--report" in capsys.readouterr().out:
            have.add(name)
    assert have >= {"plan", "simulate", "execute", "export", "import", "benchmark", "demo"}
    assert not have & {"calibrate", "hardware", "report"}


def test_long_tables_show_the_fastest_and_say_so() -> None:
    rows = "".join(f"a,{i},{5000 - i}\n" for i in range(5000))
    block = csv_block("trials.csv", "Trials", f"name,number,step_s\n{rows}")
    assert "the fastest 2,000 of 5,000 rows" in block
    assert block.count("<tr>") == 2001
    assert 'data-value="4999"' in block
    assert 'data-value="0"' not in block
    assert "In all rows: name a" in block


def test_only_tables_with_a_header_are_tables() -> None:
    assert read_table("a,b\n1,2\n") is not None
    assert read_table("0F0,1F0\n0F1\n") is None
    assert read_table("1,2\n3,4\n") is None
    assert read_table("") is None


@pytest.mark.parametrize(
    ("text", "shown"),
    [("12345", "12,345"), ("0.12345", "0.1235"), ("12345.6", "12,346"), ("1e-9", "1.000e-09")],
)
def test_numbers_are_rounded_for_the_eye(text: str, shown: str) -> None:
    assert rounded(text) == shown


def test_a_browser_shows_it_and_sorts_its_tables(tmp_path: Path) -> None:
    browser = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if browser is None:
        pytest.skip(f"none of {', '.join(BROWSERS)} is installed")
    values = ["10", "9", "", "1e2", "-3"]
    cells = "".join(f"row{i},{value},x{i % 2}\n" for i, value in enumerate(values))
    (tmp_path / "table.csv").write_text(f"name,value,kind\n{cells}")
    # Presses the heading of `value` twice, and says the order of the rows after each time.
    script = """<script>
    const said = [];
    for (let i = 0; i < 2; i++) {
      document.querySelectorAll("th button")[1].click();
      const rows = document.querySelectorAll("tbody tr");
      said.push([...rows].map((row) => row.cells[0].textContent).join(" "));
    }
    document.title = said.join(", ");
    </script>"""
    page = tmp_path / "page.html"
    page.write_text(render(tmp_path).replace("</body>", f"{script}</body>"), encoding="utf-8")
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync"
    flags += " --disable-background-networking --disable-component-update --dump-dom"
    done = subprocess.run(
        [browser, *flags.split(), f"--user-data-dir={tmp_path / 'profile'}", page.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    up, down = "row4 row1 row0 row3 row2", "row3 row0 row1 row4 row2"
    assert f"<title>{up}, {down}</title>" in done.stdout


def test_folders_that_no_command_wrote_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(1001):
        (tmp_path / f"{number}.csv").touch()
    for folder, said in (
        ("a" * 300, "is not a folder"),
        ("/dev/null", "is not a folder"),
        (str(tmp_path), "holds over 1000 files"),
    ):
        assert main(["report", folder, "-o", str(tmp_path / "page.html")]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert said in line
