"""Ways to make a model stop drawing something, as parts of a prompt for the server (standard library only)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .graph import new_node

Json = dict[str, Any]
Link = list[Any]

SEED = 20230313
"""Of every training."""

PUBLISHED = "official-2026"
"""The preset of the published procedure."""


@dataclass
class Studio:
    """A prompt under construction: the base is loaded, and what else is needed comes to it."""

    info: Json
    base: str
    concept: str
    keep: tuple[str, ...]
    size: Json
    erased_file: str = ""
    steps: int = 0
    prompt: Json = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Load the base."""
        self.model = self.add("load", "ESDLoadModel", ckpt_name=self.base)
        self.clip, self.vae = ["load", 1], ["load", 2]

    def add(self, name: str, kind: str, **inputs: Any) -> Link:
        """Add a node; returns its first output."""
        self.prompt[name] = new_node(self.info, kind, **inputs)
        return [name, 0]

    def concepts(self) -> Link:
        """Return the concept."""
        return self.add("concept", "ESDConcept", concept=self.concept)


@dataclass(frozen=True)
class Made:
    """A MODEL, and the negative prompt that its pictures are drawn with."""

    model: Link
    negative: str = ""
    weights: Link | None = None


def _untouched(studio: Studio) -> Made:
    return Made(studio.model)


def _erased(studio: Studio) -> Made:
    """Take the user's file, or train with the defaults."""
    if studio.erased_file:
        made = studio.add("erased", "ESDLoadErasure", model=studio.model, file=studio.erased_file)
        return Made(made, weights=["erased", 1])
    return _trained(studio, {})


def _published(studio: Studio) -> Made:
    return _trained(studio, {"preset": PUBLISHED})


def _trained(studio: Studio, settings: Json) -> Made:
    if studio.steps:
        settings = {"preset": "custom"}
    chosen = studio.add("settings", "ESDEraseSettings", **studio.size, **settings)
    short = {"steps": studio.steps} if studio.steps else {}
    links = {"model": studio.model, "clip": studio.clip, "concepts": studio.concepts(), "settings": chosen}
    made = studio.add("erase", "ESDErase", seed=SEED, preview_every=0, **links, **short)
    return Made(made, weights=["erase", 1])


def _safe_latent_diffusion(strength: str) -> Callable[[Studio], Made]:
    def build(studio: Studio) -> Made:
        words = {"concept": studio.concept, "strength": strength}
        return Made(studio.add("sld", "ESDSafeLatentDiffusion", model=studio.model, clip=studio.clip, **words))

    return build


def _negative(studio: Studio) -> Made:
    return Made(studio.model, studio.concept)


def _perp_neg(studio: Studio) -> Made:
    empty = studio.add("empty", "CLIPTextEncode", clip=studio.clip, text="")
    made = studio.add("perp", "PerpNeg", model=studio.model, empty_conditioning=empty)
    return Made(made, studio.concept)


def _unified_concept_editing(studio: Studio) -> Made:
    keeps = {"keep": studio.add("keep", "ESDKeep", prompts="\n".join(studio.keep))} if studio.keep else {}
    links = {"model": studio.model, "clip": studio.clip, "concepts": studio.concepts(), **keeps}
    return Made(studio.add("uce", "ESDUnifiedConceptEditing", **links), weights=["uce", 1])


ESD = "ESD"
ARMS: Mapping[str, Callable[[Studio], Made]] = {
    "nothing": _untouched,
    ESD: _erased,
    "ESD as published": _published,
    "SLD weak": _safe_latent_diffusion("weak"),
    "SLD medium": _safe_latent_diffusion("medium"),
    "SLD strong": _safe_latent_diffusion("strong"),
    "SLD max": _safe_latent_diffusion("max"),
    "negative prompt": _negative,
    "Perp-Neg": _perp_neg,
    "UCE": _unified_concept_editing,
}
"""By the name in the table; "nothing" is the base beside itself."""


def judge(studio: Studio, words: str) -> Link:
    """Add a judge: playground, base, prototypes:FILE, clip:VISION,TEXT or file:NAME[,CUT]."""
    kind, _, rest = words.partition(":")
    first, _, second = rest.partition(",")
    if kind == "base":
        links = {"base_model": studio.model, "clip": studio.clip, "vae": studio.vae}
        return studio.add("judge", "ESDJudgeBaseModel", **links)
    if kind == "file":
        return studio.add("judge", "ESDJudgeFile", file=first, **({"cut": float(second)} if second else {}))
    if kind in ("prototypes", "clip"):
        vision = studio.add("vision", "CLIPVisionLoader", clip_name=first)
        if kind == "prototypes":
            return studio.add("judge", "ESDJudgePrototypes", clip_vision=vision)
        text = studio.add("text", "CLIPLoader", clip_name=second)
        return studio.add("judge", "ESDJudgeCLIP", clip_vision=vision, clip=text)
    return studio.add("judge", "ESDJudgePlayground")
