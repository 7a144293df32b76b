"""The log of Advanced Parallelization (AP) on stdout, and its files in the current folder."""

import sys
from pathlib import Path

from parplan._files import check_writable, remove_file, write_whole
from parplan.planners.ap import log as ap_log
from parplan.planners.costs.trial import Trial
from parplan.planners.search.report import Report
from parplan.sim.memory.peak import GB
from parplan.sim.plan import Plan


class ApOutput:
    """AP's log, line for line, as a search goes on; nothing where it is not wanted."""

    def __init__(self, *, wanted: bool, printed: bool, version: str) -> None:
        """`printed`: whether lines go to stdout; files are written all the same."""
        self.wanted = wanted
        self.printed = printed
        self.version = version
        if wanted:
            check_writable(Path.cwd())
        # A search that finds nothing leaves no choice of an earlier one.
        remove_file(Path(ap_log.DUMP_NAME))

    def start(self, num_candidates: int, varying: list[int] | None) -> None:
        """What is said before the search. `varying`: the batches, where they are not the same."""
        self._info(ap_log.GOT_DATABASES)
        if varying is not None:
            self._say("warning", ap_log.batches_vary(varying))
        self._info(ap_log.num_candidates(num_candidates))
        self._info(ap_log.COMPILE_START)

    def searched(self, report: Report, num_possible: int, detail: int) -> None:
        """What is said after it; `detail`: 1: also every candidate, 2: in a file."""
        self._info(ap_log.compile_time(report.compile_s))
        self._info(ap_log.COMPILE_FINISHED)
        self._info(ap_log.num_possible(num_possible, is_all=report.tried_all))
        self._info(ap_log.SELECT_START)
        self._info(ap_log.cost_time(report.cost_s))
        self._info(ap_log.SELECT_FINISHED)
        lines = [self._detail(i, trial) for i, trial in enumerate(report.trials, start=1)]
        if detail == 1:
            for line in lines:
                self._info(line)
        elif detail == 2:
            write_whole(Path(ap_log.DETAIL_NAME), "".join(f"{line}\n" for line in lines).encode())

    def selected(self, plan: Plan) -> None:
        """The choice."""
        if not self.wanted:
            return
        line = ap_log.selected_line(plan, self.version)
        write_whole(Path(ap_log.DUMP_NAME), f"{line}\n".encode())
        self._info(ap_log.SELECTED)
        self._info(line)
        self._info("train: true")

    def _detail(self, number: int, trial: Trial) -> str:
        line = f"candidate {number}: {ap_log.selected_line(trial.plan, self.version)}: "
        if trial.step_s is None:
            return f"{line}not possible: {trial.reason}"
        return f"{line}{max(trial.memory_bytes) / GB:.1f} GB, {trial.step_s:.4g} s"

    def _info(self, line: str) -> None:
        self._say("info", line)

    def _say(self, level: str, line: str) -> None:
        if self.wanted and self.printed:
            sys.stdout.write(f"[{level}] {line}\n")
            sys.stdout.flush()
