"""Every attack of the table is refused in one line that names what is wrong."""

import json
from pathlib import Path

import pytest

from parplan.experiments.cli import main
from parplan.sim.plan import Plan
from parplan.sim.plan_file import plan_table
from parplan.sim.workload import Workload
from tests.system.attacks import ATTACKS, Attack, make


def _named(attack: Attack) -> str:
    return " ".join(word[:20] for word in attack.words if word.isprintable())


@pytest.mark.parametrize("attack", ATTACKS, ids=_named)
def test_an_attack_is_refused(
    attack: Attack,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    workload = Workload("gpt-tiny", seq_len=64, global_batch=16)
    table = plan_table(Plan(data_parallel=8, batch_per_device=2), workload, "8xh100")
    Path("plan.json").write_text(json.dumps(table))
    make(attack, tmp_path)
    before = sorted(path.name for path in tmp_path.iterdir())
    try:
        code = main(list(attack.words))
    except SystemExit as ended:  # argparse ends the process itself.
        code = int(str(ended.code))
    said = capsys.readouterr()
    assert code == 2, said.err
    assert attack.says in said.err
    assert said.err.count("\n") == 1
    assert said.err[:-1].isprintable()
    assert len(said.err) < 1800
    assert sorted(path.name for path in tmp_path.iterdir()) == before
