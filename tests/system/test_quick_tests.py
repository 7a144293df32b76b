"""`make quick` runs the tests that a change reaches, the nearest first."""

from tests.tools.quick_tests import ALWAYS, ROOT, distances, import_graph, ordered_tests

GRAPH = {
    "sim/a.py": set[str](),
    "sim/b.py": {"sim/a.py"},
    "tests/sim/test_a.py": {"sim/a.py"},
    "tests/sim/test_b.py": {"sim/b.py"},
    "tests/other/test_c.py": set[str](),
}


def test_distances_count_the_imports_that_lead_to_a_change() -> None:
    assert distances(GRAPH, ["sim/a.py"]) == {
        "sim/a.py": 0,
        "sim/b.py": 1,
        "tests/sim/test_a.py": 1,
        "tests/sim/test_b.py": 2,
    }
    assert distances(GRAPH, ["sim/table.toml"])["tests/sim/test_b.py"] == 1
    assert distances(GRAPH, ["tests/other/test_c.py"]) == {"tests/other/test_c.py": 0}


def test_the_nearest_tests_come_first_and_others_not_at_all() -> None:
    assert ordered_tests(GRAPH, ["sim/a.py"]) == [
        *ALWAYS,
        "tests/sim/test_a.py",
        "tests/sim/test_b.py",
    ]


def test_the_repository_is_seen_as_it_is() -> None:
    graph = import_graph()
    assert "sim/plan.py" in graph["tests/sim/test_plan.py"]
    assert all((ROOT / file).is_file() for file in ALWAYS)
    own = ordered_tests(graph, ["planners/algorithms/heuristic/beam.py"])
    assert 0 < len(own) - len(ALWAYS) < len([f for f in graph if "/test_" in f])
    # The tests of one page, and of all pages, come first.
    first = ordered_tests(graph, ["docs/schedules.md"])[len(ALWAYS) :][:2]
    assert set(first) == {"tests/docs/test_schedules_page.py", "tests/docs/test_docs.py"}
