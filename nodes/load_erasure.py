"""Load Erasure: a published or saved file onto a model."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..esd.formats.load import INTERPRETATIONS
from .host.files import folders, graph, published
from .host.model import apply as host
from .schema import advanced, finding, saying
from .sockets import CATEGORY, Weights


class ESDLoadErasure(io.ComfyNode):
    """A file of erased weights, in any published form."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Define inputs and outputs."""
        return io.Schema(
            node_id="ESDLoadErasure",
            display_name="ESD Load Erasure",
            category=CATEGORY,
            **finding("load ESD", "load LECO", "load UCE", "unlearn", "erased LoRA"),
            **saying(),
            description="Opens every published kind of ESD file (and UCE, LECO and LoRA files) and adds it to a MODEL.",
            inputs=[
                io.Combo.Input(
                    "file",
                    options=folders.files(),
                    tooltip="A file from models/esd, output/esd or output/loras. Its kind is told from its content.",
                ),
                io.Model.Input(
                    "model", tooltip="The model to erase from: best the one that the file was trained from."
                ),
                advanced(
                    io.Combo.Input,
                    "interpret",
                    options=list(INTERPRETATIONS),
                    default=INTERPRETATIONS[0],
                    optional=True,
                    tooltip="For files with absolute values, which is what the official code saves. as absolute: end "
                    "with exactly the file's values. as difference: add only what training changed, without the "
                    "file's rounding. auto: as difference if base_model is connected, else as absolute.",
                ),
                io.Model.Input(
                    "base_model",
                    optional=True,
                    tooltip="Only to carry an erasure over to another model: the MODEL that the file was trained from.",
                ),
            ],
            outputs=[
                io.Model.Output("erased_model", display_name="MODEL", tooltip="The erased model, for any sampler."),
                Weights.Output("weights", display_name="weights", tooltip="For Apply (strength), Save and Info."),
            ],
            hidden=[io.Hidden.prompt, io.Hidden.unique_id],
        )

    @classmethod
    def fingerprint_inputs(cls, file: str, **others: Any) -> str:
        """Run again when the file changes."""
        return folders.fingerprint(file)

    @classmethod
    def execute(
        cls, file: str, model: Any, interpret: str = INTERPRETATIONS[0], base_model: Any = None
    ) -> io.NodeOutput:
        """Read, compare and apply."""
        came_from = "model" if base_model is None else "base_model"
        base_path = graph.base_file(cls.hidden.prompt, cls.hidden.unique_id, came_from)
        found = published.load(folders.path_of(file), model, interpret, base_model, base_path)
        erased = host.apply(model, found.weights, 1.0)
        lines = [found.summary, *found.warnings]
        return io.NodeOutput(erased, found.weights, ui={"text": lines})
