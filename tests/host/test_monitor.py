"""Watching a run on its node, keeping it on the disk, finishing it early and going on with it, in the real host."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import urllib.error
from types import SimpleNamespace

import pytest
import torch

from esd_pack.esd import until_gone
from support.graphs import Graph
from support.short_runs import STEPS, EventRecorder, erase, module
from support.tiny import broken


@pytest.fixture(scope="module")
def world(comfy, tiny):
    return SimpleNamespace(**vars(tiny), graph=lambda: Graph(comfy))


@pytest.fixture
def told(comfy, node_classes, monkeypatch):
    """Every message about a run, at once instead of four times a second."""
    from server import PromptServer

    listener = EventRecorder()
    live = module("run.status")
    monkeypatch.setattr(PromptServer.instance, "send_sync", listener.send_sync)
    monkeypatch.setattr(live, "EVERY_SECONDS", 0.0)
    return listener


def same(one, other) -> bool:
    a, b = one["weights"].differences, other["weights"].differences
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a) and one["losses"] == other["losses"]


@contextlib.contextmanager
def cancelled_after(told, step):
    """Press cancel when the page hears of a step."""
    import comfy.model_management

    told.at_step = lambda data: data["step"] == step and comfy.model_management.interrupt_current_processing()
    yield
    told.at_step = None


@contextlib.contextmanager
def finished_after(told, step):
    """Press Finish now when the page hears of a step."""
    registry = module("run.status").registry

    def press(data):
        if data["step"] == step and data["state"] == "running":
            registry().running(data["id"]).finish = True

    told.at_step = press
    yield
    told.at_step = None


@pytest.fixture(scope="module")
def whole(world):
    """The run that is never stopped."""
    return erase(world, start="start over")


class TestChart:
    """What the page is told."""

    def test_every_loss_arrives_once_and_in_order(self, world, runs, told):
        outcome = erase(world)
        assert told.losses() == [float(f"{loss:.5g}") for loss in outcome["losses"]["loss"]]
        states = [message["state"] for message in told.messages]
        assert set(states[:-1]) == {"running"} and states[-1] == "finished"
        assert len({message["id"] for message in told.messages}) == 1

    def test_time_left_and_speed(self, world, runs, told):
        erase(world)
        middle = [m for m in told.messages if 0 < m["step"] < STEPS]
        assert middle and all(m["seconds_left"] >= 0 and m["passes_per_second"] > 0 for m in middle)
        assert told.messages[-1]["seconds_left"] is None

    def test_memory_is_said_before_the_first_step(self, world, runs, told):
        erase(world)
        assert "tensors are trained; needs" in told.messages[0]["message"] and told.messages[0]["step"] == 0

    def test_a_page_that_is_reloaded_gets_the_whole_curve(self, world, runs, told):
        boards = []
        told.at_step = lambda data: (
            data["step"] == 4
            and boards.append([r.as_json() for r in module("run.status").registry().runs if r.state == "running"])
        )
        erase(world)
        run = boards[0][-1]
        assert run["first"] == 0 and len(run["losses"]) == 4 == run["step"]

    def test_a_failure_is_told_by_its_sentence(self, world, runs, told):
        outcome = erase(SimpleNamespace(**{**vars(world), "model": broken(world.model)}))
        assert outcome.ending == "execution_error" and "The loss became nan at step 1" in outcome.message
        assert told.messages[-1]["state"] == "failed"
        assert told.messages[-1]["message"] == outcome.message

    def test_only_the_last_run_of_a_node_is_remembered(self, world, runs, told):
        before = len(module("run.status").registry().runs)
        for _ in range(3):
            erase(world)
        assert len(module("run.status").registry().runs) <= max(before, 1)


class TestPreviews:
    """Pictures of the student as it learns."""

    def test_concept_and_keep_are_drawn_and_change_no_bit(self, world, runs, told, whole):
        outcome = erase(world, vae=True, keep="dog", preview_every=2)
        shown = [m["previews"] for m in told.messages if "previews" in m]
        assert len(shown) == 4  # the first step, and every second
        assert [(p["label"], p["prompt"]) for p in shown[0]] == [("erase", "cat"), ("keep", "dog")]
        assert shown[0][0]["jpeg"] != shown[-1][0]["jpeg"]
        without = erase(world, vae=True, keep="dog", start="start over")
        assert same(outcome, without)

    def test_what_is_left_of_each_concept_is_told_and_kept(self, world, runs, told, whole):
        outcome = erase(world, preview_every=3, concept="cat")
        left = [m["left"] for m in told.messages if m["left"]]
        assert left and all(each == [{"prompt": "cat", "percent": each[0]["percent"]}] for each in left)
        assert 90 <= left[0][0]["percent"] <= 100
        assert json.loads(outcome["weights"].metadata["esd.left"]) == {"cat": left[-1][0]["percent"]}
        assert same(outcome, whole)

    @pytest.mark.parametrize("stop", ["when gone", "after all steps"])
    def test_how_far_the_keeps_have_moved_is_told_and_kept(self, world, runs, told, stop):
        """At the end of a run that measures by itself, and with the previews of one that does not."""
        outcome = erase(world, keep="dog", preview_every=5, steps=10, stop=stop)
        moved = json.loads(outcome["weights"].metadata["esd.moved"])
        assert set(moved) == {"dog"} and moved["dog"] > 0
        assert told.messages[-1]["moved"] == {"prompt": "dog", "percent": moved["dog"]}
        assert all(m["moved"] is None for m in told.messages[:1])

    def test_a_measure_that_fails_costs_no_training(self, world, runs, told, whole, monkeypatch):
        def fail(*values):
            raise RuntimeError("no measure today")

        monkeypatch.setattr(module("run.monitor").GoneGauge, "measure", fail)
        outcome = erase(world, preview_every=3)
        assert same(outcome, whole) and "esd.left" not in outcome["weights"].metadata
        assert any("what is left was not measured: RuntimeError" in m["message"] for m in told.messages)

    def test_without_a_vae_they_are_rough(self, world, runs, told, whole):
        outcome = erase(world, preview_every=3)
        shown = [m["previews"] for m in told.messages if "previews" in m]
        assert [len(p) for p in shown] == [1, 1, 1]
        assert same(outcome, whole)

    @pytest.mark.parametrize("empty", [True, False], ids=["empty", "of another kind"])
    def test_a_vae_that_cannot_decode_costs_no_training(self, world, runs, told, whole, empty):
        """Empty is what the host hands out for a checkpoint without a VAE; the pictures are rough then."""

        def decode(latents):
            raise RuntimeError("expected 16 channels")

        vae = SimpleNamespace(first_stage_model=None if empty else "another", decode=decode)
        outcome = erase(SimpleNamespace(**{**vars(world), "vae": vae}), vae=True, preview_every=3)
        assert same(outcome, whole)
        assert any("previews" in m for m in told.messages) == empty
        trouble = "preview failed: RuntimeError: expected 16 channels"
        assert any(trouble in m["message"] for m in told.messages) != empty

    def test_their_cost_is_said(self, world, runs, told):
        erase(world, preview_every=3)
        assert any("a preview takes" in m["message"] for m in told.messages)


class TestWhyItEnds:
    """What a run says at its end, when it is to go on until all is gone."""

    def test_what_is_left_is_said_with_the_cure(self, world, runs, told):
        for steps, said in (
            (10, r"before all was gone \(cat \d+ % left\): raise steps, "),
            (9, "what is left was measured"),
        ):
            erase(world, stop="when gone", steps=steps, learning_rate=1e-8)
            assert re.search(said, told.messages[-1]["message"]), told.messages[-1]["message"]

    def test_what_was_found_gone_once_is_not_said_to_be_left(self, world, runs, told, monkeypatch):
        gone = until_gone.Left("cat", {"cat": -0.2}, {"cat": 0.0})
        monkeypatch.setattr(until_gone.GoneGauge, "check", lambda *_: ([gone], False))
        erase(world, stop="when gone", steps=10)
        assert "ended before a second measurement found all of it gone" in told.messages[-1]["message"]


class TestFinishNow:
    """The button on the node."""

    def test_training_ends_after_the_step_and_the_graph_goes_on(self, world, runs, told, whole):
        with finished_after(told, 3):
            outcome = erase(world)
        assert outcome["losses"]["loss"] == whole["losses"]["loss"][:3]
        assert told.messages[-1]["state"] == "finished" and "early, after step 3" in told.messages[-1]["message"]
        assert outcome["weights"].metadata["esd.steps"] == "3"

    def test_queued_again_it_is_taken_as_it_is(self, world, runs, told):
        with finished_after(told, 3):
            outcome = erase(world)
        told.messages.clear()
        assert same(erase(world), outcome)
        assert "finished early after 3 steps" in told.messages[-1]["message"]

    def test_resume_goes_on_to_the_end(self, world, runs, told, whole):
        with finished_after(told, 3):
            erase(world)
        assert same(erase(world, start="resume"), whole)
        assert len(told.losses()) == STEPS

    def test_gone_on_with_and_cancelled_it_is_no_result_any_more(self, world, runs, told, whole):
        with finished_after(told, 2):
            erase(world)
        with cancelled_after(told, 4), contextlib.suppress(Exception):
            erase(world, start="resume")
        told.messages.clear()
        assert same(erase(world), whole)
        assert any("resumed after step 4" in m["message"] for m in told.messages)

    def test_only_a_run_that_is_on_can_be_finished(self, world, runs, told):
        erase(world)
        registry = module("run.status").registry()
        for id_ in (told.messages[-1]["id"], "", "../..", "x" * 10000):
            assert registry.running(id_) is None


class TestKept:
    """Snapshots and results in output/esd/runs."""

    @pytest.mark.parametrize("step", [1, 3, STEPS - 1])
    def test_cancelled_and_queued_again_it_goes_on_bit_for_bit(self, world, runs, told, whole, step):
        with cancelled_after(told, step):
            assert erase(world).ending == "execution_interrupted"
        assert told.messages[-1]["state"] == "stopped"
        assert list(runs.glob("*/snapshot.esd"))
        told.messages.clear()
        assert same(erase(world), whole)
        assert f"resumed after step {step}" in " ".join(m["message"] for m in told.messages)
        assert not list(runs.glob("*/snapshot.esd"))

    def test_with_keeps_and_student_walks(self, world, runs, told):
        more = {"keep": "dog\napple", "settings": {"sampler_model": "student", "buffer_size": 2, "draws_per_buffer": 3}}
        straight = erase(world, **more, start="start over")
        shutil.rmtree(runs)
        with cancelled_after(told, 4):
            erase(world, **more)
        assert same(erase(world, **more), straight)

    def test_snapshots_every_few_steps(self, world, runs, told):
        found = []
        told.at_step = lambda data: found.append((data["step"], len(list(runs.glob("*/snapshot.esd")))))
        erase(world, snapshot_every=2)
        assert dict(found)[2] == 0 and dict(found)[3] == 1 and found[-1] == (STEPS, 0)

    def test_a_finished_run_is_taken_from_the_disk(self, world, runs, told, whole):
        erase(world)
        told.messages.clear()
        again = erase(world)
        assert same(again, whole)
        assert [m["state"] for m in told.messages] == ["running", "finished"]
        assert "taken from output/esd/runs/" in told.messages[-1]["message"]

    def test_start_over_trains(self, world, runs, told, whole):
        erase(world)
        told.messages.clear()
        assert same(erase(world, start="start over"), whole)
        assert len(told.messages) > 3

    @pytest.mark.parametrize(
        "change",
        [
            {"concept": "dog"},
            {"seed": 1},
            {"eta": 2.0},
            {"method": "esd-x-strict"},
            {"steps": STEPS + 1},
            {"learning_rate": 4e-5},
            {"keep": "dog"},
            {"settings": {"guidance_scale": 2.0}},
            {"settings": {"sampler_model": "student"}},
        ],
        ids=str,
    )
    def test_other_inputs_are_another_run(self, world, runs, told, change):
        erase(world)
        told.messages.clear()
        erase(world, **change)
        assert "taken from" not in told.messages[-1]["message"]

    def test_another_weight_in_the_model_is_another_run(self, comfy, world, runs, told):
        erase(world)
        patched = world.model.clone()
        name = "diffusion_model.input_blocks.0.0.bias"
        patched.add_patches({name: ("diff", (torch.full_like(world.model.model.state_dict()[name], 1e-3),))}, 1.0)
        told.messages.clear()
        erase(SimpleNamespace(model=patched, clip=world.clip, vae=world.vae, graph=world.graph))
        assert "taken from" not in told.messages[-1]["message"]

    @pytest.mark.parametrize("name", ["erasure.safetensors", "snapshot.esd"])
    @pytest.mark.parametrize("damage", ["half", "empty", "other"])
    def test_a_damaged_file_is_named_with_its_cure(self, world, runs, told, whole, name, damage):
        with finished_after(told, 3):
            erase(world)
        (path,) = runs.glob(f"*/{name}")
        content = path.read_bytes()
        path.write_bytes({"half": content[: len(content) // 2], "empty": b"", "other": b"not this" * 99}[damage])
        start = "reuse or resume" if name.startswith("erasure") else "resume"
        if start == "resume":
            (runs / path.parent.name / "erasure.safetensors").unlink()
        outcome = erase(world, start=start)
        assert outcome.ending == "execution_error" and 'set start to "start over"' in outcome.message
        assert same(erase(world, start="start over"), whole)

    def test_a_disk_that_refuses_costs_no_result(self, world, runs, told, whole):
        runs.parent.mkdir(parents=True, exist_ok=True)
        runs.write_text("a file where the folder should be")
        try:
            outcome = erase(world, snapshot_every=2)
        finally:
            runs.unlink()
        assert same(outcome, whole)
        assert "could not be made" in told.messages[-1]["message"]

    def test_old_runs_make_room_for_new_ones(self, world, runs, told, monkeypatch):
        def taken():
            return sum(p.stat().st_size for folder in runs.iterdir() for p in folder.iterdir())

        erase(world, seed=0, method="esd-x-strict")
        most = int(2.5 * taken())
        monkeypatch.setattr(module("run.store"), "MOST_BYTES", most)
        for seed in range(1, 4):
            erase(world, seed=seed, method="esd-x-strict")
        assert len(list(runs.iterdir())) == 2 and taken() <= most
        told.messages.clear()
        erase(world, seed=3, method="esd-x-strict")
        assert "taken from" in told.messages[-1]["message"]


class TestRoutes:
    """What the page may ask for."""

    @pytest.mark.parametrize("id_", ["nothing", "0" * 32, "..%2F..%2Fetc", "a" * 5000])
    def test_unknown_runs_are_not_found(self, host, id_):
        with pytest.raises(urllib.error.HTTPError) as refusal:
            host.post(f"/esd/runs/{id_}/finish", {})
        assert refusal.value.code == 404

    def test_the_list_names_no_path(self, host):
        assert "runs" in host.get("/esd/runs")
        assert str(host.base) not in json.dumps(host.get("/esd/runs"))


def test_leftovers_of_a_dead_process_are_swept(comfy, node_classes, comfy_base):
    import os
    import subprocess
    import sys

    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    folder = comfy_base / "output" / "deep" / "down"
    folder.mkdir(parents=True, exist_ok=True)
    dead = folder / f"x.safetensors.12345678.{gone.pid}.esd-partial"
    dead_folder = folder / f"unet.12345678.{gone.pid}.esd-partial"
    parent = folder / f"x.safetensors.12345678.{os.getppid()}.esd-partial"
    users_own = folder / "mine.esd-partial"
    for path in (dead, parent, users_own, folder / "other.safetensors"):
        path.write_bytes(b"x")
    dead_folder.mkdir()
    (dead_folder / "part").write_bytes(b"x")
    module("run.cleanup").delete_partials()
    assert sorted(p.name for p in folder.iterdir()) == sorted([parent.name, users_own.name, "other.safetensors"])
    shutil.rmtree(folder.parent)


def test_a_process_that_has_neither_routes_nor_messages_trains_on(comfy, node_classes, monkeypatch):
    """As where the host runs nodes in a process of their own: nothing is served, and nobody is told."""
    import server

    live = module("run.status")
    for bare in (SimpleNamespace(), None):
        monkeypatch.setattr(server.PromptServer, "instance", bare)
        live.add_routes()
        shown = live.registry()
        run = shown.begin(live.RunStatus("1", "", STEPS))
        shown.end(run, "finished")
        assert run.state == "finished"
