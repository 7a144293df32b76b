"""Options of a search, and what the environment sets."""

import pytest

from parplan.errors import ParplanError
from parplan.planners.spaces.options import Options, settings_from_environment, switched_off


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_stages", 0),
        ("num_stages", True),
        ("num_micro_batches", "four"),
        ("activation_recomputation", 1),
        ("distribute_parameter", "yes"),
        ("mixed_precision", 1),
        ("memory_ratio_percent", 0),
        ("memory_ratio_percent", 101),
        ("workers", 0),
        ("detailed_log", 3),
    ],
)
def test_a_wrong_value_is_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(ParplanError, match=field.split("_percent")[0].replace("_", ".")):
        Options(**{field: value})  # type: ignore[arg-type]


def test_the_environment_sets_what_it_names() -> None:
    found = settings_from_environment(
        {
            "PARPLAN_MEMORY_USAGE_CORRECTION_RATIO": "70",
            "PARPLAN_MAX_PARALLEL_COMPILE_THREADS": "2",
            "PARPLAN_DETAILED_LOG": "2",
            "OTHER": "1",
        }
    )
    assert found == {"memory_ratio_percent": 70.0, "workers": 2, "detailed_log": 2}
    assert settings_from_environment({}) == {}


@pytest.mark.parametrize("text", ["", "many", "-1", "1.5"])
def test_a_wrong_variable_is_refused_by_name(text: str) -> None:
    with pytest.raises(ParplanError, match="PARPLAN_MAX_PARALLEL_COMPILE_THREADS"):
        settings_from_environment({"PARPLAN_MAX_PARALLEL_COMPILE_THREADS": text})


def test_the_switch() -> None:
    name = "PARPLAN_ENABLE_ADVANCED_PARALLELIZATION"
    assert switched_off({name: "0"})
    assert not switched_off({name: "1"})
    assert not switched_off({})
    with pytest.raises(ParplanError, match=name):
        switched_off({name: "on"})
