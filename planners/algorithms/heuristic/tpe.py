"""Tree-structured Parzen estimators, by optuna (Bergstra et al. 2011, NeurIPS 24).

Each dimension of the space is a choice; optuna learns which values good plans have more often than
others, and `Space.nearest` makes any choice of values a plan. It learns from plans chosen by bounds
first, as evolution begins with.
"""

from collections.abc import Container, Mapping
from random import Random
from typing import Any

from parplan.planners.algorithms.heuristic.evolution import promising
from parplan.planners.costs.trial import Trial
from parplan.planners.search.evaluator import Evaluator
from parplan.planners.spaces.space import Space, point_of
from parplan.sim.plan import Plan

try:
    import optuna
    from optuna.distributions import BaseDistribution, CategoricalDistribution
except ImportError as error:
    raise ImportError(f"{error} (pip install 'parplan[optuna]')") from None

ALIKE = 20
"""Choices in a row that lead to plans that were tried; then one is drawn by chance."""


def tpe(space: Space, evaluate: Evaluator, rng: Random) -> None:
    """Try what optuna proposes, tell it how good that is, go on; ends when every plan was tried."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    fields = space.fields
    known: dict[str, BaseDistribution] = {
        name: CategoricalDistribution(values) for name, values in fields.items()
    }
    sampler = optuna.samplers.TPESampler(seed=rng.randrange(2**31))
    study = optuna.create_study(sampler=sampler)
    tried: dict[Plan, Trial] = {}

    def learn(trial: Trial) -> None:
        own, value = _values(trial.plan, fields), evaluate.energy(trial)
        study.add_trial(optuna.trial.create_trial(params=own, distributions=known, value=value))
        tried[trial.plan] = trial

    for trial in evaluate.many(promising(space, evaluate, rng)):
        learn(trial)
    alike = 0
    while len(tried) < len(space):
        asked = study.ask(known)
        plan = space.nearest(asked.params)
        alike = alike + 1 if plan in tried else 0
        if plan not in tried:
            tried[plan] = evaluate(plan)
        study.tell(asked, evaluate.energy(tried[plan]))
        if alike == ALIKE:
            learn(evaluate(_new(space, tried, rng)))
            alike = 0


def _new(space: Space, tried: Container[Plan], rng: Random) -> Plan:
    """A plan that was not tried, drawn by chance."""
    while (plan := space.sample(rng)) in tried:
        pass
    return plan


def _values(plan: Plan, fields: Mapping[str, tuple[Any, ...]]) -> dict[str, Any]:
    """A plan by the fields of its space."""
    point = point_of(plan)
    found = {**point.values(), **point.ordering._asdict()}
    return {name: found[name] for name in fields}
