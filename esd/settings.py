"""The settings of a run: one table of fields, from which widgets, checks and documents follow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .errors import EsdError
from .optimizers import OPTIMIZERS
from .selection import METHODS


@dataclass(frozen=True)
class Field:
    """One setting.

    `official` is the parameter of the published code that it stands for.  A field that does not affect the result may
    differ between runs that count as the same.  `step` is that of the widget; `rare` widgets are folded away.
    """

    default: Any
    tooltip: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    official: str = ""
    affects_result: bool = True
    step: float | None = None
    rare: bool = False


WHEN_GONE, ALL_STEPS = STOPS = ("when gone", "after all steps")
ETA_BY_KIND = -1.0
ROBUSTNESS = OFF, LIGHT, STRONG = ("off", "light", "strong")
BY_KIND, OWN_WORDS = CONTEXTS = ("by kind", "own words")


FIELDS: dict[str, Field] = {
    "method": Field(
        "esd-x",
        "Which weights are trained. esd-x: text cross-attention, for styles and things named in the prompt. "
        "esd-x-strict: only its keys and values, the gentlest. esd-u: everything else, for what must not appear under "
        "any prompt. The names after selfattn are those of the 2023 code.",
        choices=tuple(METHODS),
        official="train_method",
    ),
    "steps": Field(
        300,
        "Training steps; with stop: when gone, the most for each concept.",
        1,
        100_000,
        official="iterations",
    ),
    "learning_rate": Field(
        0.0,
        "Step size of the optimiser. 0 lets the run find its own, from how fast the concept goes in its first steps. "
        "Published: 1e-5 to 2e-4; too high turns pictures to noise.",
        0.0,
        1.0,
        official="lr",
        step=1e-6,
    ),
    "eta": Field(
        ETA_BY_KIND,
        "Guidance scale: the paper's eta, how far to push away from the concept. -1 chooses by kind: 1 for an object, "
        "3 for a style, 4 for an attribute (erase_from). 0 only pulls to the empty prompt, 1 is the paper's. The "
        "official code's negative_guidance since 2025 is eta + 1, with erase_from eta itself.",
        -1.0,
        20.0,
        official="negative_guidance",
        step=0.1,
    ),
    "seed": Field(0, "Same seed and inputs give the same weights, bit for bit, on the same machine.", 0, 2**64 - 1),
    "preset": Field(
        "custom",
        "Fill in the settings of a published run, here and on the connected Erase node: steps, learning rate and eta "
        "too. default is ours. Change any of them afterwards and this reads custom.",
        affects_result=False,
    ),
    "sampler_model": Field(
        "base",
        "Who draws the training examples: the frozen base (fast: nothing is computed twice) or the student as it "
        "learns (the paper).",
        choices=("base", "student"),
    ),
    "num_inference_steps": Field(
        50,
        "Steps of the sampling trajectory that examples are taken from.",
        1,
        1000,
        official="num_inference_steps",
    ),
    "guidance_scale": Field(
        0.0,
        "Classifier-free guidance of that trajectory; 0 means the model family's own (SD1.x 3, SDXL 2).",
        0.0,
        100.0,
        official="guidance_scale",
        step=0.5,
    ),
    "training_guidance": Field(
        0.0,
        "For models that have guidance as an input (FLUX.1 dev): the guidance at which target and student predict; 0 "
        "means the model family's own (1).",
        0.0,
        100.0,
        official="guidance_scale",
        step=0.5,
        rare=True,
    ),
    "rank": Field(
        0,
        "0 trains the weights themselves. Above 0 a low-rank change beside each Linear layer is trained (a LoRA, 16 is "
        "usual): far less memory, and the model may be quantised (fp8).",
        0,
        1024,
        rare=True,
    ),
    "samples_per_trajectory": Field(
        10, "How many noise levels of each trajectory become examples; 1 is as published.", 1, 1000, rare=True
    ),
    "strided": Field(
        True,
        "Sample straight from one example's noise level to the next, so no step is wasted. Off runs every step of the "
        "trajectory, as published.",
        rare=True,
    ),
    "trajectory_batch": Field(
        4, "Trajectories sampled side by side; more is faster on a GPU and takes memory.", 1, 256
    ),
    "buffer_size": Field(
        0,
        "Examples made at a time and shuffled; 1 is as published. 0 means 200 with the base as sampler and 10 with the "
        "student, whose examples age as it learns.",
        0,
        1_000_000,
        rare=True,
    ),
    "draws_per_buffer": Field(
        0, "Draws from a buffer before it is refilled; 0 draws every example once.", 0, 1_000_000, rare=True
    ),
    "batch_size": Field(1, "Examples in one forward pass of the student.", 1, 1024, official="batchsize"),
    "gradient_accumulation_steps": Field(
        1, "Batches whose gradients are averaged before each optimiser step.", 1, 1024, rare=True
    ),
    "width": Field(
        0,
        "Width of the examples in pixels; 0 means the model family's own size.",
        0,
        16384,
        official="resolution",
        step=8,
    ),
    "height": Field(
        0,
        "Height of the examples in pixels; 0 means the model family's own size.",
        0,
        16384,
        official="resolution",
        step=8,
    ),
    "optimizer": Field(
        "adamw",
        "adamw (no weight decay) is the published one; adamw8bit needs bitsandbytes; adafactor takes the least memory.",
        choices=tuple(OPTIMIZERS),
        rare=True,
    ),
    "gradient_checkpointing": Field(
        "auto",
        "Recompute activations instead of storing them: less memory, about a third slower. auto turns it on when "
        "memory is short.",
        choices=("auto", "on", "off"),
        affects_result=False,
        rare=True,
    ),
    "precision": Field(
        "auto",
        "Precision of the network while training. The trained weights and the loss are fp32 in any case.",
        choices=("auto", "fp32", "bf16", "fp16"),
        rare=True,
    ),
    "deterministic": Field(
        True,
        "Use only GPU kernels that give the same bits again for the same inputs. Off may be faster. On a CPU it "
        "changes nothing.",
        rare=True,
    ),
    "stop": Field(
        WHEN_GONE,
        "When the run ends. when gone: as soon as every concept has no effect any more, measured every 10 steps, or "
        "after steps for each concept. after all steps: as published.",
        choices=STOPS,
        rare=True,
    ),
    "closed_form": Field(
        True,
        "Begin with text keys and values from ridge regression (SD3, FLUX.1: the layers that text enters first), which "
        "takes no pass of the network, and train from there. On the small test models most concepts are gone at once. "
        "Off begins with the model's own weights, as published. "
        "For SD1.x, SD2.x, SDXL, SD3 and FLUX.1, with methods that train text attention.",
        rare=True,
    ),
    "robustness": Field(
        OFF,
        "Also trains against attacks: tokens that bring the concept back are searched as it learns, and erased too, "
        "while common words near the concept are kept. light and strong take more steps each. An experiment: on the "
        "small model light did not withstand more than off. For SD1.x, SD2.x and SDXL.",
        choices=ROBUSTNESS,
        rare=True,
    ),
    "eta_erase_from": Field(None, "", 0.0, 20.0, official="negative_guidance"),
    "contexts": Field(
        BY_KIND,
        "What is trained of concepts that have no Contexts node. by kind: their own words and some prompts that hold "
        "them (objects in phrases, styles on things). own words: those alone, as published.",
        choices=CONTEXTS,
        rare=True,
    ),
}
"""Every setting by name.  `eta_erase_from` has no widget: published presets set it."""


def _default(name: str) -> Any:
    return FIELDS[name].default


@dataclass(frozen=True)
class Settings:
    """How a run is made.  A guidance or size of 0 means the model family's own."""

    method: str = _default("method")
    steps: int = _default("steps")
    learning_rate: float = _default("learning_rate")
    eta: float = _default("eta")
    seed: int = _default("seed")
    batch_size: int = _default("batch_size")
    gradient_accumulation_steps: int = _default("gradient_accumulation_steps")
    sampler_model: str = _default("sampler_model")
    num_inference_steps: int = _default("num_inference_steps")
    guidance_scale: float = _default("guidance_scale")
    training_guidance: float = _default("training_guidance")
    rank: int = _default("rank")
    samples_per_trajectory: int = _default("samples_per_trajectory")
    strided: bool = _default("strided")
    trajectory_batch: int = _default("trajectory_batch")
    buffer_size: int = _default("buffer_size")
    draws_per_buffer: int = _default("draws_per_buffer")
    width: int = _default("width")
    height: int = _default("height")
    optimizer: str = _default("optimizer")
    gradient_checkpointing: str = _default("gradient_checkpointing")
    precision: str = _default("precision")
    preset: str = _default("preset")
    deterministic: bool = _default("deterministic")
    eta_erase_from: float | None = _default("eta_erase_from")
    """For concepts with "erase from", where a published default differs there; None means eta."""
    stop: str = _default("stop")
    contexts: str = _default("contexts")
    closed_form: bool = _default("closed_form")
    robustness: str = _default("robustness")

    @property
    def examples_per_buffer(self) -> int:
        """How many examples are made at a time: few with the student as sampler, since they age."""
        return self.buffer_size or (10 if self.sampler_model == "student" else 200)

    @property
    def examples(self) -> int:
        """How many examples the run draws."""
        return self.steps * self.batch_size * self.gradient_accumulation_steps


def check(settings: Settings) -> Settings:
    """Return the settings themselves, or raise an EsdError that names the first one that cannot be used."""
    if -1 < settings.eta < 0:
        raise EsdError(f"eta is {settings.eta:g}: it must be 0 or more, or -1 to choose it by the kind of the concept.")
    for name, field in FIELDS.items():
        value = getattr(settings, name)
        if field.choices and value not in field.choices and name != "method":  # `select` answers for that one
            raise EsdError(f'{name} is "{value}": choose one of {", ".join(field.choices)}.')
        if field.low is not None and not (value is None and name == "eta_erase_from"):
            whole = isinstance(field.default, int)
            if not (isinstance(value, int if whole else int | float) and field.low <= value <= (field.high or 0)):
                kind = "a whole number" if whole else "a number"
                raise EsdError(f"{name} is {value!r:.30}: it must be {kind} from {field.low} to {field.high}.")
    return settings
