"""Draws shots from one MODEL, those alone that were not drawn before."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor

from ....esd.evaluate.judge import Draw
from ....esd.evaluate.kept_rows import Keeper
from ....esd.evaluate.prompt_set import ERASED, PromptRow
from ..model.fingerprint import digest_of, digest_of_model, digest_of_vae
from ..progress import Progress
from .sampling import BATCH, SEEDS, Sample, SamplerChoice, draw_batch, encode_prompts
from .shots import Shot, runs

DETERMINISTIC = frozenset(
    ("euler", "heun", "heunpp2", "dpm_2", "lms", "dpmpp_2m", "ddim", "uni_pc", "uni_pc_bh2", "ipndm", "ipndm_v", "deis")
)
"""Samplers whose steps draw no noise and look at each picture alone: the others draw one picture at a time."""

REMEMBERED = 256
"""Encoded prompts that are held: of the large text encoders each takes a megabyte."""

FAR_SEED = 2**62
"""How far the seeds of pictures that teach a judge lie from those that are judged."""


class Studio:
    """A MODEL with its text encoder and VAE, the pictures that it drew, and how long new ones took."""

    def __init__(self, model: Any, clip: Any, vae: Any, keeper: Keeper, progress: Progress) -> None:
        """Find out by what this MODEL's pictures are known; an empty identity keeps none."""
        self.model, self.clip, self.vae, self.keeper, self.progress = model, clip, vae, keeper, progress
        known = digest_of_model(model)
        self.identity = f"{known} {digest_of_vae(vae)}" if known else ""
        self.encoded: dict[str, Any] = {}
        self.seconds, self.drawn = 0.0, 0

    def keys(self, shots: Sequence[Shot]) -> list[str]:
        """Return the name of each picture: a digest of all that it depends on, but its company."""
        return [self._key(shot) for shot in shots] if self.identity else [""] * len(shots)

    def _key(self, shot: Shot) -> str:
        told = [self._encoded(words) for words in (shot.row.prompt, shot.row.negative)]
        choice = {name: value for name, value in asdict(shot.choice).items() if name != "seed"}
        return digest_of(self.identity, told, choice, shot.seed)

    def _encoded(self, prompt: str) -> Any:
        if prompt not in self.encoded:
            if len(self.encoded) >= REMEMBERED:
                self.encoded.clear()
            self.encoded |= encode_prompts(self.clip, [prompt])
        return self.encoded[prompt]

    def pictures(self, shots: Sequence[Shot]) -> list[Tensor]:
        """Return shots that are drawn alike as pictures "h w 3" in bytes; each is kept as soon as it is there."""
        if not shots:
            return []
        keys = self.keys(shots)
        found = [self.keeper.picture(key) if key else None for key in keys]
        wanted = [place for place, picture in enumerate(found) if picture is None]
        self.progress.advance(shots[0].choice.steps * (len(shots) - len(wanted)))
        most = BATCH if shots[0].choice.sampler_name in DETERMINISTIC else 1
        missing = [shots[place] for place in wanted]
        places = iter(wanted)
        for batch in runs(missing, lambda shot: self._encoded(shot.row.prompt)[0][0].shape[1], most):
            for picture in self._draw(batch):
                place = next(places)
                found[place] = picture
                if keys[place]:
                    self.keeper.keep_picture(keys[place], picture)
        return [picture for picture in found if picture is not None]

    def _draw(self, batch: Sequence[Shot]) -> Tensor:
        choice, negative = batch[0].drawing
        conditions = {words: self._encoded(words) for words in (negative, *(shot.row.prompt for shot in batch))}
        samples = [Sample(shot.row.prompt, shot.seed) for shot in batch]
        own = min(samples[0].seed, SEEDS - 2)  # what a sampler's own noise starts from; the host counts one on
        seeded = replace(choice, seed=own)
        start = time.perf_counter()
        pictures = draw_batch(self.model, self.vae, conditions, samples, seeded, self.progress, negative)
        made = (pictures[..., :3].detach().cpu().float().nan_to_num(0).clamp(0, 1) * 255).round().to(torch.uint8)
        self.seconds, self.drawn = self.seconds + time.perf_counter() - start, self.drawn + len(batch)
        return made

    def teacher(self, choice: SamplerChoice) -> Draw:
        """Return what draws pictures to teach a judge, with the sampling of the rows."""

        def draw(prompts: Sequence[str], each: int) -> Tensor:
            rows = [PromptRow("", prompt, ERASED, prompt) for prompt in prompts for _ in range(each)]
            shots = [Shot(row, (choice.seed + FAR_SEED + i) % SEEDS, choice) for i, row in enumerate(rows)]
            self.progress.expect(len(shots) * choice.steps)
            return batch_of(self.pictures(shots))

        return draw


def batch_of(pictures: Sequence[Tensor]) -> Tensor:
    """Return pictures "h w 3" in bytes, all of one size, as a batch "b h w 3" in 0 ... 1."""
    return torch.stack(list(pictures)).float() / 255.0
