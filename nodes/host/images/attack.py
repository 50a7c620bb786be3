"""Attacks on a MODEL: conditions that bring a concept back, and pictures under them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ....esd.concepts import NULL_PROMPT, Concept, prompts_of
from ....esd.denoiser import Condition
from ....esd.evaluate import attack
from ....esd.evaluate.judge import Judge
from ....esd.evaluate.kept_rows import NoKeeper
from ....esd.evaluate.metrics import Rate, plain_rate
from ....esd.random_streams import CONFIRMING, MEASURING, stream_generator
from ....esd.residual import LEVELS, HeldOut, hold_out
from ....esd.settings import Settings
from ....esd.slots import open_slots, token_name
from ..families import spatial_ratio
from ..model.backward import training_mode
from ..model.conditioning import encode
from ..model.host_model import HostModel
from ..model.measure import compared
from ..model.oom import translate_oom
from ..model.pair import PairDenoiser, frozen_denoiser
from ..parts import require_parts
from ..progress import Progress
from .judges import BaseModelJudge
from .sampling import SamplerChoice, encode_prompts
from .studio import Studio

GRID = 50
"""Noise levels of trajectories, and of the pictures that an inversion explains."""

INVERSION = 2
"""An inversion takes so many times a search's steps: it sees noise, where a search sees the base's answers."""

COMPLETED = 5
"""In a completion the base draws one step of so many."""

BEFORE, OWN, SEARCHED, INVERTED, FINISHED = "untouched", "own words", "attack", "inversion", "completion"
"""How pictures are drawn: the base's, and the MODEL's under its own words and three ways to bring the concept back."""

ATTACKS = (SEARCHED, INVERTED, FINISHED)


@dataclass(frozen=True)
class AttackChoice:
    """Steps of a search, trajectories that are searched and as many that are measured, and what is drawn."""

    search_steps: int
    trajectories: int
    pictures: int
    steps: int
    cfg: float
    seed: int
    width: int
    height: int


@dataclass(frozen=True)
class Attacked:
    """The figures of a concept, the strongest condition found, and pictures "b h w 3" by how they were drawn.

    `prompt` is the one beside whose tokens the search began.
    """

    comeback: attack.Comeback
    prompt: str
    told: Condition
    drawn: dict[str, Tensor]

    @property
    def most(self) -> Rate:
        """Of all attacks the largest found rate."""
        return max((rate for how, rate in self.comeback.found if how in ATTACKS), key=lambda rate: rate.share)

    def conditioning(self, clip: Any) -> Any:
        """Return the strongest condition for any sampler of the host: the tokens found, and the rest of its prompt."""
        encoded = encode_prompts(clip, [self.prompt])[self.prompt]
        return [[self.told.tensors[token_name(self.told)].cpu(), encoded[0][1]]]


def passes_of(concept: Concept, choice: AttackChoice) -> int:
    """Return the network passes of one concept; the default judge's come on top."""
    points = choice.trajectories * LEVELS
    asked = 3 if concept.silent_prompt else 2
    searches = 3 * choice.search_steps * min(attack.TOGETHER, points)
    inversion = INVERSION * choice.search_steps * min(attack.TOGETHER, choice.pictures)
    return (2 * asked + 14) * points + searches + inversion + 6 * 2 * choice.steps * choice.pictures


def attack_models(
    model: Any, base: Any, clip: Any, vae: Any, concepts: Sequence[Concept], judge: Judge | None, label: str,
    choice: AttackChoice,
) -> list[Attacked]:  # fmt: skip
    """Attack a MODEL concept by concept; raise EsdError for what cannot be attacked before anything is searched.

    Without a judge the base is one, by likelihood; without a label it looks for a concept's own words.
    """
    require_parts(clip, vae)
    hosts = compared(model, base)
    latent = hosts[0].latent_shape(choice.width, choice.height)
    progress = Progress(sum(passes_of(each, choice) for each in concepts))
    with translate_oom("the MODEL was attacked", "choose a smaller width and height"):
        conditions = encode(hosts[0], clip, prompts_of(concepts, ()), latent, hosts[0].device)
        token_name(conditions[NULL_PROMPT])
        size = tuple(side * spatial_ratio(base) for side in (latent[-1], latent[-2]))
        judges = [_judge(judge, each, label, base, clip, vae, choice, size) for each in concepts]
        with torch.inference_mode(False), torch.no_grad(), training_mode():
            pair = PairDenoiser(*(frozen_denoiser(host, latent, GRID, progress.advance, True) for host in hosts))
            found = [_attacked(pair, hosts[0], conditions, each, choice) for each in concepts]
        return [_judged(each, hosts[0], vae, *asked) for each, asked in zip(found, judges, strict=True)]


def _judge(
    judge: Judge | None, concept: Concept, label: str, base: Any, clip: Any, vae: Any, choice: AttackChoice,
    size: tuple[int, ...],
) -> tuple[Judge, list[str]]:  # fmt: skip
    """Return who looks for a concept, and the labels: the first is the concept's."""
    labels = [label or concept.student_prompt]
    if judge is None:
        silent = [concept.silent_prompt] if concept.silent_prompt else []
        return BaseModelJudge(base, clip, vae, choice.seed), labels + silent
    width, height = size
    judge.check(labels, {(width, height)})
    drawn = SamplerChoice(choice.seed, choice.steps, choice.cfg, "ddim", "ddim_uniform", width, height)
    studio = Studio(base, clip, vae, NoKeeper(), Progress(0))
    return judge.ready(labels, studio.teacher(drawn)), labels


def _attacked(
    pair: PairDenoiser, host: HostModel, conditions: dict[str, Condition], concept: Concept, choice: AttackChoice
) -> Attacked:
    """Search, invert and draw; the pictures are clean latents still."""
    settings = Settings(num_inference_steps=GRID, guidance_scale=host.family.guidance_scale)
    specs = [attack.attacked_spec(concept)] * choice.trajectories

    def walks(stream: int) -> list[HeldOut]:
        return hold_out(pair, conditions, specs, settings, stream_generator(choice.seed, stream))

    seen, unseen = walks(MEASURING), walks(CONFIRMING)
    order = stream_generator(choice.seed, SEARCHING)
    starts = attack.starts_of(conditions, concept)
    best = attack.search(pair, conditions, starts, seen, choice.search_steps, order)
    turned = [attack.upside_down(each) for each in seen]
    control = attack.search(pair, conditions, starts[-1:], turned, choice.search_steps, order)
    own = conditions[concept.student_prompt]
    comeback = attack.Comeback(
        concept.student_prompt,
        attack.residual_under(pair, conditions, own, unseen),
        attack.residual_under(pair, conditions, best.condition, unseen),
        attack.residual_under(pair, conditions, control.condition, [attack.upside_down(each) for each in unseen]),
    )
    began = next(p for p in (concept.student_prompt, NULL_PROMPT) if conditions[p] is best.told)
    return Attacked(comeback, began, best.condition, _pictures(pair, conditions, own, best.condition, choice))


SEARCHING, DRAWING, SHOWN = 16, 17, 18
"""Random streams beside those of a training."""


def _pictures(
    pair: PairDenoiser, conditions: dict[str, Condition], own: Condition, best: Condition, choice: AttackChoice
) -> dict[str, Tensor]:
    """Draw clean latents each way; what is inverted are other pictures of the base than those shown."""
    null, shape = conditions[NULL_PROMPT], (choice.pictures, *pair.latent_shape)
    taught, shown = (
        torch.randn(shape, generator=stream_generator(choice.seed, stream)).to(pair.device)
        for stream in (DRAWING, SHOWN)
    )

    def drawn(told: Condition, noise: Tensor, by_base: int = 0) -> Tensor:
        return attack.draw(pair, null, told, noise, choice.steps, choice.cfg, by_base)

    def noised(x: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        mixed: Tensor = pair.base.sampling.noise_scaling(sigma, noise.clone(), x)
        return mixed

    levels, steps = pair.sigmas(GRID)[:-1], INVERSION * choice.search_steps
    order = stream_generator(choice.seed, DRAWING)
    examples = drawn(own, taught, choice.steps)
    inverted = attack.invert(pair, open_slots(null), examples, noised, levels, steps, order).condition
    return {
        BEFORE: drawn(own, shown, choice.steps),
        OWN: drawn(own, shown),
        SEARCHED: drawn(best, shown),
        INVERTED: drawn(inverted, shown),
        FINISHED: drawn(own, shown, -(-choice.steps // COMPLETED)),
    }


def _judged(found: Attacked, host: HostModel, vae: Any, judge: Judge, labels: list[str]) -> Attacked:
    """Decode the pictures, and count in how many of each kind the judge finds the first label."""
    pictures, rates = {}, []
    for how, latents in found.drawn.items():
        pictures[how] = vae.decode(host.patcher.model.process_latent_out(latents)).cpu().float().clamp(0, 1)
        seen = judge.judge(pictures[how][..., :3], labels).found[:, 0]
        rates.append((how, plain_rate(int(seen.sum()), len(seen))))
    return replace(found, comeback=replace(found.comeback, found=tuple(rates)), drawn=pictures)
