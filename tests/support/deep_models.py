"""Tiny networks of more blocks than two, as MODELs of the host on its own device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from commands.shapes import FLUX_BLOCKS, Shape
from support.dit_models import DITS, OTHERS, build, randomise
from support.family_models import ROWS, RandomText


@dataclass(frozen=True)
class Deep:
    """A family's tiny network with more blocks; float8 weights where `stored` says so."""

    name: str
    config: Mapping[str, Any]
    stored: torch.dtype = torch.float32

    @property
    def text(self) -> RandomText:
        """Its text encoder."""
        return (DITS | OTHERS)[self.name].text

    def __call__(self) -> Any:
        """Make the MODEL outside inference mode, equal weights every time; the host computes with it on its device."""
        import comfy.model_management
        import comfy.model_patcher

        dit = (DITS | OTHERS)[self.name]
        base = build(dit.kind, {**dit.config, **self.config})
        randomise(base.diffusion_model)
        if self.stored is not torch.float32:
            state = {name: t.to(self.stored) for name, t in base.diffusion_model.state_dict().items()}
            config = type(base.model_config)(dict(base.model_config.unet_config))
            config.set_inference_dtype(self.stored, torch.float32)
            base = config.get_model({}, "")
            base.load_model_weights(state, "")
        device = comfy.model_management.get_torch_device()
        return comfy.model_patcher.ModelPatcher(base.eval(), load_device=device, offload_device=torch.device("cpu"))


class DeepUnet:
    """SDXL's layout, as the stock loader takes it."""

    text = ROWS["koala"].text

    def __call__(self) -> Any:
        """Make the MODEL."""
        import comfy.sd

        return comfy.sd.load_diffusion_model_state_dict({name: t.clone() for name, t in ROWS["koala"].state().items()})


TINY_SHAPE = Shape("Flux", DITS["dev"].config, 32, 64, 32, 64, "paper-2023", FLUX_BLOCKS)
"""FLUX.1's layout, as what is measured on a user's device is described."""

DEEP = {
    "wan": Deep("wan", {"num_layers": 8}),
    "wan fp8": Deep("wan", {"num_layers": 8}, torch.float8_e4m3fn),
    "dev": Deep("dev", {"depth": 4, "depth_single_blocks": 6}),
    "zimage": Deep("zimage", {"n_layers": 6}),
    "koala": DeepUnet(),
}
