"""The shipped workflow over HTTP, in a real server of its own: run, cached, cancelled, refused, and served files."""

from __future__ import annotations

import copy
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from safetensors.numpy import load_file

from lab.launch.base import PACK
from lab.launch.server import ServerError
from lab.launch.workflow import nodes_of, set_input, to_prompt, upstream
from support.graphs import NODES
from support.serving import progress_of, told_of, with_settings

ROOT = Path(__file__).resolve().parents[2]
STEPS = 6


@pytest.fixture(scope="module")
def prompt(object_info) -> dict[str, Any]:
    """The workflow that ships, with its training and its pictures cut short."""
    made = to_prompt(json.loads((ROOT / "workflows" / "erase_an_object.json").read_text("utf-8")), object_info)
    set_input(made, "ESDErase", "steps", STEPS)
    set_input(made, "ESDErase", "start", "start over")
    set_input(made, "ESDBeforeAfter", "steps", 1)
    set_input(made, "ESDBeforeAfter", "prompts", "cat\ndog")
    return with_settings(made, object_info, num_inference_steps=10, samples_per_trajectory=3, trajectory_batch=2)


@pytest.fixture(scope="module")
def weights_only(prompt):
    """What is needed to save the weights, and nothing else."""
    return upstream(prompt, nodes_of(prompt, "ESDSaveErasure")[0])


@pytest.fixture(scope="module")
def first(host, prompt):
    """The first run, on a server that has forgotten what it ran for other tests."""
    host.post("/free", {"free_memory": True})
    blank = {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 0}}
    shown = {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}}
    host.run({"1": blank, "2": shown})  # it forgets after a prompt at the latest
    return host.run(prompt)


def changed(prompt, class_type, **inputs):
    """A copy of the prompt with other inputs of one node."""
    other = copy.deepcopy(prompt)
    for name, value in inputs.items():
        set_input(other, class_type, name, value)
    return other


def node_of(prompt, class_type) -> str:
    (node_id,) = nodes_of(prompt, class_type)
    return node_id


def executed(run) -> set[str]:
    """The nodes that ran, and did not come from the cache."""
    return {event["data"]["node"] for event in run.events if event["type"] == "executing" and event["data"]["node"]}


def cached(run) -> set[str]:
    """The nodes that the server said it has in its cache."""
    (said,) = [event["data"]["nodes"] for event in run.events if event["type"] == "execution_cached"]
    return set(said)


def file_of(host, run, prompt, class_type) -> Path:
    (listed,) = run.outputs[node_of(prompt, class_type)]["esd_files"]
    return host.path_of(listed)


def same(a: Path, b: Path) -> bool:
    """Whether two files hold the same tensors, bit for bit."""
    one, other = load_file(a), load_file(b)
    return one.keys() == other.keys() and all(one[name].tobytes() == other[name].tobytes() for name in one)


class TestTheShippedWorkflow:
    """The graph that people open."""

    @pytest.fixture
    def run_last(self, host, prompt):
        """The graph as the last one that ran: the host's cache holds no other."""
        return host.run(prompt)

    def test_it_runs_to_the_end_and_its_files_are_there(self, host, prompt, first):
        assert first.status["status_str"] == "success"
        for class_type, least in (("ESDSaveCheckpoint", 30e6), ("ESDSaveErasure", 1e6)):
            path = file_of(host, first, prompt, class_type)
            assert path.is_file() and path.stat().st_size > least
        assert not list(host.base.rglob("*.esd-partial"))

    def test_the_picture_shows_both_rows(self, host, prompt, first):
        (listed,) = first.outputs[node_of(prompt, "SaveImage")]["images"]
        width, height = Image.open(io.BytesIO(host.view(listed))).size
        assert width > 2 * 128 and height > 2 * 128

    def test_nodes_say_what_they_did(self, prompt, first):
        assert "SD1.x" in first.outputs[node_of(prompt, "ESDLoadModel")]["text"][0]
        for class_type in ("ESDSaveCheckpoint", "ESDSaveErasure"):
            assert "Saved" in first.outputs[node_of(prompt, class_type)]["text"][0]
        assert first.outputs[node_of(prompt, "LossGraphNode")]["images"]

    def test_progress_of_training_reaches_the_page(self, prompt, first):
        node_id = node_of(prompt, "ESDErase")
        values = progress_of(first.events, node_id)
        assert len(values) > 1 and values == sorted(values)
        told = told_of(first.events, node_id)
        assert sum(len(each["losses"]) for each in told) == STEPS and told[-1]["state"] == "finished"

    def test_the_same_graph_again_trains_nothing(self, host, prompt, run_last):
        again = host.run(prompt)
        assert node_of(prompt, "ESDErase") in cached(again)
        assert executed(again) == set()

    @pytest.mark.parametrize(
        ("class_type", "inputs"),
        [
            ("ESDBeforeAfter", {"seed": 9}),
            ("ESDBeforeAfter", {"sampler_name": "euler", "scheduler": "normal", "prompts": "apple"}),
            ("ESDSaveErasure", {"filename_prefix": "loras/other"}),
        ],
    )
    def test_changing_how_it_is_drawn_or_saved_trains_nothing(self, host, prompt, run_last, class_type, inputs):
        run = host.run(changed(prompt, class_type, **inputs))
        assert node_of(prompt, class_type) in executed(run)
        assert node_of(prompt, "ESDErase") in cached(run) - executed(run)

    def test_changing_the_strength_trains_nothing(self, host, prompt, run_last):
        other = copy.deepcopy(prompt)
        erase, load = node_of(prompt, "ESDErase"), node_of(prompt, "ESDLoadModel")
        picture = node_of(prompt, "ESDBeforeAfter")
        for strength in (0.5, 0.25):
            other["99"] = {
                "class_type": "ESDApply",
                "inputs": {"model": [load, 0], "weights": [erase, 1], "strength": strength},
            }
            other[picture]["inputs"]["model_after"] = ["99", 0]
            run = host.run(other)
            assert executed(run) >= {"99", picture} and erase not in executed(run)

    @pytest.mark.full
    def test_changing_the_concept_trains_again(self, host, weights_only, first):
        run = host.run(changed(weights_only, "ESDConcept", concept="dog"))
        assert node_of(weights_only, "ESDErase") in executed(run)


class TestCancelAndErrors:
    """What the server says when a run does not reach its end."""

    @pytest.mark.full
    def test_cancelling_in_training_leaves_the_next_run_the_same_bits(self, host, prompt, weights_only, first):
        erase = node_of(weights_only, "ESDErase")
        longer = changed(weights_only, "ESDErase", steps=100000)
        longer = changed(longer, "ESDEraseSettings", buffer_size=3)  # then training begins after a walk or two
        seen = []

        def cancel(event):
            seen.extend(told_of([event], erase))
            if len(seen) == 10:
                host.interrupt()

        run = host.try_run(longer, cancel)
        assert run.events[-1]["type"] == "execution_interrupted"
        assert run.events[-1]["data"]["node_id"] == erase
        assert 0 < seen[-1]["step"] < 100000
        again = host.run(changed(weights_only, "ESDErase", method="esd-x"))
        assert erase in executed(again)
        whole = file_of(host, first, prompt, "ESDSaveErasure")
        assert same(whole, file_of(host, again, weights_only, "ESDSaveErasure"))

    @pytest.mark.parametrize(
        ("class_type", "inputs", "message"),
        [
            ("ESDConcept", {"concept": " "}, "The concept is empty: type the words that make the model draw"),
            ("ESDConcept", {"erase_from": "cat"}, '"erase from" equals the concept "cat": leave it empty'),
            ("ESDErase", {"method": "xlayer"}, 'The method "xlayer" selects no weight of this model: choose another'),
        ],
    )
    def test_a_mistake_arrives_as_one_sentence(self, host, weights_only, class_type, inputs, message):
        run = host.try_run(changed(weights_only, class_type, **inputs))
        last = run.events[-1]
        assert last["type"] == "execution_error"
        assert last["data"]["node_type"] == class_type
        said = last["data"]["exception_message"].strip()
        assert said.startswith(message) and "\n" not in said and said.endswith(".")

    def test_a_file_name_that_leaves_the_output_folder_is_refused_with_the_whole_graph(self, host, weights_only):
        with pytest.raises(ServerError, match=r'The file name "\.\./\.\./gone" leaves the output folder: use a name'):
            host.run(changed(weights_only, "ESDSaveErasure", filename_prefix="../../gone"))
        assert not list(host.base.parent.glob("gone*")) and not list(host.base.glob("gone*"))


class TestServedFiles:
    """What the page asks the server for."""

    def test_every_node_is_listed_with_its_help(self, host, object_info):
        ours = {name: info for name, info in object_info.items() if info.get("python_module") == f"custom_nodes.{PACK}"}
        assert set(ours) == set(NODES)
        for name, info in ours.items():
            assert info["category"] == "ESD" and info["description"]
            page = host.get(f"/extensions/{PACK}/docs/{name}.md", raw=True).decode()
            assert page.startswith("#") and len(page) > 200
            (picture,) = re.findall(r"!\[.+\]\((pictures/\w+\.jpg)\)", page)
            assert host.get(f"/extensions/{PACK}/docs/{picture}", raw=True).startswith(b"\xff\xd8")

    def test_every_workflow_is_a_template(self, host):
        listed = host.get("/api/workflow_templates")[PACK]
        shipped = sorted((ROOT / "workflows").glob("*.json"))
        assert sorted(listed) == [path.stem for path in shipped]
        for path in shipped:
            assert host.get(f"/api/workflow_templates/{PACK}/{path.name}") == json.loads(path.read_text("utf-8"))

    def test_the_pack_starts_in_silence(self, host):
        log = host.log.read_text("utf-8", errors="replace").partition("To see the GUI")[0]
        assert PACK in log  # the host lists what it has loaded
        loud = ("IMPORT FAILED", "Traceback", "Exception", "Error")
        lines = [line for line in log.splitlines() if any(word in line for word in loud)]
        assert [line for line in lines if "comfy_kitchen" not in line] == []  # which says what the machine lacks
