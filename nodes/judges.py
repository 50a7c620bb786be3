"""Judges: what says whether a picture shows a label."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..esd.evaluate.classifier import ClassifierJudge
from .host.files import classifier
from .host.images.judges import BaseModelJudge, playground_judge
from .host.images.vision_judges import PrototypeJudge, ZeroShotJudge
from .schema import finding
from .sockets import CATEGORY, JudgeSocket, seed_input


class ESDJudgeBaseModel(io.ComfyNode):
    """The base model itself."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Define inputs and outputs."""
        return io.Schema(
            node_id="ESDJudgeBaseModel",
            display_name="ESD Judge: Base Model",
            category=CATEGORY,
            **finding("classifier", "diffusion classifier", "evaluate", "ESD"),
            description="Judges pictures by which label the base model explains them best. Needs no download and works "
            "for any concept that the base knows.",
            inputs=[
                io.Model.Input("base_model", tooltip="The MODEL before the erasure."),
                io.Clip.Input("clip", tooltip="Its text encoder."),
                io.Vae.Input("vae", tooltip="Its VAE, which turns pictures into latents."),
                seed_input("The seed of the noise that pictures are judged under."),
            ],
            outputs=[JudgeSocket.Output("judge", display_name="judge", tooltip="For Evaluate.")],
        )

    @classmethod
    def execute(cls, base_model: Any, clip: Any, vae: Any, seed: int) -> io.NodeOutput:
        """Make the judge; it works when Evaluate asks."""
        return io.NodeOutput(BaseModelJudge(base_model, clip, vae, seed))


class ESDJudgePlayground(io.ComfyNode):
    """The small network that ships with the playground."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Define outputs; there is nothing to choose."""
        return io.Schema(
            node_id="ESDJudgePlayground",
            display_name="ESD Judge: Playground",
            category=CATEGORY,
            **finding("classifier", "evaluate", "emoji-world", "ESD"),
            description="Judges 64 x 64 pictures of the playground checkpoint by the small network that ships with it.",
            inputs=[],
            outputs=[JudgeSocket.Output("judge", display_name="judge", tooltip="For Evaluate.")],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        """Load the judge."""
        return io.NodeOutput(playground_judge())


class ESDJudgePrototypes(io.ComfyNode):
    """What the base's own pictures look like to a vision encoder."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Define inputs and outputs."""
        return io.Schema(
            node_id="ESDJudgePrototypes",
            display_name="ESD Judge: Prototypes",
            category=CATEGORY,
            **finding("classifier", "CLIP vision", "DINOv2", "SigLIP", "ESD"),
            description="Judges pictures by the base's own pictures of each label, compared by any CLIP vision file. "
            "It measures how often it is right and says so in the report.",
            inputs=[
                io.ClipVision.Input("clip_vision", tooltip="Any vision encoder: CLIP, SigLIP or DINOv2."),
                io.Int.Input(
                    "pictures",
                    default=24,
                    min=2,
                    max=256,
                    tooltip="How many pictures of each label the base draws first, to learn the label from.",
                ),
            ],
            outputs=[JudgeSocket.Output("judge", display_name="judge", tooltip="For Evaluate.")],
        )

    @classmethod
    def execute(cls, clip_vision: Any, pictures: int) -> io.NodeOutput:
        """Make the judge; it learns when Evaluate asks."""
        return io.NodeOutput(PrototypeJudge(clip_vision, pictures))


class ESDJudgeCLIP(io.ComfyNode):
    """CLIP's words, where both of its towers are there."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Define inputs and outputs."""
        return io.Schema(
            node_id="ESDJudgeCLIP",
            display_name="ESD Judge: CLIP",
            category=CATEGORY,
            **finding("classifier", "zero-shot", "CLIP score", "ESD"),
            description="Judges pictures by which label CLIP finds nearest. Both towers must come from one CLIP; the "
            "text encoder of an SD1.x checkpoint will not do.",
            inputs=[
                io.ClipVision.Input("clip_vision", tooltip="The vision tower: Load CLIP Vision."),
                io.Clip.Input("clip", tooltip="The text tower of the same CLIP, projection included: Load CLIP."),
            ],
            outputs=[JudgeSocket.Output("judge", display_name="judge", tooltip="For Evaluate.")],
        )

    @classmethod
    def execute(cls, clip_vision: Any, clip: Any) -> io.NodeOutput:
        """Make the judge; it is tested on the base's own pictures when Evaluate asks."""
        return io.NodeOutput(ZeroShotJudge(clip_vision, clip))


class ESDJudgeFile(io.ComfyNode):
    """A classifier or detector that the user has."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Define inputs and outputs."""
        return io.Schema(
            node_id="ESDJudgeFile",
            display_name="ESD Judge: File",
            category=CATEGORY,
            **finding("classifier", "ResNet", "NudeNet", "ONNX", "ESD"),
            description="Judges pictures by a classifier of your own in models/classifiers: a ResNet, or an ONNX "
            "classifier or detector.",
            inputs=[
                io.Combo.Input(
                    "file",
                    options=classifier.files(),
                    tooltip="A file in models/classifiers; one of its name that ends in .json may name its classes.",
                ),
                io.Float.Input(
                    "cut",
                    default=0.5,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="From which figure a detector's class counts as found. Papers differ: name it with every "
                    "rate. A classifier's largest class counts whatever this says.",
                ),
            ],
            outputs=[JudgeSocket.Output("judge", display_name="judge", tooltip="For Evaluate.")],
        )

    @classmethod
    def fingerprint_inputs(cls, file: str, cut: float) -> str:
        """Run again when the file changes."""
        return classifier.fingerprint(file)

    @classmethod
    def execute(cls, file: str, cut: float) -> io.NodeOutput:
        """Open the file."""
        return io.NodeOutput(ClassifierJudge(classifier.load(file), cut))
