"""Erase Concept, and the settings that most runs never touch."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from comfy_api.latest import io

from ..esd.concepts import Concept, Keep
from ..esd.presets import with_preset
from ..esd.settings import FIELDS
from ..esd.settings import Settings as RunSettings
from .host.files import graph
from .host.run import erase as host
from .host.run.monitor import STARTS, MonitorOptions
from .schema import ALIASES, advanced, finding, setting_input
from .sockets import CATEGORY, Concepts, Keeps, LossMap, Settings, Weights, seed_input

DEFAULT = RunSettings()


class ESDErase(io.ComfyNode):
    """The training node."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Define inputs and outputs."""
        return io.Schema(
            node_id="ESDErase",
            display_name="ESD Erase Concept",
            category=CATEGORY,
            **finding(*ALIASES, "fine-tune", "negative LoRA"),
            description="Erases the concepts from a copy of the MODEL by fine-tuning (ESD, ICCV 2023), without images. "
            "The MODEL that comes in stays as it is.",
            is_output_node=True,  # it shows the run and keeps the result: three nodes are a whole graph
            inputs=[
                io.Model.Input("model", tooltip="The model to erase from, with its LoRAs if it has any."),
                io.Clip.Input("clip", tooltip="The text encoder that belongs to the model."),
                Concepts.Input("concepts", tooltip="What to erase: one Concept node or a chain of them."),
                *(setting_input(name) for name in DIALS),
                seed_input(FIELDS["seed"].tooltip),
                *_watching(),
                setting_input("stop", optional=True),
                setting_input("robustness", optional=True),
                Keeps.Input("keep", optional=True, tooltip="Prompts that must look as before (Keep nodes)."),
                Settings.Input("settings", optional=True, tooltip="Erase Settings, for all the rest."),
                io.Vae.Input("vae", optional=True, tooltip="For sharp previews; without it they are rough colours."),
            ],
            outputs=[
                io.Model.Output("erased_model", display_name="MODEL", tooltip="The erased model, for any sampler."),
                Weights.Output("weights", display_name="weights", tooltip="The change of each trained weight."),
                LossMap.Output(
                    "losses", display_name="losses", tooltip="Loss and residual, for the stock Plot Loss Graph node."
                ),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt, io.Hidden.extra_pnginfo],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        clip: Any,
        concepts: tuple[Concept, ...],
        method: str,
        steps: int,
        learning_rate: float,
        eta: float,
        seed: int,
        preview_every: int,
        snapshot_every: int,
        start: str,
        stop: str = DEFAULT.stop,
        robustness: str = DEFAULT.robustness,
        keep: tuple[Keep, ...] = (),
        settings: RunSettings = DEFAULT,
        vae: Any = None,
    ) -> io.NodeOutput:
        """Train, and hand back the erased clone."""
        dials: dict[str, Any] = {
            "method": method,
            "steps": steps,
            "learning_rate": learning_rate,
            "eta": eta,
            "seed": seed,
        }
        run = replace(settings, **dials, stop=stop, robustness=robustness)
        node_id = cls.hidden.unique_id
        base = graph.base_file(cls.hidden.prompt, node_id)
        workflow = graph.workflow_id(cls.hidden.extra_pnginfo)
        monitor = MonitorOptions(preview_every, snapshot_every, start, vae, node_id or "", workflow)
        erased = host.erase_model(model, clip, concepts, keep, with_preset(run, run.preset), base, monitor)
        return io.NodeOutput(erased.model, erased.weights, erased.curves)


DIALS = ("method", "steps", "learning_rate", "eta")
"""The settings that most runs set, in the order of their widgets; the seed follows."""


def _watching() -> list[io.Input]:
    """Return what is shown and kept while it trains."""
    return [
        io.Int.Input(
            "preview_every",
            default=50,
            min=0,
            max=100000,
            tooltip="Steps between preview pictures of the concept and of a keep prompt on this node; 0 is off. "
            "The node says how long one takes.",
        ),
        advanced(
            io.Int.Input,
            "snapshot_every",
            default=100,
            min=0,
            max=100000,
            tooltip="Steps between snapshots in output/esd/runs, from which a stopped run resumes; 0 keeps one "
            "only when you cancel or finish early.",
        ),
        advanced(
            io.Combo.Input,
            "start",
            options=list(STARTS),
            default=STARTS[0],
            tooltip="What to do when output/esd/runs has a run with the very same inputs. reuse or resume: take "
            "its result, or continue where it stopped. resume: train to the last step even after Finish now. "
            "start over: train again.",
        ),
    ]
