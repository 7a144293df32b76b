"""What the sources must not do with data: evaluate it, unpickle it, or hand it to a shell."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = [
    path
    for folder in ("hardware", "sim", "planners", "backend", "experiments")
    for path in sorted((ROOT / folder).rglob("*.py"))
]
FORBIDDEN = {
    *("eval", "exec", "compile", "__import__"),
    *("os.system", "os.popen", "os.execv", "os.execvp", "pty.spawn"),
    *("pickle.load", "pickle.loads", "pickle.Unpickler", "marshal.load", "marshal.loads"),
    *("shelve.open", "numpy.load", "np.load", "torch.load", "pandas.read_pickle", "pd.read_pickle"),
    *("yaml.load", "yaml.unsafe_load", "yaml.full_load", "tempfile.mktemp"),
    *("subprocess.getoutput", "subprocess.getstatusoutput"),
}


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


READERS = ("json.load", "json.loads", "tomllib.load", "tomllib.loads", "json.JSONDecoder")
OWN_DATA = {
    "planners/conformance.py": "what a process of its own printed",
    "experiments/reproduce/published.py": "a shipped file",
    "experiments/accuracy/measured_trace.py": "traces hold much that is not strict, and not used",
    "experiments/output/new_folder.py": "what was written just before",
    "experiments/output/journal.py": "what was written just before",
    "experiments/benchmarks/planners.py": "what a process of its own printed",
    "experiments/benchmarks/large_jobs.py": "what a process of its own printed",
    "experiments/benchmarks/scripts.py": "a plan that it wrote itself",
}
"""Files that read JSON without `parplan._strict`, and what they read."""


def test_what_users_give_is_read_strictly() -> None:
    folders = ("hardware/", "sim/", "planners/", "experiments/")
    lenient = {
        name
        for path in FILES
        if (name := str(path.relative_to(ROOT))).startswith(folders)
        for call, _ in calls(ast.parse(path.read_text(encoding="utf-8")))
        if call in READERS
    }
    assert lenient == set(OWN_DATA)


def forbidden(source: str) -> list[str]:
    found = []
    for name, call in calls(ast.parse(source)):
        shell = any(k.arg == "shell" and ast.unparse(k.value) != "False" for k in call.keywords)
        if ast.unparse(call).endswith("weights_only=True)") and name == "torch.load":
            continue  # Tensors and plain values alone.
        if name in FORBIDDEN or shell:
            found.append(f"line {call.lineno}: {ast.unparse(call)[:80]}")
    return found


def test_no_source_evaluates_unpickles_or_runs_data() -> None:
    assert len(FILES) > 200
    found = {str(p.relative_to(ROOT)): forbidden(p.read_text(encoding="utf-8")) for p in FILES}
    assert {name: lines for name, lines in found.items() if lines} == {}


@pytest.mark.parametrize(
    "source",
    [
        "eval(x)",
        "pickle.loads(b)",
        "subprocess.run(c, shell=True)",
        "os.system(c)",
        "np.load(f)",
        "torch.load(f)",
    ],
)
def test_what_would_be_found(source: str) -> None:
    assert forbidden(source)
