"""Graphs that are put on the canvas of the page, and how."""

from __future__ import annotations

from typing import Any

from lab.launch import base

Node = tuple[str, tuple[int, int], dict[str, Any]]
"""Type, place, and widget values; the key "size" is the node's size."""


Graph = tuple[list[Node], list[tuple[int, str, int, str]]]
"""Nodes, and links: from node, output, to node, input."""


LOAD: Node = ("ESDLoadModel", (0, 0), {"ckpt_name": base.CHECKPOINT})


STOCK: Node = ("CheckpointLoaderSimple", (0, 0), {"ckpt_name": base.CHECKPOINT})


CAT: Node = ("ESDConcept", (0, 170), {"concept": "cat"})


SMALL: Node = ("ESDEraseSettings", (0, 380), {"width": 64, "height": 64, "size": (300, 470)})


ERASE: Node = (
    "ESDErase",
    (370, 0),
    {"steps": 200, "preview_every": 0, "snapshot_every": 0, "start": "start over", "stop": "after all steps"},
)


TRAIN = [LOAD, CAT, SMALL, ERASE]


LINKS = [
    (0, "MODEL", 3, "model"),
    (0, "CLIP", 3, "clip"),
    (1, "concepts", 3, "concepts"),
    (2, "settings", 3, "settings"),
]


PLAIN = [(0, "MODEL", 2, "model"), (0, "CLIP", 2, "clip"), (1, "concepts", 2, "concepts")]


SAMPLING = {"steps": 10, "cfg": 3, "sampler_name": "ddim", "scheduler": "ddim_uniform", "width": 64, "height": 64}


FILE = "erasure_00001_.safetensors"


MAKE = """async ([nodes, links]) => {
    const graph = window.app.graph;
    graph.clear();
    const made = nodes.map(([type, place, values]) => {
        const node = LiteGraph.createNode(type);
        node.pos = [...place];
        graph.add(node);
        for (const [name, value] of Object.entries(values)) {
            const widget = node.widgets?.find(each => each.name === name);
            if (widget) widget.value = value;
        }
        const least = node.computeSize();
        node.setSize(values.size ? [Math.max(values.size[0], least[0]), Math.max(values.size[1], least[1])]
                                 : [Math.max(300, least[0]), least[1]]);
        return node;
    });
    for (const [from, output, to, input] of links) {
        const slot = made[from].outputs.findIndex(each => each.name === output);
        made[from].connect(slot, made[to], made[to].inputs.findIndex(each => each.name === input));
    }
}"""
