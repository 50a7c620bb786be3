"""Files of a small network in every published form."""

from __future__ import annotations

import json

import torch
from safetensors.torch import save_file

from esd_pack.esd.erasure import PREFIX
from esd_pack.esd.formats.load import Base, load_erasure
from esd_pack.esd.formats.network import Network

BLOCK = "input_blocks.1.1.transformer_blocks.0.attn2"


THERE = "down_blocks.0.attentions.0.transformer_blocks.0.attn2"


SHAPES = {
    "input_blocks.0.0.weight": (8, 4, 3, 3),
    "input_blocks.0.0.bias": (8,),
    "input_blocks.1.1.proj_in.weight": (8, 8, 1, 1),
    f"{BLOCK}.to_q.weight": (8, 8),
    f"{BLOCK}.to_k.weight": (8, 768),
    f"{BLOCK}.to_out.0.weight": (8, 8),
    f"{BLOCK}.to_out.0.bias": (8,),
    "out.0.weight": (8,),
}


DIFFUSERS = {
    "conv_in.weight": "input_blocks.0.0.weight",
    "conv_in.bias": "input_blocks.0.0.bias",
    "down_blocks.0.attentions.0.proj_in.weight": "input_blocks.1.1.proj_in.weight",
    **{n.replace(BLOCK, THERE): n for n in SHAPES if n.startswith(BLOCK)},
    "conv_norm_out.weight": "out.0.weight",
}


TRAINED = [name for name in SHAPES if ".attn2." in name]


HOST = {host: name for name, host in DIFFUSERS.items()}


def values(seed):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}


BASE = values(0)


CHANGE = {name: 0.05 * values(1)[name] for name in TRAINED}


ERASED = {name: value + CHANGE[name] if name in CHANGE else value for name, value in BASE.items()}


def network(weights=BASE, family="SD1.x", diffusers=DIFFUSERS):
    return Network(family, {n: tuple(t.shape) for n, t in weights.items()}, weights.__getitem__, diffusers)


def read(path, weights=BASE, **more):
    interpret = more.pop("interpret", "auto")
    return load_erasure(path, Base(network(weights), **more), interpret)


def after(found, weights=BASE):
    """The weights that a loaded file ends with."""
    changes = {name.removeprefix(PREFIX): t for name, t in found.weights.differences.items()}
    return {name: t + changes.get(name, 0) for name, t in weights.items()}


def close(a, b, tolerance=1e-6):
    return a.keys() == b.keys() and all(torch.allclose(a[n], b[n], rtol=0, atol=tolerance) for n in a)


def torch_file(tmp_path, tree, name="w.pt"):
    torch.save(tree, tmp_path / name)
    return tmp_path / name


def tensors_file(tmp_path, tensors, metadata=None, name="w.safetensors"):
    save_file({k: t.contiguous() for k, t in tensors.items()}, tmp_path / name, metadata)
    return tmp_path / name


def nested(prefix, whole_attention=False):
    """`{module: {parameter: tensor}}` of the trained weights, by single layers or by whole attention modules."""
    tree = {}
    for host in TRAINED:
        module, _, leaf = (prefix + HOST[host]).rpartition(".")
        if whole_attention:
            module, leaf = prefix + THERE, (prefix + HOST[host]).removeprefix(f"{prefix}{THERE}.")
        tree.setdefault(module, {})[leaf] = ERASED[host]
    return tree


V2 = {
    "format": "erasing-esd-v2",
    "family": "sd",
    "component": "unet",
    "base_model_id": "CompVis/stable-diffusion-v1-4",
    "train_method": "esd-x",
    "erase_concept": "cat",
    "erase_from": "",
    "negative_guidance": "2",
    "batch_size": "1",
}


LATENT_DIFFUSION = {
    "betas": torch.ones(3),
    "first_stage_model.decoder.conv_in.weight": torch.ones(2),
    "logvar": torch.ones(3),
}


COMPVIS = {**LATENT_DIFFUSION, **{f"model.diffusion_model.{n}": t for n, t in ERASED.items()}}


def flat(names=TRAINED, dtype=torch.float32, prefix=""):
    return {prefix + HOST[n]: ERASED[n].to(dtype) for n in names}


PUBLISHED = {
    "full UNet of the project site": (lambda p: torch_file(p, flat(SHAPES)), "full diffusers UNet"),
    "nested with unet.": (lambda p: torch_file(p, nested("unet.")), "nested diffusers weights"),
    "nested without": (lambda p: torch_file(p, nested("")), "nested diffusers weights"),
    "nested whole attention": (lambda p: torch_file(p, nested("unet.", True)), "nested diffusers weights"),
    "CompVis bare": (lambda p: torch_file(p, COMPVIS), "CompVis checkpoint"),
    "CompVis wrapped": (lambda p: torch_file(p, {"epoch": 3, "state_dict": COMPVIS}), "CompVis checkpoint"),
    "CompVis safetensors": (lambda p: tensors_file(p, COMPVIS), "CompVis checkpoint"),
    "official flat": (lambda p: tensors_file(p, flat()), "diffusers weights"),
    "official 2026": (lambda p: tensors_file(p, flat(), V2), "official weights of 2026"),
    "UCE": (lambda p: tensors_file(p, flat([n for n in TRAINED if "to_k" in n])), "diffusers weights"),
}


LECO = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"


OURS = {
    "esd.concepts": json.dumps(
        [{"erase": "cat", "erase_from": "", "replace_with": "dog", "weight": 2.0}, {"erase": "fog"}]
    ),
    "esd.keeps": json.dumps([{"prompts": ["dog", "cow"], "weight": 1.0}]),
    "esd.settings": json.dumps(
        {"num_inference_steps": 50, "guidance_scale": 3.0, "batch_size": 1, "width": 512, "height": 512}
    ),
    "esd.method": "esd-x",
    "esd.eta": "1.0",
    "esd.base_file": "base.ckpt",
    "esd.seed": "7",
}
