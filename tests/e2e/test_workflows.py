"""From the workflow that people open to the prompt that the server runs."""

from __future__ import annotations

from typing import Any

import pytest

from lab.launch import workflow

KSAMPLER = {
    "input": {
        "required": {
            "model": ["MODEL", {}],
            "seed": ["INT", {"default": 0, "control_after_generate": True}],
            "steps": ["INT", {"default": 20}],
            "sampler": [["euler", "ddim"], {}],
            "forced": ["INT", {"forceInput": True}],
        },
        "optional": {"text": ["STRING", {"multiline": True}], "choice": ["COMBO", {"options": ["a"]}]},
    },
    "input_order": {"required": ["model", "seed", "steps", "sampler", "forced"], "optional": ["text", "choice"]},
}
LOADER = {"input": {"required": {"name": [["a.ckpt"], {}]}}}
OBJECT_INFO = {"Sampler": KSAMPLER, "Loader": LOADER, "Sink": {"input": {"required": {"model": ["MODEL", {}]}}}}


def node(id_: int, type_: str, inputs: dict[str, int] | None = None, values: Any = (), **more: Any) -> dict[str, Any]:
    """A UI-format node whose inputs are MODEL links and whose only output is a MODEL."""
    slots = [{"name": name, "type": "MODEL", "link": link} for name, link in (inputs or {}).items()]
    return {"id": id_, "type": type_, "inputs": slots, "outputs": [{"type": "MODEL"}], "widgets_values": values, **more}


def graph(*nodes: dict[str, Any], links: dict[int, tuple[int, int]]) -> dict[str, Any]:
    """A UI-format workflow; links: id -> (from node, to node), always from output 0 to input 0."""
    return {"nodes": list(nodes), "links": [[i, a, 0, b, 0, "MODEL"] for i, (a, b) in links.items()]}


LOAD = node(1, "Loader", values=["a.ckpt"])
VALUES = [7, "randomize", 30, "ddim", "hello", "a"]


def test_widget_values_find_their_inputs() -> None:
    """In the order of the description, past the extra value after a seed and past inputs that are sockets only."""
    prompt = workflow.to_prompt(graph(LOAD, node(2, "Sampler", {"model": 5}, VALUES), links={5: (1, 2)}), OBJECT_INFO)
    assert prompt["1"] == {"class_type": "Loader", "inputs": {"name": "a.ckpt"}}
    wanted = {"model": ["1", 0], "seed": 7, "steps": 30, "sampler": "ddim", "text": "hello", "choice": "a"}
    assert prompt["2"]["inputs"] == wanted


def test_a_linked_widget_keeps_its_place_among_the_values() -> None:
    """The link wins over the value, and later values stay where they are."""
    sampler = node(2, "Sampler", {"steps": 5}, VALUES)
    inputs = workflow.to_prompt(graph(LOAD, sampler, links={5: (1, 2)}), OBJECT_INFO)["2"]["inputs"]
    assert inputs["steps"] == ["1", 0] and inputs["sampler"] == "ddim"


def test_values_by_name() -> None:
    """Some nodes store their values as a mapping; what is absent has its default, as on the page."""
    sampler = node(2, "Sampler", {}, {"seed": 3, "unknown": 1})
    inputs = workflow.to_prompt(graph(sampler, links={}), OBJECT_INFO)["2"]["inputs"]
    assert inputs == {"seed": 3, "steps": 20, "sampler": "euler", "text": "", "choice": "a"}


def test_values_that_were_saved_before_an_input_existed() -> None:
    """The later inputs have their defaults."""
    inputs = workflow.to_prompt(graph(node(2, "Sampler", values=[3]), links={}), OBJECT_INFO)["2"]["inputs"]
    assert (inputs["seed"], inputs["steps"], inputs["text"]) == (3, 20, "")


@pytest.mark.parametrize("between", [node(3, "Reroute", {"": 5}), node(3, "Sampler", {"model": 5}, VALUES, mode=4)])
def test_reroutes_and_bypassed_nodes_pass_through(between: dict[str, Any]) -> None:
    """The link reaches the node before them, and they are no part of the prompt."""
    made = graph(LOAD, between, node(2, "Sink", {"model": 6}), links={5: (1, 3), 6: (3, 2)})
    prompt = workflow.to_prompt(made, OBJECT_INFO)
    assert prompt["2"]["inputs"] == {"model": ["1", 0]} and set(prompt) == {"1", "2"}


def test_muted_nodes_and_notes_are_left_out() -> None:
    """With the links that come from them."""
    muted = node(3, "Loader", values=["a.ckpt"], mode=2)
    made = graph(muted, node(4, "MarkdownNote", values=["words"]), node(2, "Sink", {"model": 6}), links={6: (3, 2)})
    assert workflow.to_prompt(made, OBJECT_INFO) == {"2": {"class_type": "Sink", "inputs": {}}}


def test_a_missing_node_is_named() -> None:
    """Rather than refused by the server."""
    with pytest.raises(ValueError, match="uses the node Strange"):
        workflow.to_prompt(graph(node(1, "Strange"), links={}), OBJECT_INFO)


def test_set_input_and_upstream() -> None:
    """Set an input by class; take a node with what it needs, as a copy."""
    made = graph(LOAD, node(2, "Sink", {"model": 5}), node(3, "Loader", values=["b"]), links={5: (1, 2)})
    prompt = workflow.to_prompt(made, OBJECT_INFO)
    part = workflow.upstream(prompt, "2")
    assert set(part) == {"1", "2"}
    workflow.set_input(prompt, "Loader", "name", "c")
    assert (prompt["1"]["inputs"]["name"], part["1"]["inputs"]["name"]) == ("c", "a.ckpt")
    with pytest.raises(ValueError, match="no Absent node"):
        workflow.set_input(prompt, "Absent", "name", 1)
