"""The link types of the pack; LOSS_MAP is the host's own, so its Plot Loss Graph draws our losses."""

from comfy_api.latest import io

CATEGORY = "ESD"

Concepts = io.Custom("ESD_CONCEPTS")
"""A tuple of esd.concepts.Concept."""

Contexts = io.Custom("ESD_CONTEXTS")
"""An esd.contexts.ContextRules."""

Keeps = io.Custom("ESD_KEEPS")
"""A tuple of esd.concepts.Keep."""

Settings = io.Custom("ESD_SETTINGS")
"""An esd.settings.Settings."""

Weights = io.Custom("ESD_WEIGHTS")
"""An esd.erasure.Erasure."""

Erasures = io.Custom("ESD_ERASURES")
"""A tuple of esd.erasure.Erasure."""

Prompts = io.Custom("ESD_PROMPTS")
"""An esd.evaluate.prompt_set.PromptSet."""

JudgeSocket = io.Custom("ESD_JUDGE")
"""An esd.evaluate.judge.Judge."""

EvaluationReport = io.Custom("ESD_REPORT")
"""An esd.evaluate.report.Report."""

Rows = io.Custom("ESD_ROWS")
"""A tuple of nodes.host.images.shots.Shot."""

LossMap = io.Custom("LOSS_MAP")
"""The host's type: a dict whose "loss" is the loss of every step."""


def seed_input(tooltip: str) -> io.Int.Input:
    """Return a seed as KSampler has it, which stays as it is from run to run."""
    return io.Int.Input("seed", default=0, min=0, max=0xFFFFFFFFFFFFFFFF, control_after_generate=False, tooltip=tooltip)


def model_and_base() -> list[io.Input]:
    """Return a MODEL that something was erased from, and the one before."""
    return [
        io.Model.Input("model", tooltip="The erased MODEL, or any other of the base's family."),
        io.Model.Input("base_model", tooltip="The MODEL that it was made from."),
    ]


def erased_concepts() -> io.Input:
    """Return what was erased from it."""
    return Concepts.Input("concepts", tooltip="What was erased: one Concept node or a chain of them.")
