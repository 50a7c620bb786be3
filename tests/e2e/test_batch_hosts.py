"""How a batch runs: what it prints, who does which job on how many hosts, and what it says where Ray is missing."""

from __future__ import annotations

import io
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from commands.batch import cluster, command, jobs, lines, machine, options, show, spec, work
from commands.batch.ledger import Outcome, ledger_at
from commands.batch.queue import Queue
from commands.talk import ServerError
from esd_pack.esd.errors import EsdError
from lab.launch import arguments
from lab.launch import batch as launch
from support.paths import ROOT

TEXT = "models: [a.safetensors, b.safetensors]\nconcepts: [cat, dog, bird]\n"


def listed(text: str = TEXT) -> list[jobs.Job]:
    return jobs.jobs_of(spec.from_document(lines.parse(text, "jobs.yaml")))


def chosen(*words: str):
    return options.own_parser().parse_args(words)


def run(*words: str) -> int:
    """The command, with no host at hand."""
    return command.run(chosen(*words), lambda: [], lambda: None)


def test_a_dry_run_prints_the_plan_writes_every_graph_and_runs_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("jobs.yaml").write_text(TEXT, encoding="utf-8")
    assert run("jobs.yaml", "--dry-run") == 0
    said = capsys.readouterr().out
    assert "6 graphs are written" in said and re.search(r"a\.safetensors +3 +0 ", said)
    results = Path("jobs-results")
    assert sorted(path.stem for path in results.glob("graphs/*.json")) == sorted(job.name for job in listed())
    assert list((results / "jobs").iterdir()) == []


def test_no_host_fails_every_job_and_says_why(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("jobs.yaml").write_text(TEXT, encoding="utf-8")
    assert run("jobs.yaml", "--first", "2") == 1
    said = capsys.readouterr().out
    assert "no host was left" in said and "0 of 6 done, 2 failed, 4 not done yet: the same command goes on" in said


def test_the_module_of_an_installed_pack_is_the_same_command():
    done = subprocess.run(
        [sys.executable, "-m", "commands.batch", "--schema"], capture_output=True, cwd=ROOT, check=True
    )
    assert done.stdout.decode() == (ROOT / "commands" / "batch" / "jobs.schema.json").read_text("utf-8")


def test_without_ray_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(EsdError, match=r"run pip install ray \(.*\), or leave --ray out"):
        cluster.connect("auto")


def test_each_gpu_gets_a_host_of_its_own(monkeypatch):
    def given(*words: str) -> list[dict[str, str]]:
        return launch.gpus(arguments.batch_parser().parse_args(["jobs.yaml", *words]))

    name = "CUDA_VISIBLE_DEVICES"
    monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert given() == [{name: "0"}, {name: "1"}]
    monkeypatch.setenv(name, "2, GPU-8f")
    assert given() == [{name: "2"}, {name: "GPU-8f"}]
    assert given("--", "--cuda-device", "1") == given("--", "--cuda-device=1") == given("--", "--cpu") == [{}]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert given() == [{}]


def test_what_follows_two_dashes_goes_to_the_host_wherever_it_stands():
    parsed = arguments.batch_parser().parse_args(["jobs.yaml", "--first", "1", "--", "--cpu", "--", "x"])
    assert (parsed.first, parsed.comfyui) == (1, ["--cpu", "--", "x"])


def test_two_hosts_share_the_jobs_and_each_keeps_to_its_model(tmp_path, monkeypatch):
    both, done = threading.Barrier(2, timeout=30), []

    def do(job, host, *_):
        if host.name not in [name for name, _ in done]:
            both.wait()  # neither has more than one before the other has one
        done.append((host.name, job.model))
        return Outcome(job.key, "done")

    monkeypatch.setattr(machine, "do", do)
    queue, stopped = Queue(listed(), {}), []

    def host(name):
        return work.Host(name, None, None, stop=lambda: stopped.append(name))

    machine.Machine(queue, ledger_at(str(tmp_path)), [lambda: host("one"), lambda: host("two")]).run(lambda: None)
    assert len(done) == 6 and all(outcome.is_done for outcome in queue.outcomes.values())
    firsts = {name: model for name, model in reversed(done)}
    assert set(firsts) == {"one", "two"} and len(set(firsts.values())) == 2
    assert sorted(stopped) == ["one", "two"]


def test_a_host_that_cannot_start_leaves_the_jobs_to_the_other(tmp_path, monkeypatch):
    def broken():
        raise ServerError("no CUDA")

    monkeypatch.setattr(machine, "do", lambda job, *_: Outcome(job.key, "done"))
    queue = Queue(listed(), {})
    machine.Machine(queue, ledger_at(str(tmp_path)), [broken, lambda: work.Host("two", None, None)]).run(lambda: None)
    assert all(outcome.is_done for outcome in queue.outcomes.values())


def test_results_that_cannot_be_asked_for_fail_a_job_and_not_the_batch(tmp_path, monkeypatch):
    ledger, asked = ledger_at(str(tmp_path)), []

    def found(job):
        asked.append(job)
        raise PermissionError("403") if len(asked) == 1 else KeyError("no such bucket")

    monkeypatch.setattr(ledger, "found", found)
    queue = Queue(listed("models: [a]\nconcepts: [cat, dog]\n"), {})
    machine.Machine(queue, ledger, [lambda: work.Host("one", None, None)]).run(lambda: None)
    reasons = [outcome.reason for outcome in queue.outcomes.values()]
    assert queue.is_over and len(reasons) == 2 and any("no such bucket" in each for each in reasons), reasons


def test_a_result_that_is_seen_late_is_waited_for(tmp_path, monkeypatch):
    ledger, (job,) = ledger_at(str(tmp_path)), listed("models: [a]\nconcepts: [cat]\n")
    queue = Queue([job], {})
    driver = cluster.Cluster(queue, ledger, None, spec.Resources(), Path)
    queue.take("worker")
    driver._end_job(job, Outcome(job.key, "done"))
    driver._look_again()
    assert not queue.is_over and len(driver.unseen) == 1
    with ledger.staging(job) as staging:
        ledger.commit(job, staging, Outcome(job.key, "done", host="late"))
    driver._look_again()
    assert queue.is_over and queue.outcomes[job.key].host == "late"


def test_a_result_that_is_never_seen_has_failed(tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "UNSEEN_SECONDS", -1.0)
    (job,) = listed("models: [a]\nconcepts: [cat]\n")
    queue = Queue([job], {})
    driver = cluster.Cluster(queue, ledger_at(str(tmp_path)), None, spec.Resources(), Path)
    queue.take("worker")
    driver._end_job(job, Outcome(job.key, "done"))
    assert "name a folder that all nodes share" in queue.outcomes[job.key].reason


def test_no_worker_is_on_two_nodes():
    node = {"CPU": 8.0, "GPU": 1.0, "memory": 16.0 * 2**30}
    assert cluster.room_for(spec.Resources(gpus=2), [node, node]) == 0
    assert cluster.room_for(spec.Resources(gpus=0.5, cpus=4), [node, {"CPU": 4.0}, node]) == 4
    assert cluster.room_for(spec.Resources(gpus=0, cpus=3, memory_gb=10), [node, node]) == 2


def test_a_mistake_of_the_user_s_is_not_tried_again():
    queue = Queue(listed(), {})
    taken = queue.take("x")
    queue.end(Outcome(taken.key, "failed", reason="no such model"))
    assert taken not in queue.waiting and queue.outcomes[taken.key].reason == "no such model"


@pytest.mark.parametrize("is_terminal", [True, False])
def test_the_screen_tells_each_end_once_and_who_is_at_what(monkeypatch, is_terminal):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return is_terminal

    monkeypatch.setattr(sys, "stdout", Terminal())
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERM", "xterm")
    queue, said = Queue(listed(), {}), []
    with show.Screen(queue, said.append) as screen:
        first, second = queue.take("host 1"), queue.take("host 2")
        queue.tell(second, "step 3 of 9")
        screen()
        queue.end(Outcome(first.key, "failed", reason="[bold]no such model[/bold]"))
        screen()
        if is_terminal:
            screen.live.refresh()
    shown = sys.stdout.getvalue() if is_terminal else "\n".join(said)
    assert shown.count(f"failed {first.title}  [bold]no such model[/bold]") == 1
    assert ("step 3 of 9" in shown and "host 2" in shown) == is_terminal
    ended = int(is_terminal)  # plain lines tell how far all is at the first look, and then every half minute
    assert f"0 of 6 done, {ended} failed, {2 - ended} running" in shown
