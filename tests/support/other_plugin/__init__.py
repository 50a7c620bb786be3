"""Another author's node pack, as tests load it into the host: one node that changes a MODEL in every way there is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

ATTENTION = "diffusion_model.output_blocks.0.1.transformer_blocks.0.attn2"
KEYS = f"{ATTENTION}.to_k.weight"
OUTSIDE = "diffusion_model.out.2.weight"
Way = Callable[[Any], None]


def attention_patch(model: Any) -> None:
    """As IP-Adapters do."""
    model.set_model_attn2_patch(lambda q, k, v, extra: (q * 1.2, k, v))


def attention_output(model: Any) -> None:
    """As attention couples do."""
    model.set_model_attn2_output_patch(lambda out, extra: out * 1.2)


def attention_replaced(model: Any) -> None:
    """As perturbed-attention guidance does."""
    for block in ("input", "output"):
        for number in range(12):
            model.set_model_attn1_replace(lambda q, k, v, extra: v, block, number)


def block_patch(model: Any) -> None:
    """As FreeU does."""
    model.set_model_output_block_patch(lambda h, skip, options: (h * 1.1, skip))


def function_wrapper(model: Any) -> None:
    """As caches of whole network calls do."""
    model.set_model_unet_function_wrapper(lambda call, a: call(a["input"], a["timestep"], **a["c"]) * 0.9)


def guidance(model: Any) -> None:
    """As rescaled guidance does."""
    model.set_model_sampler_cfg_function(lambda a: a["uncond"] + 0.5 * (a["cond"] - a["uncond"]))


def after_guidance(model: Any) -> None:
    """As thresholding does."""
    model.set_model_sampler_post_cfg_function(lambda a: a["denoised"] * 0.9)


def network_wrapper(model: Any) -> None:
    """As caches of the network's steps do."""
    model.add_wrapper_with_key("diffusion_model", "other", lambda call, *a, **k: call(*a, **k) * 0.9)


def sampler_wrapper(model: Any) -> None:
    """As context windows do."""
    model.add_wrapper_with_key("outer_sample", "other", lambda call, *a, **k: call(*a, **k) * 0.9)


def method_object(model: Any) -> None:
    """A method of a layer in another's place."""
    layer = model.model.diffusion_model.time_embed
    model.add_object_patch("diffusion_model.time_embed.forward", lambda x: type(layer).forward(layer, x) * 1.1)


def untrained_layer(model: Any) -> None:
    """A whole layer in the place of one that is not trained."""
    _around(model, "diffusion_model.time_embed")


def weight_wrapper(model: Any) -> None:
    """A function over a weight at each call."""
    model.add_weight_wrapper(KEYS, lambda weight: weight * 1.2)


def injection(model: Any) -> None:
    """A layer that is there only while the MODEL is loaded, as motion modules are."""
    from comfy.model_patcher import PatcherInjection

    network = model.model.diffusion_model

    def inject(patcher: Any) -> None:
        network.time_embed = Around(network.time_embed)

    def eject(patcher: Any) -> None:
        network.time_embed = network.time_embed.inner

    model.set_injections("other", [PatcherInjection(inject, eject)])


def sampling_object(model: Any) -> None:
    """As ModelSamplingDiscrete does."""
    import comfy.model_sampling

    class Stretched(comfy.model_sampling.ModelSamplingDiscrete, comfy.model_sampling.EPS):
        """Its levels a tenth higher."""

    stretched = Stretched(model.model.model_config)
    stretched.set_sigmas(model.get_model_object("model_sampling").sigmas.clone() * 1.1)
    model.add_object_patch("model_sampling", stretched)


def trained_weight(model: Any) -> None:
    """As a LoRA with full differences on what is trained too."""
    _difference(model, KEYS)


def other_weight(model: Any) -> None:
    """The same on a weight that is not trained."""
    _difference(model, OUTSIDE)


def low_rank(model: Any) -> None:
    """As an ordinary LoRA."""
    from comfy.weight_adapter import LoRAAdapter

    out, into = model.model.state_dict()[KEYS].shape
    random = torch.Generator().manual_seed(0)
    up, down = (torch.randn(shape, generator=random) * 0.05 for shape in ((out, 2), (2, into)))
    model.add_patches({KEYS: LoRAAdapter({"up", "down"}, (up, down, 2.0, None, None, None))}, 1.0)


def weight_set(model: Any) -> None:
    """A weight replaced, whatever it was."""
    model.add_patches({OUTSIDE: ("set", (model.model.state_dict()[OUTSIDE].float() * 1.2,))}, 1.0)


def trained_layer(model: Any) -> None:
    """A whole layer in the place of one that is trained, its weight under another name."""
    _around(model, f"{ATTENTION}.to_k")


def whole_network(model: Any) -> None:
    """As compilers did."""
    _around(model, "diffusion_model")


def network_in_place(model: Any) -> None:
    """The same without asking the host."""
    model.model.diffusion_model = Around(model.model.diffusion_model)


def layer_in_place(model: Any) -> None:
    """A trained layer wrapped without asking the host."""
    _attention(model).to_k = Around(_attention(model).to_k)


def layer_added_in_place(model: Any) -> None:
    """A further layer without asking the host."""
    model.model.diffusion_model.adapter = torch.nn.Linear(4, 4)


def forward_in_place(model: Any) -> None:
    """The network's call replaced without asking the host."""
    network = model.model.diffusion_model
    forward = network.forward
    network.forward = lambda *a, **k: forward(*a, **k) * 0.9


def hook_in_place(model: Any) -> None:
    """A forward hook without asking the host."""
    model.model.diffusion_model.register_forward_hook(lambda module, given, result: result * 0.9)


BESIDE: tuple[Way, ...] = (
    attention_patch,
    attention_output,
    attention_replaced,
    block_patch,
    function_wrapper,
    guidance,
    after_guidance,
    network_wrapper,
    sampler_wrapper,
    method_object,
    untrained_layer,
    weight_wrapper,
    injection,
)
"""Ways that act when the MODEL is sampled and have no part in what its own weights predict."""

WITHIN: tuple[Way, ...] = (sampling_object, trained_weight, other_weight, low_rank, weight_set)
"""Ways that belong to the MODEL's own predictions."""

HIDING: tuple[Way, ...] = (trained_layer, whole_network)
"""Ways after which weights that are trained have no effect."""

IN_PLACE: tuple[Way, ...] = (network_in_place, layer_in_place, layer_added_in_place, forward_in_place, hook_in_place)
"""Ways that change the network that all MODELs of a checkpoint share."""

WAYS = {way.__name__: way for way in (*BESIDE, *WITHIN, *HIDING, *IN_PLACE)}


class Around(torch.nn.Module):
    """A layer around another."""

    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.dtype = getattr(inner, "dtype", None)

    def forward(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """A little more than the inner one."""
        result: torch.Tensor = self.inner(*args, **kwargs)
        return result * 1.1


def _around(model: Any, place: str) -> None:
    model.add_object_patch(place, Around(model.get_model_object(place)))


def _attention(model: Any) -> torch.nn.Module:
    found: torch.nn.Module = model.model.get_submodule(ATTENTION)
    return found


def _difference(model: Any, key: str) -> None:
    weight = model.model.state_dict()[key]
    random = torch.Generator().manual_seed(0)
    model.add_patches({key: ("diff", (torch.randn(weight.shape, generator=random) * 0.05,))}, 1.0)


class OtherPatch:
    """The node."""

    RETURN_TYPES, FUNCTION, CATEGORY = ("MODEL",), "patch", "other"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """A MODEL and a way."""
        return {"required": {"model": ("MODEL",), "way": (list(WAYS),)}}

    def patch(self, model: Any, way: str) -> tuple[Any]:
        """A clone that is changed in that way."""
        changed = model.clone()
        WAYS[way](changed)
        return (changed,)


NODE_CLASS_MAPPINGS = {"OtherPatch": OtherPatch}
