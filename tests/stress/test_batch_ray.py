"""A batch on a real Ray cluster of several nodes on this machine, while its workers, nodes, driver and disk fail."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from support import batches

pytestmark = pytest.mark.nightly
ray = pytest.importorskip("ray", reason="Ray is not installed: pip install ray")
COUNT = 24
SHARED = {"ray": {"gpus": 0, "cpus": 1}}


@pytest.fixture(scope="module")
def cluster():
    """Two nodes with a processor each, and a head without."""
    from ray.cluster_utils import Cluster

    os.environ["RAY_worker_niceness"] = "0"  # else workers starve where other programs are busy
    made = Cluster()
    made.add_node(num_cpus=0, object_store_memory=100 * 2**20)
    made.nodes_of_the_test = [add_node(made) for _ in range(2)]
    yield made
    made.shutdown()
    del os.environ["RAY_worker_niceness"]


def add_node(cluster):
    return cluster.add_node(num_cpus=1, object_store_memory=100 * 2**20)


@pytest.fixture(scope="module")
def jobs(tmp_path_factory):
    """24 small jobs, and one that cannot be done."""
    return batches.jobs_file(tmp_path_factory.mktemp("jobs"), [*batches.objects(COUNT), batches.BAD], **SHARED)


@pytest.fixture(scope="module")
def alone(host, jobs, tmp_path_factory):
    """The results of one host on one machine."""
    results = tmp_path_factory.mktemp("alone")
    ended = batches.at(host, jobs, "--results", results)
    assert ended.returncode == 1 and f"{COUNT} of {COUNT + 1} done, 1 failed" in ended.stdout, ended.stdout
    return results


def workers() -> list[psutil.Process]:
    """The processes of workers that do a job now."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or [""]
        if words[0].startswith("ray::") and "emoji-world" in words[0]:
            found.append(process)
    return found


def start(cluster, jobs: Path, results: Path, scratch: Path) -> subprocess.Popen:
    return batches.start(jobs, "--ray", cluster.address, "--results", results, "--scratch", scratch)


def test_workers_nodes_and_the_driver_die_and_every_job_is_done_once(cluster, jobs, alone, tmp_path):
    results, scratch = tmp_path / "results", tmp_path / "scratch"
    driver = start(cluster, jobs, results, scratch)
    batches.until(lambda: len(batches.done(results)) >= 3 and bool(workers()), driver)
    workers()[0].send_signal(signal.SIGKILL)
    batches.until(lambda: len(batches.done(results)) >= 8, driver)
    cluster.remove_node(cluster.nodes_of_the_test.pop(), allow_graceful=False)
    batches.until(lambda: len(batches.done(results)) >= 11, driver)
    cluster.nodes_of_the_test.append(add_node(cluster))
    batches.until(lambda: len(batches.done(results)) >= 15, driver)
    os.killpg(driver.pid, signal.SIGKILL)
    driver.wait()
    time.sleep(5)  # what it had begun ends with it
    before = batches.done(results)
    assert not workers() and len(before) < COUNT
    driver = start(cluster, jobs, results, scratch)
    said, _ = driver.communicate(timeout=2400)
    assert driver.returncode == 1 and f"{COUNT} of {COUNT + 1} done, 1 failed" in said, said
    assert batches.contents(results) == batches.contents(alone) and batches.look_alike(results, alone)
    after = batches.done(results)
    assert {name: after[name] for name in before} == before  # none was done again
    assert not list(results.glob("jobs/.*"))  # and nothing is left half-done
    (failed,) = (job for job in json.loads((results / "report.json").read_text("utf-8"))["jobs"] if job["reason"])
    assert failed["concepts"] == [batches.BAD] and "does not know" in failed["reason"]


def test_a_disk_that_fills_fails_jobs_which_a_larger_one_then_has(cluster, jobs, alone, tmp_path):
    results, scratch = tmp_path / "small", tmp_path / "scratch"
    results.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=60m", "none", str(results)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small disk cannot be mounted here")
    try:
        said, _ = start(cluster, jobs, results, scratch).communicate(timeout=2400)
        held = batches.done(results)
        assert 3 <= len(held) <= 6 and "make room" in said, said
        subprocess.run(["mount", "-o", "remount,size=600m", str(results)], check=True)
        said, _ = start(cluster, jobs, results, scratch).communicate(timeout=2400)
        assert f"{COUNT} of {COUNT + 1} done, 1 failed" in said, said
        assert batches.contents(results) == batches.contents(alone) and batches.look_alike(results, alone)
        assert {name: batches.done(results)[name] for name in held} == held
    finally:
        subprocess.run(["umount", str(results)], check=True)


def test_base_files_come_through_the_object_store_up_to_a_limit(cluster, tmp_path):
    few = {"ray": {"gpus": 0, "cpus": 1, "base_files": "object store"}}
    jobs = batches.jobs_file(tmp_path, batches.objects(2), **few)
    said, _ = start(cluster, jobs, tmp_path / "results", tmp_path / "scratch").communicate(timeout=1200)
    assert "2 of 2 done, 0 failed" in said, said
    assert [path.name for path in (tmp_path / "scratch" / "models").iterdir()] == ["emoji-world.ckpt"]
    few["ray"]["largest_gb"] = 0.001
    jobs = batches.jobs_file(tmp_path, batches.objects(2), **few)
    said, _ = start(cluster, jobs, tmp_path / "none", tmp_path / "scratch").communicate(timeout=1200)
    assert "0 of 2 done, 2 failed" in said and "raise largest_gb" in said, said


def test_results_at_a_url_and_merged_parts(cluster, tmp_path):
    more = {**SHARED, "together": "all", "by": "merging"}
    jobs = batches.jobs_file(tmp_path, batches.objects(3), **more)
    place = f"file://{tmp_path / 'there'}"
    said, _ = start(cluster, jobs, place, tmp_path / "scratch").communicate(timeout=1200)
    assert "4 of 4 done, 0 failed" in said, said
    records = [json.loads(path.read_text("utf-8")) for path in (tmp_path / "there").glob("jobs/*/job.json")]
    assert sorted(len(record["needs"]) for record in records) == [0, 0, 0, 3]


def test_a_cluster_without_room_says_what_to_ask_for(cluster, tmp_path):
    jobs = batches.jobs_file(tmp_path, batches.objects(1), ray={"gpus": 1})
    said, _ = start(cluster, jobs, tmp_path / "results", tmp_path / "scratch").communicate(timeout=300)
    assert "ask for less under ray" in said and "Traceback" not in said, said


def test_a_comfyui_that_does_not_start_is_tried_thrice_and_says_why(cluster, tmp_path):
    jobs = batches.jobs_file(tmp_path, batches.objects(2), **SHARED)
    words = ("--ray", cluster.address, "--results", tmp_path / "results", "--", "--no-such-option")
    said, _ = batches.start(jobs, *words).communicate(timeout=300)
    assert said.count("a worker could not start: ComfyUI at") == 1, said
    assert "0 of 2 done, 2 failed" in said and "Traceback" not in said
