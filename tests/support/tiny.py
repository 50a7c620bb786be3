"""A MODEL of the host's own SD1.x classes with a network of a hundredth of the size, built and not loaded.

For everything that compares bits, messages, files or states; what is judged by its pictures uses the playground.
"""

from __future__ import annotations

from typing import Any

import torch

from support.family_models import randomised

CONFIG = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 32,
    "channel_mult": [1],
    "num_res_blocks": [1],
    "transformer_depth": [1],
    "transformer_depth_middle": 1,
    "transformer_depth_output": [1, 1],
    "context_dim": 768,
    "num_heads": 2,
    "num_head_channels": -1,
    "adm_in_channels": None,
    "use_spatial_transformer": True,
    "use_linear_in_transformer": False,
    "use_temporal_attention": False,
    "legacy": False,
}


def tiny_model(dtype: torch.dtype = torch.float32) -> Any:
    """Make the MODEL on the CPU; equal weights every time."""
    import comfy.model_patcher
    import comfy.supported_models

    config = comfy.supported_models.SD15(dict(CONFIG))
    config.set_inference_dtype(dtype, None)
    cpu = torch.device("cpu")
    base = config.get_model({}, "", device=cpu)
    base.diffusion_model.load_state_dict(randomised(base.diffusion_model))
    return comfy.model_patcher.ModelPatcher(base.eval(), load_device=cpu, offload_device=cpu)


def broken(model: Any) -> Any:
    """The MODEL with a weight that is not a number, so that a run fails at its first loss."""
    name = "diffusion_model.input_blocks.0.0.bias"
    made = model.clone()
    made.add_patches({name: ("diff", (torch.full_like(model.model.state_dict()[name], torch.nan),))}, 1.0)
    return made
