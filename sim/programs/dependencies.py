"""Data dependencies between actions."""

from parplan.sim.programs.instructions import Action, Schedule


def producers(schedule: Schedule) -> dict[Action, Action]:
    """For each action that needs a message of a neighbouring stage, the action that makes it.

    A forward needs the activations of the stage before it; B and I need the gradient that the stage
    after it computes with its B or I. Actions that need none are left out.
    """
    actions = {action for rank in schedule for action in rank}
    last = max((action.stage for action in actions), default=0)
    made: dict[Action, Action] = {}
    for action in actions:
        stage, op, micro_batch = action
        if op == "F" and stage > 0:
            made[action] = Action(stage - 1, "F", micro_batch)
        elif op in "BI" and stage < last:
            split = Action(stage + 1, "I", micro_batch)
            made[action] = split if split in actions else Action(stage + 1, "B", micro_batch)
    return made
