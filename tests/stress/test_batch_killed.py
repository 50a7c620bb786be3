"""A batch on this machine is killed in the middle: its server ends with it, and the same command goes on."""

from __future__ import annotations

import psutil

from support import batches

COUNT = 4


def test_the_server_ends_with_the_batch_and_the_same_command_goes_on(host, tmp_path):
    jobs = batches.jobs_file(tmp_path, batches.objects(COUNT))
    results, whole = tmp_path / "results", tmp_path / "whole"
    driver = batches.start(jobs, "--results", results)
    batches.until(lambda: bool(batches.done(results)), driver)
    (server,) = psutil.Process(driver.pid).children()
    driver.kill()
    driver.wait()
    assert not psutil.wait_procs([server], timeout=30)[1]
    before = batches.done(results)
    assert 1 <= len(before) < COUNT
    driver = batches.start(jobs, "--results", results)
    said, _ = driver.communicate(timeout=1200)
    assert driver.returncode == 0 and f"{COUNT} of {COUNT} done, 0 failed." in said, said
    after = batches.done(results)
    assert {name: after[name] for name in before} == before
    assert not list(results.glob("jobs/.*"))
    assert batches.at(host, jobs, "--results", whole).returncode == 0
    assert batches.contents(results) == batches.contents(whole) and batches.look_alike(results, whole)
