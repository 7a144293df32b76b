"""Size limits of the schedules, each with its reason in one line."""

from parplan.errors import ParplanError


def default_group(num_ranks: int, num_micro_batches: int) -> int:
    """Micro-batches that go through a chunk before the next chunk's turn, as torch has it: as many
    equal rounds as there are whole ones of `num_ranks`."""
    return num_micro_batches // max(1, num_micro_batches // num_ranks)


def unequal_rounds(num_ranks: int, num_micro_batches: int, virtual_stages: int) -> str:
    """Interleaved schedules: equal rounds of about as many micro-batches as ranks."""
    rounds = max(1, num_micro_batches // num_ranks)
    if num_micro_batches % rounds == 0:
        return ""
    below = num_micro_batches - num_micro_batches % num_ranks
    return (
        f"{num_micro_batches} micro-batches on {num_ranks} ranks do not make {rounds} equal "
        f"rounds; take a multiple of {num_ranks}, such as {below}"
    )


def too_few_for_dualpipe_v(num_ranks: int, num_micro_batches: int, virtual_stages: int) -> str:
    """DualPipeV: at least as many micro-batches as stages."""
    if num_micro_batches >= 2 * num_ranks:
        return ""
    return (
        f"{num_micro_batches} micro-batches; needs at least as many as there are stages, "
        f"{2 * num_ranks}"
    )


def odd_or_few_for_dualpipe(num_ranks: int, num_micro_batches: int, virtual_stages: int) -> str:
    """DualPipe: even numbers of ranks and micro-batches, at least two micro-batches per rank."""
    if num_ranks % 2:
        return f"{num_ranks} ranks; needs an even number"
    if num_micro_batches % 2 or num_micro_batches < 2 * num_ranks:
        return (
            f"{num_micro_batches} micro-batches; needs an even number of at least "
            f"{2 * num_ranks} for {num_ranks} ranks"
        )
    return ""


def check_group(num_ranks: int, num_micro_batches: int, group: int) -> None:
    """Raise `ParplanError` unless groups of so many micro-batches can be interleaved."""
    rest = num_micro_batches % group
    if group < min(num_ranks, num_micro_batches) or 0 < rest < num_ranks:
        raise ParplanError(
            f"group_size: {group} of {num_micro_batches} micro-batches on {num_ranks} ranks; every "
            f"group, the last one too, needs at least {num_ranks}"
        )
