"""Erase Concept, and the settings that most runs never touch."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from comfy_api.latest import io

from ..esd.concepts import Concept, Keep
from ..esd.selection import METHODS
from ..esd.settings import Settings as RunSettings
from ..esd.settings import with_preset
from .host.files import graph
from .host.run import erase as host
from .host.run.monitor import STARTS, Watch
from .schema import ALIASES, advanced, finding
from .sockets import CATEGORY, Concepts, Keeps, LossMap, Settings, Weights, seed_input

DEFAULT = RunSettings()


class ESDErase(io.ComfyNode):
    """The training node."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="ESDErase",
            display_name="ESD Erase Concept",
            category=CATEGORY,
            **finding(*ALIASES, "fine-tune", "negative LoRA"),
            description="Erases the concepts from a copy of the MODEL by fine-tuning (ESD, ICCV 2023), without images. "
            "The MODEL that comes in stays as it is.",
            inputs=[
                io.Model.Input("model", tooltip="The model to erase from, with its LoRAs if it has any."),
                io.Clip.Input("clip", tooltip="The text encoder that belongs to the model."),
                Concepts.Input("concepts", tooltip="What to erase: one Concept node or a chain of them."),
                *_dials(),
                *_watching(),
                Keeps.Input("keep", optional=True, tooltip="Prompts that must look as before (Keep nodes)."),
                Settings.Input("settings", optional=True, tooltip="Erase Settings, for all the rest."),
                io.Vae.Input("vae", optional=True, tooltip="For sharp previews; without it they are rough colours."),
            ],
            outputs=[
                io.Model.Output("erased_model", display_name="MODEL", tooltip="The erased model, for any sampler."),
                Weights.Output("weights", display_name="weights", tooltip="The change of each trained weight."),
                LossMap.Output("losses", display_name="losses", tooltip="For the stock Plot Loss Graph node."),
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
        keep: tuple[Keep, ...] = (),
        settings: RunSettings = DEFAULT,
        vae: Any = None,
    ) -> io.NodeOutput:
        """Train, and hand back the erased clone."""
        run = replace(settings, method=method, steps=steps, learning_rate=learning_rate, eta=eta, seed=seed)
        node_id = cls.hidden.unique_id
        base = graph.base_file(cls.hidden.prompt, node_id)
        workflow = graph.workflow_id(cls.hidden.extra_pnginfo)
        watch = Watch(preview_every, snapshot_every, start, vae, node_id or "", workflow)
        erased = host.erase_model(model, clip, concepts, keep, with_preset(run, run.preset), base, watch)
        return io.NodeOutput(erased.model, erased.weights, {"loss": erased.losses})


def _dials() -> list[io.Input]:
    """What most runs set."""
    return [
        io.Combo.Input(
            "method",
            options=list(METHODS),
            default=DEFAULT.method,
            tooltip="Which weights learn. esd-x: text attention, for styles and things named in the prompt. "
            "esd-x-strict: only its keys and values, the gentlest. esd-u: everything else, for what must not "
            "appear under any prompt. The names after selfattn are those of the 2023 code.",
        ),
        io.Int.Input(
            "steps",
            default=DEFAULT.steps,
            min=1,
            max=100000,
            tooltip="Training steps. 100 to 500 is usual; more erases more and costs more of the rest.",
        ),
        io.Float.Input(
            "learning_rate",
            default=DEFAULT.learning_rate,
            min=1e-8,
            max=1.0,
            step=1e-6,
            round=False,
            tooltip="Step size of the optimiser. 1e-5 (paper) to 2e-4; too high turns pictures to noise.",
        ),
        io.Float.Input(
            "eta",
            default=DEFAULT.eta,
            min=0.0,
            max=20.0,
            step=0.1,
            tooltip="Guidance scale: the paper's eta, how far to push away from the concept. 0 only pulls it "
            "to the empty prompt, 1 is the paper's default, 3 and more may hurt the rest. An attribute "
            "(erase_from) wants about 4. The official code's negative_guidance since 2025 is eta + 1, with erase_from "
            "eta itself.",
        ),
        seed_input("Same seed and inputs give the same weights, bit for bit, on the same machine."),
    ]


def _watching() -> list[io.Input]:
    """What is shown and kept while it trains."""
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
            tooltip="Steps between snapshots in output/esd/runs, from which a stopped run goes on; 0 keeps one "
            "only when you cancel or finish early.",
        ),
        advanced(
            io.Combo.Input,
            "start",
            options=list(STARTS),
            default=STARTS[0],
            tooltip="What to do when output/esd/runs has a run with the very same inputs. reuse or resume: take "
            "its result, or go on where it was stopped. resume: go on to the last step even after Finish now. "
            "start over: train anew.",
        ),
    ]
