"""What a graph says of a node: the file behind its links, and the id of the workflow."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .folders import file_in

LONGEST_ID = 200
"""Characters of a graph's id, which is told to every page; the page's own ids have 36."""

_FILE_INPUTS = (("ckpt_name", "checkpoints"), ("unet_name", "diffusion_models"))


def base_file(prompt: Mapping[str, Any] | None, node_id: str | None, input_name: str = "model") -> Path | None:
    """Return the file that the loader behind a node's MODEL input opens, by following the graph's links upstream."""
    seen: set[str] = set()
    source = _source(_inputs(prompt, node_id).get(input_name))
    while source is not None and source not in seen:
        seen.add(source)
        inputs = _inputs(prompt, source)
        for name, folder in _FILE_INPUTS:
            if isinstance(inputs.get(name), str):
                return file_in(folder, inputs[name])
        source = next(filter(None, (_source(inputs.get(name)) for name in _UPSTREAM[input_name])), None)
    return None


def _inputs(prompt: Mapping[str, Any] | None, node_id: str | None) -> Mapping[str, Any]:
    """Return a node's inputs; empty where the graph, which comes from outside, has no such node or no inputs."""
    node = (prompt or {}).get(node_id or "")
    inputs = node.get("inputs") if isinstance(node, dict) else None
    return inputs if isinstance(inputs, dict) else {}


def _source(link: Any) -> str | None:
    """Return the node that a link comes from; None for a value that was typed."""
    return link[0] if isinstance(link, list) and link and isinstance(link[0], str) else None


_MODEL_INPUTS = ("model", "model1", "model_before")

_UPSTREAM = {
    "model": _MODEL_INPUTS,
    "base_model": _MODEL_INPUTS,
    "clip": ("clip", "clip1", *_MODEL_INPUTS),
    "vae": (),
}
"""Which inputs of the nodes between a loader and an input carry the same kind of thing on; a VAE must come directly."""


def whole_checkpoint(prompt: Mapping[str, Any] | None, node_id: str | None) -> Path | None:
    """Return the one checkpoint file behind a node's MODEL, CLIP and VAE inputs; None where there is no such file."""
    found = {base_file(prompt, node_id, name) for name in ("model", "clip", "vae")}
    return found.pop() if len(found) == 1 else None


def workflow_id(extra: Any) -> str:
    """Return the id of the graph that a prompt was made from, where the page sent it along."""
    workflow = extra.get("workflow") if isinstance(extra, Mapping) else None
    found = workflow.get("id") if isinstance(workflow, Mapping) else None
    return found if isinstance(found, str) and len(found) <= LONGEST_ID else ""
