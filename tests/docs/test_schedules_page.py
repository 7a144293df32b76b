"""The page about schedules says what the catalogue says, and its code prints what it shows."""

from pathlib import Path

from parplan.sim.schedules import CATALOGUE

PAGE = (Path(__file__).parents[2] / "docs/schedules.md").read_text(encoding="utf-8")


def test_the_table_is_the_catalogue() -> None:
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in PAGE.splitlines()
        if line.startswith("| `")
    ]
    assert [row[0].strip("`") for row in rows] == list(CATALOGUE)
    for (_, stages, placement, backward, micro_batches, _), kind in zip(
        rows, CATALOGUE.values(), strict=True
    ):
        allowed = kind.virtual_stages
        some = "any" if allowed.step == 1 else "even"
        assert stages == (some if len(allowed) > 1 else str(allowed[0]))
        assert placement == kind.placement
        assert (backward == "split") == kind.splits_backward
        assert (micro_batches == "equal rounds") == kind.whole_rounds
