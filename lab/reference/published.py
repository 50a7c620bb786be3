"""Erasing a concept as published in 2026, on diffusers objects: walk, predictions, target, loss, Adam.

Every `fault` is a deliberate mistake that a test may ask for, to show that it would be noticed.
"""

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler
from torch import Tensor

Fault = Literal["label", "input scale", "eta"]
UNet = Any  # UNet, and DDIMScheduler or EulerDiscreteScheduler: type checkers find them empty
Scheduler = Any
SCHEDULE = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "steps_offset": 1,
    "timestep_spacing": "leading",
}


@dataclass(frozen=True)
class Prompt:
    """What the network is told: text states, and on SDXL the pooled text and the picture's size."""

    hidden: Tensor
    pooled: Tensor | None = None
    time_ids: Tensor | None = None


@dataclass(frozen=True)
class Concept:
    """A concept to erase, the empty prompt, and optionally what the concept is erased from."""

    null: Prompt
    erase: Prompt
    erase_from: Prompt | None = None

    @property
    def anchor(self) -> Prompt:
        """The prompt that the target starts from."""
        return self.erase_from or self.null

    @property
    def student(self) -> Prompt:
        """The prompt of the trained pass and of the walk."""
        return self.erase_from or self.erase


@dataclass(frozen=True)
class Settings:
    """How a run is made: the paper's eta, the grid of steps, the walk's guidance and who walks."""

    eta: float = 1.0
    steps: int = 50
    guidance: float = 3.0
    walker: Literal["base", "student"] = "base"
    fault: Fault | None = None


@dataclass(frozen=True)
class Point:
    """A partly denoised latent in the scheduler's own space, its level's label and its index."""

    x: Tensor
    t: Tensor
    k: int


@dataclass(frozen=True)
class Predictions:
    """The frozen network's raw outputs at one point."""

    null: Tensor
    erase: Tensor
    anchor: Tensor


@dataclass(frozen=True)
class Trained:
    """What a run leaves behind: the loss of each step and the trained tensors by diffusers name."""

    losses: list[float]
    parameters: dict[str, Tensor]


def ddim(prediction_type: str = "epsilon") -> Scheduler:
    """Return the deterministic scheduler of Stable Diffusion 1 and 2."""
    return DDIMScheduler(**SCHEDULE, clip_sample=False, set_alpha_to_one=False, prediction_type=prediction_type)


def euler(prediction_type: str = "epsilon") -> Scheduler:
    """Return the scheduler that SDXL is published with."""
    return EulerDiscreteScheduler(**SCHEDULE, prediction_type=prediction_type)


def size_ids(height: int, width: int) -> Tensor:
    """Return SDXL's size conditioning of an uncropped picture."""
    return torch.tensor([[height, width, 0, 0, height, width]], dtype=torch.float32)


def call(unet: UNet, x: Tensor, t: Tensor, prompt: Prompt) -> Tensor:
    """Return the network's raw output for an already scaled input."""
    extra = None
    if prompt.pooled is not None:
        extra = {"text_embeds": prompt.pooled, "time_ids": prompt.time_ids}
    return unet(x, t, encoder_hidden_states=prompt.hidden, added_cond_kwargs=extra).sample


def both(first: Prompt, second: Prompt) -> Prompt:
    """Return two prompts as one batch."""
    hidden = torch.cat([first.hidden, second.hidden])
    if first.pooled is None or second.pooled is None or first.time_ids is None or second.time_ids is None:
        return Prompt(hidden)
    pooled, sizes = torch.cat([first.pooled, second.pooled]), torch.cat([first.time_ids, second.time_ids])
    return Prompt(hidden, pooled, sizes)


@torch.no_grad()
def walk(
    unet: UNet,
    scheduler: Scheduler,
    noise: Tensor,
    steps_grid: int,
    k: int,
    uncond: Prompt,
    cond: Prompt,
    guidance: float,
) -> Point:
    """Denoise pure noise through the first k entries of the grid and stop before entry k."""
    scheduler.set_timesteps(steps_grid)
    x, prompts = noise * scheduler.init_noise_sigma, both(uncond, cond)
    for t in scheduler.timesteps[:k]:
        scaled = scheduler.scale_model_input(torch.cat([x, x]), t)
        free, told = call(unet, scaled, t, prompts).chunk(2)
        x = scheduler.step(free + guidance * (told - free), t, x).prev_sample
    return Point(x, scheduler.timesteps[k], k)


def sigma_space(scheduler: Scheduler, point: Point) -> Tensor:
    """Return a point's latent as clean + sigma * noise, whatever space its scheduler works in."""
    if isinstance(scheduler, EulerDiscreteScheduler):
        return point.x
    return point.x / scheduler.alphas_cumprod[int(point.t)].sqrt()


def network_input(scheduler: Scheduler, point: Point, steps_grid: int, fault: Fault | None = None) -> Tensor:
    """Return the latent as the network wants it, from the scheduler's own scaling at this level."""
    if fault == "input scale":
        return point.x
    scheduler.set_timesteps(steps_grid)
    return scheduler.scale_model_input(point.x, scheduler.timesteps[point.k])


def network_label(scheduler: Scheduler, point: Point, steps_grid: int, fault: Fault | None = None) -> Tensor:
    """Return the timestep that the network is told."""
    if fault != "label":
        return point.t
    scheduler.set_timesteps(steps_grid)
    return scheduler.timesteps[point.k - 1 if point.k else 1]


@torch.no_grad()
def predictions(
    unet: UNet, scheduler: Scheduler, point: Point, steps_grid: int, concept: Concept, fault: Fault | None = None
) -> Predictions:
    """Return the frozen outputs for the empty prompt, the concept and the anchor."""
    x = network_input(scheduler, point, steps_grid, fault)
    t = network_label(scheduler, point, steps_grid, fault)
    null, erase = call(unet, x, t, concept.null), call(unet, x, t, concept.erase)
    anchor = null if concept.erase_from is None else call(unet, x, t, concept.erase_from)
    return Predictions(null, erase, anchor)


def target(eps_anchor: Tensor, eps_erase: Tensor, eps_null: Tensor, eta: float, fault: Fault | None = None) -> Tensor:
    """Return the paper's target; eta off by one is what confusing it with the official flag does."""
    strength = eta + 1.0 if fault == "eta" else eta
    return eps_anchor - strength * (eps_erase - eps_null)


def official_target(eps_from: Tensor, eps_erase: Tensor, eps_null: Tensor, negative_guidance: float) -> Tensor:
    """Return the target as the official code writes it, where `from` is the concept itself by default."""
    return eps_from - negative_guidance * (eps_erase - eps_null)


def select(unet: UNet, method: str, family: Literal["sd", "sdxl"] = "sd") -> list[str]:
    """Return the names of the parameters that a method trains: those of chosen Linear and Conv2d layers."""
    rules = {
        "esd-x": lambda name: "attn2" in name,
        "esd-x-strict": lambda name: "attn2.to_k" in name or "attn2.to_v" in name,
        "esd-u": lambda name: "attn2" not in name,
        "esd-all": lambda name: True,
        "selfattn": lambda name: "attn1" in name,
    }
    blocks_only = family == "sdxl" and method in ("esd-u", "esd-all")
    names = []
    for name, module in unet.named_modules():
        if not isinstance(module, torch.nn.Linear | torch.nn.Conv2d) or not rules[method](name):
            continue
        if blocks_only and ("emb" in name or "block" not in name):
            continue
        names += [f"{name}.{part}" for part, _ in module.named_parameters()]
    return names


def loss(student: UNet, base: UNet, scheduler: Scheduler, point: Point, concept: Concept, settings: Settings) -> Tensor:
    """Return the squared distance between the trained output and the frozen target at one point."""
    seen = predictions(base, scheduler, point, settings.steps, concept, settings.fault)
    wanted = target(seen.anchor, seen.erase, seen.null, settings.eta, settings.fault)
    x = network_input(scheduler, point, settings.steps, settings.fault)
    t = network_label(scheduler, point, settings.steps, settings.fault)
    return (call(student, x, t, concept.student) - wanted).square().mean()


def trainable(unet: UNet, names: Iterable[str]) -> dict[str, Tensor]:
    """Freeze everything but the named parameters and return these."""
    unet.requires_grad_(False)
    chosen = {name: unet.get_parameter(name) for name in names}
    for parameter in chosen.values():
        parameter.requires_grad_(True)
    return chosen


def loss_and_gradients(
    student: UNet,
    base: UNet,
    scheduler: Scheduler,
    point: Point,
    concept: Concept,
    settings: Settings,
    names: Sequence[str],
) -> tuple[float, dict[str, Tensor]]:
    """Return the loss at one point and its gradient for each named parameter."""
    chosen = trainable(student, names)
    value = loss(student, base, scheduler, point, concept, settings)
    gradients = torch.autograd.grad(value, list(chosen.values()))
    return float(value.detach()), dict(zip(chosen, gradients, strict=True))


def train(
    unet: UNet,
    scheduler: Scheduler,
    concept: Concept,
    settings: Settings,
    draws: Sequence[tuple[Tensor, int]],
    lr: float,
    names: Sequence[str],
) -> Trained:
    """Train a copy of the network, one fresh walk and one Adam step for each drawn (noise, k)."""
    student, losses = copy.deepcopy(unet), []
    chosen = trainable(student, names)
    optimizer = torch.optim.Adam(chosen.values(), lr=lr)
    walker = student if settings.walker == "student" else unet
    for noise, k in draws:
        point = walk(walker, scheduler, noise, settings.steps, k, concept.null, concept.student, settings.guidance)
        value = loss(student, unet, scheduler, point, concept, settings)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        losses.append(float(value.detach()))
    return Trained(losses, {name: parameter.detach().clone() for name, parameter in chosen.items()})
