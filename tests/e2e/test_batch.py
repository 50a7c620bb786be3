"""A batch on one machine's real host: parts and their merge, a job that cannot be done, going on, and the page."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest
import torch
from safetensors import safe_open

from commands.batch import jobs, spec
from esd_pack.esd.erasure import Erasure
from esd_pack.esd.merge import BY_PROMPTS, merge
from lab.launch.server import Server
from support import batches
from support.gpu_server import gpu_server
from support.paths import ROOT

MERGED = {
    "together": "all",
    "by": "merging",
    "save": ["difference", "lora", "official", "diffusers unet", "checkpoint"],
}


def erasure_in(file):
    """A file of full differences, with its metadata."""
    with safe_open(file, "pt") as opened:
        full = {re.sub(r"\.diff$", ".weight", re.sub(r"\.diff_b$", ".bias", key)): key for key in opened.keys()}  # noqa: SIM118
        return Erasure({name: opened.get_tensor(key) for name, key in full.items()}, opened.metadata())


@pytest.mark.full
def test_two_parts_are_merged_judged_and_saved_and_nothing_is_done_again(host, playground, tmp_path):
    file, results = batches.jobs_file(tmp_path, ["cat", "rocket"], **MERGED), tmp_path / "results"
    ended = batches.at(host, file, "--results", results)
    assert ended.returncode == 0 and "3 of 3 done, 0 failed." in ended.stdout, ended.stdout + ended.stderr
    assert not list((host.base / "output" / "esd").glob("batch-*"))  # the parts went when they were merged
    from esd_pack.nodes.host.model.text_tokens import tokens_of

    one, other, last = jobs.jobs_of(spec.load(file))
    folder = results / "jobs" / last.name
    names = {path.name for path in folder.iterdir()}
    assert "Found by the judge" in (folder / "evaluation.html").read_text("utf-8")
    assert "Blind sheet" in (folder / "evaluation.blind.html").read_text("utf-8")
    assert names >= {"difference.safetensors", "lora.safetensors", "official.safetensors", "checkpoint.safetensors"}
    assert names >= {"diffusers_unet", "evaluation.html", "evaluation.json", "picture.png", "graph.json", "job.json"}
    assert (folder / "diffusers_unet" / "config.json").is_file()
    parts = [erasure_in(results / "jobs" / job.name / "difference.safetensors") for job in (one, other)]
    found = erasure_in(folder / "difference.safetensors").differences
    merged = merge(parts, BY_PROMPTS, tokens_of(playground[1])).differences
    assert all(found[name].equal(tensor) for name, tensor in merged.items()) and len(found) == len(parts[0].names)
    report = json.loads((results / "report.json").read_text("utf-8"))
    assert report["done"] == 3 and report["jobs"][-1]["figures"]["found"]["erased"]["after"][1] == 2
    before = batches.done(results)
    assert "3 of 3 done" in batches.at(host, file, "--results", results).stdout and batches.done(results) == before
    again = batches.at(host, file, "--results", tmp_path / "again")  # whose files the host has in its cache no more
    assert "3 of 3 done" in again.stdout
    assert batches.contents(results) == batches.contents(tmp_path / "again")
    assert batches.look_alike(results, tmp_path / "again")


@pytest.mark.full
def test_a_job_that_cannot_be_done_says_why_and_the_others_are_done(host, tmp_path):
    file = batches.jobs_file(tmp_path, [batches.BAD, "cat"])
    first = batches.at(host, file, "--results", tmp_path / "results", "--first", 1)
    assert "0 of 2 done, 1 failed, 1 not done yet: the same command goes on." in first.stdout, first.stdout
    ended = batches.at(host, file, "--results", tmp_path / "results")
    assert ended.returncode == 1 and "1 of 2 done, 1 failed." in ended.stdout and "does not know" in ended.stdout
    page = (tmp_path / "results" / "index.html").read_text("utf-8")
    assert "why it failed" in page and "picture.png" in page


@pytest.mark.full
def test_the_page_opens_a_job_s_graph_and_would_run_the_same(page, tmp_path):
    extra = {"keep": ["tiger"], "contexts": {"kind": "object"}}
    for job in jobs.jobs_of(spec.load(batches.jobs_file(tmp_path, ["cat", "rocket"], **MERGED, **extra))):
        page.evaluate("async graph => { await window.app.loadApiJson(graph, 'job') }", job.graph)
        page.wait_for_function("n => window.app.graph.nodes.length === n", arg=len(job.graph))
        shown = page.evaluate("async () => (await window.app.graphToPrompt()).output")
        assert {number: node["class_type"] for number, node in shown.items()} == {
            number: node["class_type"] for number, node in job.graph.items()
        }
        for number, node in job.graph.items():
            assert {name: shown[number]["inputs"].get(name) for name in node["inputs"]} == node["inputs"], number


@pytest.mark.nightly
def test_two_servers_share_the_jobs_and_give_the_bits_of_one(host, comfy_path, tmp_path):
    file = batches.jobs_file(tmp_path, batches.objects(5))
    with Server(comfy_path, host.base, arguments=["--cpu"]) as other:
        both = batches.at(host, file, "--url", other.wait().url, "--results", tmp_path / "both")
        used = [len(server.get("/history")) for server in (host, other)]
    assert "5 of 5 done, 0 failed." in both.stdout and all(used), both.stdout + both.stderr
    assert "5 of 5 done" in batches.at(host, file, "--results", tmp_path / "one").stdout
    assert batches.contents(tmp_path / "both") == batches.contents(tmp_path / "one")
    assert batches.look_alike(tmp_path / "both", tmp_path / "one")


@pytest.mark.nightly
def test_on_the_second_device_a_batch_gives_what_it_gives_on_the_cpu(host, comfy_path, tmp_path):
    file = batches.jobs_file(tmp_path, ["cat", "rocket"])
    with gpu_server(comfy_path, tmp_path / "base") as server:
        ended = batches.at(server, file, "--results", tmp_path / "gpu")
    assert "2 of 2 done, 0 failed." in ended.stdout, ended.stdout + ended.stderr
    assert "2 of 2 done" in batches.at(host, file, "--results", tmp_path / "cpu").stdout
    for job in jobs.jobs_of(spec.load(file)):
        found = [erasure_in(tmp_path / arm / "jobs" / job.name / "difference.safetensors") for arm in ("gpu", "cpu")]
        flat = [torch.cat([each.differences[name].flatten() for name in each.names]) for each in found]
        assert torch.cosine_similarity(*flat, dim=0) > 0.99
        records = [json.loads((tmp_path / arm / "jobs" / job.name / "job.json").read_text()) for arm in ("gpu", "cpu")]
        assert records[0]["figures"]["found"] == records[1]["figures"]["found"]


def test_mistakes_end_the_command_with_one_sentence(tmp_path):
    file = tmp_path / "jobs.yaml"
    file.write_text("models: [a]\nconcepts: cat", encoding="utf-8")
    line = [sys.executable, str(ROOT / "commands" / "batch")]
    for words, said in (
        ([str(file)], "jobs.yaml, line 2: concepts is"),
        ([], "Name the file of jobs"),
        ([str(tmp_path / "none.yaml")], "cannot be read"),
    ):
        ended = subprocess.run([*line, *words], capture_output=True, text=True, check=False)
        assert ended.returncode == 1 and said in ended.stderr and len(ended.stderr.splitlines()) == 1, ended.stderr
