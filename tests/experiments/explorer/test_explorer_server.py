"""The page of `parplan explore` without a browser: its data, its file, what the server refuses."""

import csv
import http.client
import json
import math
import re
import threading
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from parplan.errors import ParplanError
from parplan.experiments.cli import main
from parplan.experiments.explorer.candidates import candidate_table, read_trials
from parplan.experiments.explorer.job import ExploredJob, from_folder
from parplan.experiments.explorer.page import page
from parplan.experiments.explorer.server import ExplorerServer
from parplan.experiments.planning.files import trial_row
from parplan.planners.costs.trial import Trial
from parplan.sim.analysis.time_split import BUBBLE, PARTS
from parplan.sim.plan import Plan

PLAN = ("plan", "llama2-7b", "--cluster", "8xh100", "--seq-len", "1024", "--global-batch", "16")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("explorer") / "out"
    assert main([*PLAN, "--space", "full", "-q", "-o", str(found)]) == 0
    return found


@pytest.fixture(scope="module")
def job(folder: Path) -> ExploredJob:
    return from_folder(folder)


@pytest.fixture(scope="module")
def server(job: ExploredJob) -> Iterator[ExplorerServer]:
    with ExplorerServer(job) as found:
        thread = threading.Thread(target=found.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield found
        found.shutdown()
        thread.join(timeout=10)


def ask(
    server: ExplorerServer,
    path: str,
    body: Any = None,
    headers: dict[str, str] | None = None,
    token: str | None = None,
) -> tuple[int, dict[str, str], str]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)
    try:
        own = {"X-Parplan-Token": server.token if token is None else token, **(headers or {})}
        method = "GET" if body is None else "POST"
        content = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        connection.request(method, path, content, own)
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read().decode()
    finally:
        connection.close()


def test_the_candidates_of_a_folder_are_those_of_the_search(folder: Path, job: ExploredJob) -> None:
    summary = json.loads((folder / "summary.json").read_text())
    assert len(job.trials) == summary["search"]["candidates"]
    timed = [trial for trial in job.trials if trial.step_s is not None]
    assert len(timed) == summary["search"]["fitting"]
    best = min(timed, key=lambda trial: trial.step_s or 0.0)
    assert best.plan.to_json() == Plan.from_json(summary["plan"]).to_json()
    assert best.step_s == summary["predicted"]["step_s"]
    table = job.table()
    place = table["text"].index(summary["text"])
    assert table["step_s"][place] == best.step_s
    for name, field in table["fields"].items():
        assert len(field["of"]) == len(job.trials)
        value = getattr(best.plan, name)
        shown = field["values"][field["of"][place]]
        assert shown == ({True: "yes", False: "no"}[value] if isinstance(value, bool) else value)


def test_every_kind_of_plan_is_read_back(tmp_path: Path) -> None:
    from parplan.experiments.output.folder import OutputFolder
    from parplan.experiments.planning.files import trial_row

    plans = [
        Plan(num_stages=2, stage_layers=(3, 5), recomputation="full", recomputed_of_stages=(1, 0)),
        Plan(recomputation="selective", recomputed_ops=("attention", "mlp"), shard_group=1),
        Plan(zero_stage=3, offload_optimizer=True, expert_tensor_parallel=1),
    ]
    trials = [Trial(plan=plan, memory_bytes=(1e9, 2e9), step_s=0.5) for plan in plans]
    trials.append(Trial(plan=Plan(), reason="cannot, because"))
    output = OutputFolder(tmp_path / "out", [])
    output.write_csv("trials.csv", [trial_row(i, trial) for i, trial in enumerate(trials, 1)])
    assert read_trials(tmp_path / "out" / "trials.csv") == trials


def test_a_plan_in_detail_adds_up(job: ExploredJob) -> None:
    table = job.table()
    place = min(
        (i for i, s in enumerate(table["step_s"]) if s is not None and "num_stages" in str(table)),
        key=lambda i: table["step_s"][i],
    )
    found = job.of_plan(table["plans"][place])
    assert found["step_s"] == table["step_s"][place]
    assert sum(part["seconds"] for part in found["time"]) == pytest.approx(found["step_s"])
    assert all(
        0 <= start < end <= found["step_s"] * (1 + 1e-9)
        for bars in found["bars"].values()
        for _, start, end, _ in bars
    )
    shares = [bar[3] for bars in found["bars"].values() for bar in bars]
    assert all(0 < share <= 1 for share in shares)
    split = next(p for p in table["plans"] if p.get("tensor_parallel", 1) > 1)
    assert "exchange within layers" in job.of_plan(split)["bars"]
    peak = max(max(curve["gb"]) for curve in found["memory"])
    assert peak == pytest.approx(table["memory_gb"][place], rel=0.02)
    assert "megatron" in found["exports"]


def test_other_sizes_are_searched_and_wrong_ones_refused(job: ExploredJob) -> None:
    doubled = job.asked({"global_batch": 32, "compute": 2})
    assert doubled.workload.global_batch == 32
    rates = (doubled.cluster.accelerator.peak_flop_per_s, job.cluster.accelerator.peak_flop_per_s)
    assert rates[0].of("bf16") == 2 * rates[1].of("bf16")
    assert any(trial.step_s for trial in doubled.trials)
    assert job.asked({"num_accelerators": 16}).cluster.num_accelerators == 16
    wrong: list[dict[str, Any]] = [
        *({"seq_len": 0}, {"batch": 3}, {"compute": "x"}, {"num_accelerators": 10**7}),
        *({"compute": value} for value in (math.inf, math.nan, 1e300, 1e-300, 0, -1, True)),
    ]
    for sizes in wrong:
        with pytest.raises(ParplanError):
            job.asked(sizes)


def test_everything_is_searched_by_branch_and_bound_as_parplan_plan_does(
    job: ExploredJob, server: ExplorerServer, tmp_path: Path
) -> None:
    assert main([*PLAN, "-q", "-o", str(tmp_path / "out")]) == 0
    planned = from_folder(tmp_path / "out")
    best_s = min(trial.step_s for trial in planned.trials if trial.step_s is not None)
    assert "branch-and-bound" in planned.search
    sizes = {"global_batch": 32}
    code, _, full = ask(server, "/search", sizes)
    assert code == 200
    assert not json.loads(full)["is_whole"]
    code, _, text = ask(server, "/improve", sizes)
    found = json.loads(text)
    assert code == 200
    assert found["is_whole"]
    assert "branch-and-bound" in found["search"]
    before = json.loads(full)["plans"]
    assert found["plans"][: len(before)] == before
    asked = job.asked({"global_batch": 16}).improved()
    assert min(t.step_s for t in asked.trials if t.step_s is not None) == pytest.approx(
        best_s, rel=0.01
    )
    again = json.loads(ask(server, "/improve", sizes)[2])
    assert again["step_s"] == found["step_s"]


def test_a_search_that_is_overtaken_ends(job: ExploredJob) -> None:
    asked = job.asked({"global_batch": 64})
    ticks = iter([0.0, 0.0])
    ended = asked.improved(clock=lambda: next(ticks, math.inf))
    assert ended.is_whole
    assert len(ended.trials) - len(asked.trials) <= 1


def test_every_part_of_a_step_has_a_colour() -> None:
    script = (resources.files("parplan.experiments.explorer") / "charts.js").read_text()
    found = re.search(r"PART_COLOURS = \{(.*?)\};", script, flags=re.DOTALL)
    assert found is not None
    named = set(re.findall(r'"?([a-z][a-z ]*)"?: "#', found[1]))
    assert named == {*PARTS, "bubble"} - {*BUBBLE}


def test_names_end_no_script(job: ExploredJob) -> None:
    from dataclasses import replace

    model = replace(job.workload.model, name="</script><script>alert(1)</script>")
    wicked = replace(job, workload=replace(job.workload, model=model), trials=job.trials[:3])
    text = page(wicked, served=True)
    assert "<script>alert(1)" not in text
    (data,) = re.findall(r'id="data">(.*?)</script>', text, flags=re.DOTALL)
    assert json.loads(data)["table"]["job"]["model"] == model.name


def test_a_file_needs_nothing_else(job: ExploredJob) -> None:
    text = page(job, served=False)
    assert not re.search(r'<(?:script|link|img)\b[^>]*(?:src|href)="(?!data:)', text)
    (data,) = re.findall(r'id="data">(.*?)</script>', text, flags=re.DOTALL)
    found = json.loads(data)
    assert len(found["details"]) == 12
    assert {int(place) for place in found["details"]} <= set(range(len(job.trials)))


def test_many_candidates_keep_the_fastest(
    job: ExploredJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("parplan.experiments.explorer.candidates.MOST", 10)
    table = candidate_table(job.workload, job.cluster, job.trials, 0.8)
    assert len(table["text"]) == 10
    assert table["left_out"] == len(job.trials) - 10
    assert min(table["step_s"]) == min(t.step_s for t in job.trials if t.step_s is not None)


def test_the_page_and_its_answers(server: ExplorerServer, job: ExploredJob) -> None:
    code, headers, text = ask(server, "/")
    assert code == 200
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert headers["X-Frame-Options"] == "DENY"
    assert 'id="data"' in text
    assert ask(server, "/library.js")[0] == 200
    plan = job.table()["plans"][0]
    code, _, text = ask(server, "/details", {"plan": plan, "sizes": {}})
    assert code == 200
    assert json.loads(text)["bars"]
    code, _, text = ask(server, "/search", {"global_batch": 32})
    assert code == 200
    assert json.loads(text)["job"]["global_batch"] == 32


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"Host": "evil.example"}, 421),
        ({"Host": "evil.example:80"}, 421),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"X-Parplan-Token": "wrong"}, 403),
        ({"X-Parplan-Token": ""}, 403),
        ({"X-Parplan-Token": "ü"}, 403),
    ],
)
def test_strangers_are_refused(server: ExplorerServer, headers: dict[str, str], code: int) -> None:
    encoded = {name: value.encode().decode("latin-1") for name, value in headers.items()}
    for path, body in (("/", None), ("/library.js", None), ("/search", {})):
        found, _, text = ask(server, path, body, encoded)
        assert found == code
        assert set(json.loads(text)) == {"error"}


@pytest.mark.parametrize(
    ("path", "body", "code"),
    [
        ("/../../etc/passwd", None, 404),
        ("/plan.json", None, 404),
        ("/details", None, 404),
        ("/nowhere", {}, 404),
        ("/search", b"no json", 400),
        ("/search", b"[]", 400),
        ("/search", b"[" * 90_000, 400),
        ("/search", b"x" * 200_000, 400),
        ("/search", {"seq_len": -1}, 400),
        ("/details", {"plan": {"num_stages": 3}, "sizes": {}}, 400),
        ("/details", {"plan": {"stages": 3}, "sizes": {}}, 400),
        ("/details", {"plan": 3}, 400),
    ],
)
def test_what_is_asked_wrongly_gets_one_line(
    server: ExplorerServer, path: str, body: Any, code: int
) -> None:
    found, _, text = ask(server, path, body)
    assert found == code
    (line,) = json.loads(text).values()
    assert "\n" not in line
    assert ask(server, "/")[0] == 200


@pytest.mark.parametrize("length", ["\xb2", "-5", "+5", "1e3", "9" * 5000, ""])
def test_a_length_that_is_none_is_refused(server: ExplorerServer, length: str) -> None:
    code, _, text = ask(server, "/details", b"", {"Content-Length": length})
    assert code == 400
    assert "of this length" in text


def test_a_mistake_of_parplan_is_told_and_the_page_stays(
    server: ExplorerServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(self: ExploredJob, sizes: Any) -> ExploredJob:
        raise ZeroDivisionError("by nought")

    monkeypatch.setattr(ExploredJob, "resized", fails)
    code, _, text = ask(server, "/details", {"plan": {}, "sizes": {}})
    assert code == 500
    assert "internal error: ZeroDivisionError: by nought" in json.loads(text)["error"]
    assert ask(server, "/")[0] == 200


def test_it_listens_on_the_loopback_alone(server: ExplorerServer) -> None:
    assert server.server_address[0] == "127.0.0.1"
    assert server.url.startswith(f"http://127.0.0.1:{server.server_port}/?token=")
    assert len(server.token) >= 32


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["explore", "missing"], "missing: is not a folder"),
        (["explore", "."], ".: holds no results of parplan plan"),
        (["explore", "llama2-7b", "--seq-len", "1k"], "--global-batch: is needed with a model"),
        (["explore", ".", "--port", "70000"], "--port: 0 to 65535"),
    ],
)
def test_mistakes_get_one_line(
    words: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    err = capsys.readouterr().err
    assert message in err
    assert len(err.splitlines()) == 1


def test_a_port_that_is_taken(
    server: ExplorerServer, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explore", str(folder), "--port", str(server.server_port)]) == 2
    assert "cannot be served on" in capsys.readouterr().err


def test_plans_that_recompute_several_operations_are_read_as_they_were_written(
    tmp_path: Path,
) -> None:
    sets = (("attention norm", "mlp norm"), ("mlp activation",), ("attention",))
    trials = [
        Trial(plan=Plan(recomputation="selective", recomputed_ops=ops), memory_bytes=(2.0,))
        for ops in sets
    ]
    path = tmp_path / "trials.csv"
    with path.open("w", newline="") as file:
        rows = [trial_row(i, trial) for i, trial in enumerate(trials)]
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    assert "attention norm; mlp norm" in path.read_text()
    assert [trial.plan for trial in read_trials(path)] == [trial.plan for trial in trials]
