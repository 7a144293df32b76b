"""`parplan benchmark --bounds`: bounds of default spaces beside exact steps."""

import pytest

from parplan.errors import ParplanError
from parplan.experiments.benchmarks import sampled_bounds
from parplan.planners.bounds.bounds_by_layout import BoundsByLayout

JOB = sampled_bounds.SampledJob(model="gpt3-1.3b", cluster="6xa100", seq_len=2048, batch=12)


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampled_bounds, "LAYOUTS", 5)
    monkeypatch.setattr(sampled_bounds, "AT_ONCE", 120)


def found(samples: int) -> dict[str, float]:
    return {m.what: m.value for m in sampled_bounds.measures(samples, (JOB,))}


def test_no_bound_of_a_default_space_is_above_a_step() -> None:
    measured = found(60)
    assert measured["plans that fit"] == 60
    assert measured["bounds above their step"] == measured["ruled out, and fit"] == 0
    assert 0.7 < measured[f"{JOB.model} on {JOB.cluster}, bound over step"] < 1


@pytest.mark.parametrize(
    ("factor", "what"),
    [(1.6, "bounds above their step"), (float("inf"), "ruled out, and fit")],
)
def test_a_wrong_bound_is_counted(
    monkeypatch: pytest.MonkeyPatch, factor: float, what: str
) -> None:
    opened = BoundsByLayout.open

    def wrong(self: BoundsByLayout, layouts: list[int], ceiling: float = 0.0) -> list[int]:
        rows = opened(self, layouts, ceiling)
        chosen = rows[::2]  # Some stay as they are, or nothing would be left to draw.
        self.of_plans[chosen] *= factor
        return rows

    monkeypatch.setattr(BoundsByLayout, "open", wrong)
    assert found(60)[what] > 0


def test_no_plans_are_refused() -> None:
    with pytest.raises(ParplanError, match="--bounds: at least 1 plan, got 0"):
        found(0)
