"""A picture of a workflow from its file alone: nodes, titles and links where they stand.

For workflows whose models are not here, so that they cannot be run: `workflow_pictures.py` asks for it.
"""

from __future__ import annotations

import io
from typing import Any

from PIL import Image, ImageDraw, ImageFont

Box = tuple[float, float, float, float]

SCALE, MARGIN, TITLE, ROW = 0.5, 24, 30, 20
"""Pixels for each unit of the page; and in its units, the edge, a node's title, and the distance of two sockets."""

GROUND, PAPER, HEAD, WORDS, LINE = "#202020", "#353535", "#2a2a2a", "#dddddd", "#999999"
COLOURS = {
    "MODEL": "#b39ddb",
    "CLIP": "#ffd500",
    "VAE": "#ff6e6e",
    "IMAGE": "#64b5f6",
    "ESD_CONCEPTS": "#8bc34a",
    "ESD_SETTINGS": "#bdbdbd",
    "ESD_WEIGHTS": "#ff9cf9",
}
LONGEST = 60
"""Characters of a value that are shown."""


def graph_picture(workflow: dict[str, Any]) -> bytes:
    """Return the graph as a PNG."""
    boxes = [_box(node) for node in workflow["nodes"]]
    boxes += [(x, y, x + w, y + h) for x, y, w, h in (group["bounding"] for group in workflow["groups"])]
    left, top = min(b[0] for b in boxes) - MARGIN, min(b[1] for b in boxes) - MARGIN
    right, bottom = max(b[2] for b in boxes) + MARGIN, max(b[3] for b in boxes) + MARGIN
    picture = Image.new("RGB", (round((right - left) * SCALE), round((bottom - top) * SCALE)), GROUND)
    pen = _Pen(ImageDraw.Draw(picture), left, top)
    for group in workflow["groups"]:
        pen.group(group)
    for link in workflow["links"]:
        pen.link(workflow, link)
    for node in workflow["nodes"]:
        pen.node(node)
    out = io.BytesIO()
    picture.save(out, "PNG")
    return out.getvalue()


def _box(node: dict[str, Any]) -> Box:
    (x, y), (w, h) = node["pos"], node["size"]
    return (x, y - TITLE, x + w, y + h)


class _Pen:
    """Draws in the page's units."""

    def __init__(self, draw: ImageDraw.ImageDraw, left: float, top: float) -> None:
        self.draw, self.left, self.top = draw, left, top

    def at(self, x: float, y: float) -> tuple[float, float]:
        return ((x - self.left) * SCALE, (y - self.top) * SCALE)

    def text(self, x: float, y: float, words: str, size: float = 14, colour: str = WORDS, width: float = 0) -> None:
        font = ImageFont.load_default(size * SCALE * 1.25)
        while words and width and font.getlength(words) > width * SCALE:
            words = words[:-1]
        self.draw.text(self.at(x, y), words, fill=colour, font=font)

    def group(self, group: dict[str, Any]) -> None:
        x, y, w, h = group["bounding"]
        self.draw.rectangle([*self.at(x, y), *self.at(x + w, y + h)], outline=group["color"], width=2)
        self.text(x + 10, y + 8, group["title"], 20, group["color"])

    def link(self, workflow: dict[str, Any], link: list[Any]) -> None:
        nodes = {node["id"]: node for node in workflow["nodes"]}
        _, source, out, target, into, kind = link
        a, b = nodes[source], nodes[target]
        sockets = [n for n, entry in enumerate(b["inputs"]) if not entry.get("widget")]
        start = self.at(a["pos"][0] + a["size"][0], a["pos"][1] + ROW * (out + 0.7))
        end = self.at(b["pos"][0], b["pos"][1] + ROW * (sockets.index(into) + 0.7))
        middle = (start[0] + end[0]) / 2
        points = [start, (middle, start[1]), (middle, end[1]), end]
        self.draw.line(points, fill=COLOURS.get(kind, LINE), width=2)

    def node(self, node: dict[str, Any]) -> None:
        left, top, right, bottom = _box(node)
        self.draw.rectangle([*self.at(left, top), *self.at(right, bottom)], fill=PAPER, outline=LINE)
        self.draw.rectangle([*self.at(left, top), *self.at(right, top + TITLE)], fill=HEAD)
        self.text(left + 8, top + 5, node["title"], 15, width=right - left - 16)
        if not node["inputs"] and not node["outputs"]:
            self.note(node)
            return
        self.sockets(node)

    def sockets(self, node: dict[str, Any]) -> None:
        (x, y), (width, height) = node["pos"], node["size"]
        plain = [entry for entry in node["inputs"] if not entry.get("widget")]
        for number, entry in enumerate(plain):
            self.text(x + 10, y + ROW * number + 4, entry["name"], 12, COLOURS.get(entry["type"], WORDS))
        for number, entry in enumerate(node["outputs"]):
            self.text(x + width - 100, y + ROW * number + 4, entry["name"], 12, COLOURS.get(entry["type"], WORDS))
        widgets = [entry["name"] for entry in node["inputs"] if entry.get("widget")]
        first = y + ROW * max(len(plain), len(node["outputs"])) + 8
        for number, (name, value) in enumerate(zip(widgets, node["widgets_values"], strict=False)):
            line = first + ROW * number
            if line + ROW < y + height:
                said = " / ".join(str(value).splitlines())[:LONGEST]
                self.text(x + 10, line, f"{name}   {said}", 12, width=width - 20)

    def note(self, node: dict[str, Any]) -> None:
        (x, y), (width, height) = node["pos"], node["size"]
        line, most = y + 8, int(width / 6.6)
        for paragraph in node["widgets_values"][0].splitlines():
            words = paragraph.replace("**", "").replace("*", "").split("](")[0].strip("[#- ")
            while words and line + ROW < y + height:
                cut = len(words) if len(words) <= most else words.rfind(" ", 0, most)
                self.text(x + 10, line, words[: cut if cut > 0 else most], 11)
                words, line = words[cut if cut > 0 else most :].strip(), line + 16
            line += 4
