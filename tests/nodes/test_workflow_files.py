"""The shipped workflows as files: links that hold, room for every node, and all that a newcomer needs beside them."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from lab.launch.base import PACK, PLAYGROUND
from lab.launch.workflow import LARGE, missing_nodes, to_prompt

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = {path.stem: json.loads(path.read_text("utf-8")) for path in sorted((ROOT / "workflows").glob("*.json"))}
SITE = "https://github.com/esd-concept-erasure/esd-concept-erasure/raw/main/workflows/models"
TITLE, NOTES = 30, ("Note", "MarkdownNote")
NEWER = {"ImageCompare"}
"""Nodes of ComfyUI that its older versions lack: the workflows that have them say so in their notes."""

FILES = {"unet_name": "diffusion_models", "clip_name": "text_encoders", "vae_name": "vae"}
"""Folders of what their loaders take, by the widget's name without its number."""


@pytest.fixture(params=WORKFLOWS)
def name(request):
    return request.param


@pytest.fixture
def workflow(name):
    return WORKFLOWS[name]


def box(node):
    (left, top), (width, height) = node["pos"], node["size"]
    return left, top - TITLE, left + width, top + height


def overlap(a, b):
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def inside(inner, outer):
    return outer[0] <= inner[0] and outer[1] <= inner[1] and inner[2] <= outer[2] and inner[3] <= outer[3]


def test_there_is_one_for_each_task():
    assert set(WORKFLOWS) == {
        "compare_with_a_slider",
        "compare_with_baselines",
        "erase_a_style",
        "erase_an_attribute",
        "erase_an_object",
        "erase_from_a_transformer",
        "erase_several_concepts",
        *LARGE,
        "open_a_published_file",
        "replace_a_concept",
        "save_in_each_format",
    }


def test_links_and_sockets_name_each_other(workflow):
    """Every link is in both of its nodes, no socket names a link that is not there, types agree."""
    nodes = {node["id"]: node for node in workflow["nodes"]}
    links = {link[0]: link for link in workflow["links"]}
    assert len(nodes) == len(workflow["nodes"]) and len(links) == len(workflow["links"])
    assert workflow["last_node_id"] >= max(nodes) and workflow["last_link_id"] >= max(links)
    for number, source, out, target, into, kind in links.values():
        output, entry = nodes[source]["outputs"][out], nodes[target]["inputs"][into]
        assert number in output["links"] and entry["link"] == number
        assert output["type"] == kind and entry["type"] in (kind, "*")
    ends = [end for node in nodes.values() for output in node["outputs"] for end in output["links"]]
    starts = [entry["link"] for node in nodes.values() for entry in node["inputs"] if entry["link"] is not None]
    assert sorted(ends) == sorted(starts) == sorted(links)


def test_links_go_from_left_to_right_or_down(workflow):
    nodes = {node["id"]: node for node in workflow["nodes"]}
    for _, source, _, target, *_ in workflow["links"]:
        assert nodes[source]["pos"][0] <= nodes[target]["pos"][0]


def test_nodes_and_groups_have_room(workflow):
    """No node covers another; each stands in exactly one group or, as the note, in none; groups do not overlap."""
    boxes = [box(node) for node in workflow["nodes"]]
    assert not [pair for pair in itertools.combinations(boxes, 2) if overlap(*pair)]
    groups = [(x, y, x + w, y + h) for x, y, w, h in (group["bounding"] for group in workflow["groups"])]
    assert len(groups) >= 3 and not [pair for pair in itertools.combinations(groups, 2) if overlap(*pair)]
    for node, place in zip(workflow["nodes"], boxes, strict=True):
        assert sum(inside(place, group) for group in groups) == (node["type"] not in NOTES)
        assert not any(overlap(place, group) and not inside(place, group) for group in groups)


def test_only_nodes_of_the_host_and_ours(workflow, object_info):
    lacking = missing_nodes(workflow, object_info)
    assert set(lacking) <= NEWER
    for node in workflow["nodes"]:
        if node["type"] not in (*NOTES, *lacking):
            home = object_info[node["type"]]["python_module"]
            assert home == "nodes" or home.startswith("comfy_extras.") or home == f"custom_nodes.{PACK}"


def test_the_erase_node_has_its_room_and_a_vae(workflow):
    for node in workflow["nodes"]:
        if node["type"] == "ESDErase":
            assert node["size"][0] >= 340 and node["size"][1] >= 660
            assert next(entry for entry in node["inputs"] if entry["name"] == "vae")["link"] is not None


def test_every_file_of_the_playground_has_its_download_hint(name, workflow):
    """In the node that loads it, as the page reads it: name, folder and address."""
    if name in LARGE:
        pytest.skip("it loads others")
    wanted = 0
    for node in workflow["nodes"]:
        names = [value for value in node.get("widgets_values") or [] if value in PLAYGROUND]
        hints = [{"name": n, "url": f"{SITE}/{n}", "directory": PLAYGROUND[n]} for n in names]
        assert node["properties"].get("models", []) == hints
        assert all((ROOT / "workflows" / "models" / n).is_file() for n in names)
        wanted += len(names)
    assert wanted


@pytest.mark.parametrize("name", sorted(LARGE))
def test_large_models_have_their_addresses_in_their_loaders_and_in_the_note(name):
    """As the page reads them; on Hugging Face, from where the page downloads."""
    workflow, hints = WORKFLOWS[name], []
    for node in workflow["nodes"]:
        widgets = [entry["name"].rstrip("12") for entry in node["inputs"] if entry.get("widget")]
        loaded = {v: FILES[w] for w, v in zip(widgets, node["widgets_values"], strict=False) if w in FILES}
        assert {hint["name"]: hint["directory"] for hint in node["properties"].get("models", [])} == loaded
        hints += node["properties"].get("models", [])
    (text,) = (node["widgets_values"][0] for node in workflow["nodes"] if node["type"] in NOTES)
    assert len(hints) >= 3 and "Nothing here was run on the real weights" in text and "own" in text
    for hint in hints:
        assert hint["url"].startswith("https://huggingface.co/") and hint["url"].endswith(f"/{hint['name']}")
        assert f"[{hint['name']}]({hint['url']}) in `models/{hint['directory']}`" in text
    text.encode("cp1252")


def test_their_values_are_those_that_the_nodes_take(object_info):
    """Numbers within their ranges, choices that exist; names of files are the user's."""
    for name in LARGE:
        prompt = to_prompt(WORKFLOWS[name], object_info)
        for node in prompt.values():
            described = object_info[node["class_type"]]["input"]
            for field, (kind, *options) in {**described["required"], **described.get("optional", {})}.items():
                value = node["inputs"].get(field)
                if field.rstrip("12") in FILES or value is None or isinstance(value, list):
                    continue
                choices = kind if isinstance(kind, list) else options[0].get("options") if kind == "COMBO" else None
                assert choices is None or value in choices, (name, field, value)
                if kind in ("INT", "FLOAT"):
                    assert options[0]["min"] <= value <= options[0]["max"], (name, field, value)
        settings = next(node["inputs"] for node in prompt.values() if node["class_type"] == "ESDEraseSettings")
        assert (settings["rank"], settings["preset"]) == (16, "custom")


def test_a_note_says_what_to_change(name, workflow):
    if name in LARGE:
        pytest.skip("it loads others")
    (text,) = (node["widgets_values"][0] for node in workflow["nodes"] if node["type"] in NOTES)
    assert "Press **Run**" in text and "own" in text.partition("## For a ")[2]
    assert "custom_nodes/esd-concept-erasure/workflows/models" in text and "models/checkpoints" in text
    assert "**R**" in text and "Hugging Face and Civitai only" in text
    text.encode("cp1252")


def test_every_node_has_a_title(workflow):
    titles = [node.get("title") for node in workflow["nodes"]]
    assert all(titles) and len(set(titles)) == len(titles)


def test_a_picture_of_its_result_lies_beside_it(name):
    picture = ROOT / "workflows" / f"{name}.jpg"
    assert 5_000 < picture.stat().st_size <= 100_000
    assert picture.read_bytes()[:3] == b"\xff\xd8\xff"


def test_ids_are_unique_among_the_workflows():
    assert len({workflow["id"] for workflow in WORKFLOWS.values()}) == len(WORKFLOWS)


def test_the_readme_lists_every_workflow():
    readme = (ROOT / "README.md").read_text("utf-8")
    assert [name for name in WORKFLOWS if f"`{name}`" not in readme] == []
