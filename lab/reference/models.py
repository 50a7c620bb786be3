"""Small networks of the real layouts, each once as a checkpoint and once as a diffusers UNet."""

import re
from dataclasses import dataclass
from typing import Literal

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from .published import Prompt, UNet, size_ids

PREFIX = "model.diffusion_model."
Kind = Literal["sd1", "sd2", "sdxl"]
State = dict[str, Tensor]

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
TOP = {
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}

LOUDNESS = {"attn2.to_out": 8.0, "conv_in.": 0.2, "conv_out.": 4.0}


@dataclass(frozen=True)
class Layout:
    """The shape of a UNet: depths are transformer blocks by level, going up from the deepest one."""

    channels: tuple[int, ...]
    blocks: int
    down: tuple[int, ...]
    middle: int
    up: tuple[int, ...]
    context: int
    linear: bool = False
    vector: int | None = None

    @property
    def heads(self) -> int | tuple[int, ...]:
        """Eight heads a layer on SD1, 64 channels a head on all others."""
        return tuple(width // 64 for width in self.channels) if self.linear else 8


LAYOUTS: dict[Kind, Layout] = {
    "sd1": Layout((320, 320), 1, (0, 1), 1, (1, 0), 768),
    "sd2": Layout((320,), 1, (1,), 1, (1,), 1024, linear=True),
    "sdxl": Layout((320, 320, 320), 1, (0, 2, 5), 0, (1, 1, 0), 2048, linear=True, vector=2816),
}


@dataclass(frozen=True)
class Pair:
    """One network twice: a checkpoint for the host's loaders and the equal diffusers UNet."""

    state: State
    unet: UNet
    layout: Layout


def build_unet(layout: Layout, device: str = "cpu") -> UNet:
    """Return a freshly initialised diffusers UNet of a layout; a middle without attention is not made."""
    if layout.middle and layout.down[-1] not in (0, layout.middle):
        raise ValueError("diffusers gives the middle the depth of the deepest level")
    depths = [depth or 1 for depth in layout.down]
    depths[-1] = layout.middle or depths[-1]
    sizes = (
        {}
        if layout.vector is None
        else {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": layout.vector,
        }
    )
    with torch.device(device):
        unet: UNet = UNet2DConditionModel(
            block_out_channels=layout.channels,
            layers_per_block=layout.blocks,
            down_block_types=tuple("CrossAttnDownBlock2D" if d else "DownBlock2D" for d in layout.down),
            mid_block_type="UNetMidBlock2DCrossAttn" if layout.middle else None,
            up_block_types=tuple("CrossAttnUpBlock2D" if d else "UpBlock2D" for d in layout.up),
            transformer_layers_per_block=depths,
            reverse_transformer_layers_per_block=[depth or 1 for depth in layout.up],
            cross_attention_dim=layout.context,
            attention_head_dim=layout.heads,
            use_linear_projection=layout.linear,
            **sizes,
        )
    return unet.eval()


def key_map(unet: UNet) -> dict[str, str]:
    """Return the checkpoint's name, without its prefix, for each diffusers parameter name."""
    return {name: host_name(unet, name) for name, _ in unet.named_parameters()}


def host_name(unet: UNet, name: str) -> str:
    """Translate one parameter name from diffusers to CompVis."""
    module, part = name.rsplit(".", 1)
    if module in TOP:
        return f"{TOP[module]}.{part}"
    if module.startswith("mid_block."):
        _, sort, number, tail = module.split(".", 3)
        place = 2 * int(number) + (sort == "attentions")
        return f"middle_block.{place}.{RESNET.get(tail, tail)}.{part}"
    way, level, sort, number, tail = module.split(".", 4)
    return f"{level_name(unet, way, int(level), sort, int(number), tail)}.{part}"


def level_name(unet: UNet, way: str, i: int, sort: str, j: int, tail: str) -> str:
    """Translate a module inside level i of either path; a level ends with its change of resolution."""
    blocks = unet.config.layers_per_block
    first = (blocks + 1) * i
    if sort == "downsamplers":
        return f"input_blocks.{first + blocks + 1}.0.op"
    if sort == "upsamplers":
        place = 2 if hasattr(unet.up_blocks[i], "attentions") else 1
        return f"output_blocks.{first + blocks}.{place}.conv"
    block = f"input_blocks.{first + j + 1}" if way == "down_blocks" else f"output_blocks.{first + j}"
    return f"{block}.0.{RESNET[tail]}" if sort == "resnets" else f"{block}.1.{tail}"


def to_checkpoint(unet: UNet) -> State:
    """Return a UNet's weights under the names that the host's loaders expect, as copies."""
    names = key_map(unet)
    return {PREFIX + names[name]: value.detach().clone() for name, value in unet.named_parameters()}


def depth_at(state: State, block: str) -> int:
    """Count the transformer blocks that follow the residual block of one numbered block."""
    found = (re.match(rf"{re.escape(block)}\.1\.transformer_blocks\.(\d+)\.", key) for key in state)
    return 1 + max((int(match[1]) for match in found if match), default=-1)


def read_layout(state: State) -> Layout:
    """Work out a layout from bare CompVis weights with equally many residual blocks on each level."""
    ends = [k for k in range(1, 100) if f"input_blocks.{k}.0.op.weight" in state]
    last = max(int(key.split(".")[1]) for key in state if key.startswith("input_blocks."))
    blocks = (ends[0] if ends else last + 1) - 1
    starts = [1 + level * (blocks + 1) for level in range(len(ends) + 1)]
    first = next(key for key in state if key.endswith("attn2.to_k.weight"))
    vector = state.get("label_emb.0.0.weight")
    return Layout(
        channels=tuple(len(state[f"input_blocks.{k}.0.out_layers.3.weight"]) for k in starts),
        blocks=blocks,
        down=tuple(depth_at(state, f"input_blocks.{k}") for k in starts),
        middle=depth_at(state, "middle_block"),
        up=tuple(depth_at(state, f"output_blocks.{k - 1}") for k in starts),
        context=state[first].shape[1],
        vector=None if vector is None else vector.shape[1],
        linear=state[f"{first.split('.transformer_blocks')[0]}.proj_in.weight"].ndim == 2,
    )


def diffusers_unet_from_checkpoint(state_dict: State) -> UNet:
    """Return the diffusers UNet, in fp32, of a checkpoint of the SD1, SD2 or SDXL layout."""
    state = {key.removeprefix(PREFIX): value for key, value in state_dict.items() if key.startswith(PREFIX)}
    unet = build_unet(read_layout(state), device="meta")
    names = key_map(unet)
    unused = set(state) - set(names.values())
    if unused:
        raise ValueError(f"{len(unused)} weights have no place in the diffusers UNet, first {min(unused)}")
    weights = {name: state[host].to(torch.float32, copy=True).contiguous() for name, host in names.items()}
    unet.load_state_dict(weights, strict=True, assign=True)
    return unet.eval()


@torch.no_grad()
def randomise(unet: UNet, generator: torch.Generator) -> None:
    """Make every tensor matter: norms off their defaults, a text branch that is heard at every level."""
    for name, value in unet.named_parameters():
        if "norm" in name:
            value.add_(torch.randn(value.shape, generator=generator), alpha=0.1)
        else:
            value.mul_(next((scale for part, scale in LOUDNESS.items() if part in name), 1.0))


def small_pair(kind: Kind, seed: int = 0) -> Pair:
    """Return a random network of a layout that the host's loaders recognise, in both forms."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = build_unet(LAYOUTS[kind])
    randomise(unet, torch.Generator().manual_seed(seed))
    return Pair(to_checkpoint(unet), unet, LAYOUTS[kind])


def random_prompts(kind: Kind, count: int = 3, seed: int = 0, height: int = 64, width: int = 64) -> list[Prompt]:
    """Return made-up text embeddings of the right widths, all for the same picture size in pixels."""
    generator = torch.Generator().manual_seed(seed)
    prompts = []
    for _ in range(count):
        hidden = torch.randn(1, 77, LAYOUTS[kind].context, generator=generator)
        pooled = torch.randn(1, 1280, generator=generator)
        prompts.append(Prompt(hidden, pooled, size_ids(height, width)) if kind == "sdxl" else Prompt(hidden))
    return prompts
