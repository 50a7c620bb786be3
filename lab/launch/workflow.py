"""From the workflow that people open to the prompt that the server runs: the same graph in its two formats."""

from __future__ import annotations

import copy
from typing import Any

from commands.graph import default_of, input_specs, is_widget, options_of

Prompt = dict[str, dict[str, Any]]
Json = dict[str, Any]

MUTED, BYPASSED = 2, 4
CONTROLS = frozenset({"fixed", "increment", "decrement", "randomize"})
NOTES = frozenset({"Note", "MarkdownNote"})
PASS_THROUGH = frozenset({"Reroute"})
LARGE = frozenset({"erase_from_flux1", "erase_from_flux2_klein", "erase_from_z_image"})
"""The shipped workflows that cannot be run here: their models are not in the repository."""

VIEW: Json = {"__value__": ["", ""]}
"""What the page sends for an input that only shows something, as the host's slider over two pictures."""


def missing_nodes(workflow: Json, object_info: Json) -> list[str]:
    """Return the kinds of node in a UI-format workflow that the server lacks, as an older ComfyUI may."""
    kinds = {node["type"] for node in workflow["nodes"]} - NOTES - PASS_THROUGH
    return sorted(kinds - set(object_info))


class _Graph:
    """A UI-format workflow, indexed by node and by link."""

    def __init__(self, workflow: Json) -> None:
        self.nodes = {node["id"]: node for node in workflow["nodes"]}
        self.links = {link[0]: (link[1], link[2]) for link in workflow["links"]}

    def source(self, link: int | None) -> tuple[Json, int] | None:
        """The node and output slot that feed a link, seen through reroutes and bypassed nodes."""
        if link is None:
            return None
        node_id, slot = self.links[link]
        node = self.nodes[node_id]
        if node.get("mode") == MUTED:
            return None
        if node["type"] in PASS_THROUGH or node.get("mode") == BYPASSED:
            return self.source(self._way_through(node, slot))
        return node, slot

    @staticmethod
    def _way_through(node: Json, slot: int) -> int | None:
        inputs = node.get("inputs", [])
        if node["type"] in PASS_THROUGH:
            return inputs[0]["link"]
        wanted = node["outputs"][slot]["type"]
        return next((i["link"] for i in inputs if i["type"] == wanted and i.get("link") is not None), None)


def to_prompt(workflow: Json, object_info: Json) -> Prompt:
    """The API prompt of a UI-format workflow, by the node descriptions of the server's /object_info.

    Raises ValueError where the workflow uses a node that the server does not have.
    """
    graph = _Graph(workflow)
    return {str(node["id"]): _api_node(node, graph, object_info) for node in graph.nodes.values() if _runs(node)}


def _runs(node: Json) -> bool:
    skipped = node["type"] in NOTES | PASS_THROUGH | {"PrimitiveNode"}
    return not skipped and node.get("mode") not in (MUTED, BYPASSED)


def _api_node(node: Json, graph: _Graph, object_info: Json) -> Json:
    if node["type"] not in object_info:
        raise ValueError(f"The workflow uses the node {node['type']}, which this ComfyUI lacks: install its pack.")
    specs = dict(input_specs(object_info[node["type"]]))
    inputs = _widget_values(node.get("widgets_values") or [], specs)
    inputs |= {name: VIEW for name, spec in specs.items() if options_of(spec).get("socketless") and name not in inputs}
    for slot in node.get("inputs", []):
        source = graph.source(slot.get("link"))
        if source is not None:
            inputs[slot["name"]] = _from_source(*source)
    return {"class_type": node["type"], "inputs": inputs}


def _from_source(node: Json, slot: int) -> Any:
    return node["widgets_values"][0] if node["type"] == "PrimitiveNode" else [str(node["id"]), slot]


def _widget_values(values: list[Any] | Json, specs: dict[str, list[Any]]) -> Json:
    fields = {name: spec for name, spec in specs.items() if is_widget(spec)}
    found = {name: default_of(spec) for name, spec in fields.items()}
    if isinstance(values, dict):
        return found | {name: values[name] for name in fields if name in values}
    rest = list(values)
    for name, spec in fields.items():
        if not rest:
            break  # saved before the node got its later inputs
        found[name] = rest.pop(0)
        if _has_control(name, spec) and rest and rest[0] in CONTROLS:
            rest.pop(0)
    return found


def _has_control(name: str, spec: list[Any]) -> bool:
    by_name = spec[0] == "INT" and name in ("seed", "noise_seed")
    return bool(options_of(spec).get("control_after_generate", by_name))


def nodes_of(prompt: Prompt, class_type: str) -> list[str]:
    """The ids of the nodes of one class; raises ValueError where there is none."""
    ids = [node_id for node_id, node in prompt.items() if node["class_type"] == class_type]
    if not ids:
        raise ValueError(f"The workflow has no {class_type} node: add one to it.")
    return ids


def set_input(prompt: Prompt, class_type: str, name: str, value: Any) -> None:
    """Set one input on every node of a class, in place."""
    for node_id in nodes_of(prompt, class_type):
        prompt[node_id]["inputs"][name] = value


def upstream(prompt: Prompt, node_id: str) -> Prompt:
    """A copy of the node and of everything that it needs."""
    needed, waiting = {}, [node_id]
    while waiting:
        current = waiting.pop()
        if current not in needed:
            needed[current] = copy.deepcopy(prompt[current])
            waiting += [value[0] for value in prompt[current]["inputs"].values() if is_link(value)]
    return needed


def is_link(value: Any) -> bool:
    """Whether an input's value names another node's output."""
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], int)
