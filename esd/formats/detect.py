"""Which of the published forms a file has, told from what is in it, and its tensors by host name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import prod

import torch
from torch import Tensor

from ..erasure import PREFIX
from ..errors import EsdError
from ..files.lazy_tensor import LazyTensor, TensorFile
from ..metadata import as_dict
from .network import TEXT_WIDTHS, Network, module_paths
from .official import FAMILIES

OTHER_PARTS = ("first_stage_model.", "cond_stage_model.", "conditioner.", "model_ema.")
"""Parts of a full checkpoint that no erasure touches: VAE, text encoders, running average."""

SCHEDULE = frozenset(
    "betas alphas_cumprod alphas_cumprod_prev sqrt_alphas_cumprod sqrt_one_minus_alphas_cumprod logvar v_pred ztsnr "
    "log_one_minus_alphas_cumprod sqrt_recip_alphas_cumprod sqrt_recipm1_alphas_cumprod posterior_variance "
    "posterior_log_variance_clipped posterior_mean_coef1 posterior_mean_coef2 lvlb_weights denoiser.sigmas".split()
)
"""Numbers of the noise schedule that full checkpoints carry along."""


@dataclass(frozen=True)
class DetectedFile:
    """A file understood: its form, tensors by host name (values, or `changes` to them), and how many were ignored."""

    form: str
    tensors: Mapping[str, LazyTensor]
    changes: bool
    ignored: int = 0
    products: Mapping[str, tuple[LazyTensor, LazyTensor]] = field(default_factory=dict)
    """up and down of low-rank changes by weight, where the file holds what was trained as such."""


@dataclass(frozen=True)
class FileFormat:
    """A row of the table: the form's name for the user, how it is told, and how its names are understood."""

    name: str
    matches: Callable[[TensorFile], bool]
    understand: Callable[[TensorFile, Network], tuple[dict[str, LazyTensor], int]]
    changes: bool = False


def detect(file: TensorFile, network: Network) -> DetectedFile:
    """Return the content of a file for a network; raise EsdError where it is unknown, foreign, or misshapen."""
    form = next((f for f in FILE_FORMATS if f.matches(file)), None)
    if form is None:
        raise EsdError(
            "The file holds no weights of a UNet: choose an erasure, a LoRA or a checkpoint of SD1.x, SD2.x or SDXL."
        )
    _require_family(file, network)
    tensors, ignored = form.understand(file, network)
    for name, stored in tensors.items():
        if not fits(stored.shape, network.shape(name)):
            raise EsdError(
                f"The file was made for another kind of model ({name} is {stored.shape} in it and "
                f"{network.shape(name)} in this MODEL): load the model it was made from."
            )
    products = _trained_products(file, tensors, network) if form.changes else {}
    return DetectedFile(form.name, tensors, form.changes, ignored, products)


def _trained_products(
    file: TensorFile, tensors: Mapping[str, LazyTensor], network: Network
) -> dict[str, tuple[LazyTensor, LazyTensor]]:
    """Return the matrices of a file that we wrote of a low-rank student, whose alpha is the rank; else nothing."""
    if not as_dict(file.metadata.get("esd.settings")).get("rank"):
        return {}
    found = {}
    for name in tensors:
        path = f"{PREFIX}{name.removesuffix('.weight')}"
        up, down = (file.tensors.get(f"{path}.lora_{part}.weight") for part in ("up", "down"))
        alpha = file.tensors.get(f"{path}.alpha")
        if up is not None and down is not None and alpha is not None and alpha.load().item() == down.shape[0]:
            found[name] = (up, down)
    return found


def fits(shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    """Whether a tensor fits, a 1 x 1 convolution being as good as a linear layer."""
    return shape == wanted or (len(shape) != len(wanted) and _squeezed(shape) == _squeezed(wanted))


def _squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    while len(shape) > 2 and shape[-1] == 1:
        shape = shape[:-1]
    return shape


FLUX1 = ["FLUX.1 dev", "FLUX.1 schnell"]
FAMILY_SHARES = dict.fromkeys(FLUX1, FLUX1)
"""Families of one layout, whose erasures go from one to the other."""


def _require_family(file: TensorFile, network: Network) -> None:
    called = {official: [own for own, o in FAMILIES.items() if o == official] for official in FAMILIES.values()}
    said = file.metadata.get("esd.family") or file.metadata.get("family", "")
    families = tuple(called.get(said, FAMILY_SHARES.get(said, [said] if said else [])))
    widths = (
        s.shape[1] for name, s in file.tensors.items() if "attn2" in name and "to_k" in name and len(s.shape) == 2
    )
    width = next((w for w in widths if w in TEXT_WIDTHS), None)
    families = families or ((TEXT_WIDTHS[width],) if width else ())
    if families and network.family not in families:
        raise EsdError(
            f"The file is for {' or '.join(families)} and this MODEL is {network.family}: load a model of that family."
        )


def _absolute(file: TensorFile, network: Network) -> tuple[dict[str, LazyTensor], int]:
    found = {name: network.host_name(name) for name in file.tensors}
    unmatched = [name for name, host in found.items() if host is None and not _is_other_part(name)]
    _refuse(unmatched, len(file.tensors))
    tensors = {host: file.tensors[name] for name, host in found.items() if host is not None}
    if len(tensors) < sum(host is not None for host in found.values()):
        raise EsdError("The file holds a tensor twice under two names: choose a file of one set of weights.")
    return tensors, len(file.tensors) - len(tensors)


def _is_other_part(name: str) -> bool:
    return name.startswith(OTHER_PARTS) or name in SCHEDULE


def _refuse(unmatched: list[str], total: int) -> None:
    if unmatched:
        raise EsdError(
            f"{len(unmatched)} of the file's {total} tensors have no place in this MODEL, such as "
            f'"{unmatched[0]}": load the model it was made from, or use the stock Load LoRA.'
        )


LEAVES = {
    ".diff": "diff",
    ".diff_b": "diff_b",
    ".lora_up.weight": "up",
    ".lora_down.weight": "down",
    ".lora_B.weight": "up",
    ".lora_A.weight": "down",
    ".lora.up.weight": "up",
    ".lora.down.weight": "down",
    ".alpha": "alpha",
}
"""Endings of LoRA files, and what each holds."""

PART_OF = {"diff": "weight", "diff_b": "bias"}
"""Which parameter a full difference is of."""


def _changes(file: TensorFile, network: Network) -> tuple[dict[str, LazyTensor], int]:
    modules: dict[str, dict[str, LazyTensor]] = {}
    unmatched = []
    paths = module_paths(network)
    for name, stored in file.tensors.items():
        path, part = _split(name)
        if part is None or path not in paths:
            unmatched.append(name)
        elif part in modules.setdefault(paths[path], {}):
            raise EsdError(f'The file holds "{name}" a second time under another name: choose a file of one LoRA.')
        else:
            modules[paths[path]][part] = stored
    _refuse(unmatched, len(file.tensors))
    changes: dict[str, LazyTensor] = {}
    for module, parts in modules.items():
        changes |= {f"{module}.{leaf}": parts[part] for part, leaf in PART_OF.items() if part in parts}
        if "up" in parts or "down" in parts:
            changes[f"{module}.weight"] = _product(module, parts, network)
    _refuse([name for name in changes if name not in network.shapes], len(changes))
    return changes, 0


def _split(name: str) -> tuple[str, str | None]:
    ending = next((e for e in LEAVES if name.endswith(e)), None)
    return (name.removesuffix(ending), LEAVES[ending]) if ending else (name, None)


def _product(module: str, parts: Mapping[str, LazyTensor], network: Network) -> LazyTensor:
    """up times down, scaled by alpha over rank, in the shape of the weight (LoRA as kohya and PEFT write it)."""
    if not {"up", "down"} <= parts.keys():
        raise EsdError(f"The LoRA has only one of the two matrices for {module}: download it again.")
    up, down = parts["up"], parts["down"]
    wanted = network.shapes.get(f"{module}.weight", ())
    matrices = len(up.shape) > 1 and len(down.shape) > 1
    rank = down.shape[0] if matrices else 0
    shape = (up.shape[0], *down.shape[1:]) if matrices else ()
    alpha = prod(parts["alpha"].shape) if "alpha" in parts else 1
    if not rank or alpha != 1 or prod(up.shape) != shape[0] * rank or not fits(shape, wanted):
        raise EsdError(
            f"The LoRA was made for another kind of model ({module} would be {shape} and is {wanted} in this MODEL): "
            "load the model it was made from."
        )

    def load() -> Tensor:
        scale = parts["alpha"].load().item() / rank if "alpha" in parts else 1.0
        return (up.load().float().flatten(1) @ down.load().float().flatten(1) * scale).reshape(wanted)

    return LazyTensor(wanted, torch.float32, load)


def _any_leaf(*parts: str) -> Callable[[TensorFile], bool]:
    return lambda file: any(_split(name)[1] in parts for name in file.tensors)


def _any_name(*starts: str) -> Callable[[TensorFile], bool]:
    return lambda file: any(name.startswith(starts) for name in file.tensors)


DIFFUSERS_BLOCKS = ("down_blocks.", "mid_block.", "up_blocks.")
_FULL = ("conv_in.weight", "unet.conv_in.weight")

FILE_FORMATS: tuple[FileFormat, ...] = (
    FileFormat("LoRA", _any_leaf("up", "down"), _changes, changes=True),
    FileFormat("differences", _any_leaf("diff", "diff_b"), _changes, changes=True),
    FileFormat("official weights of 2026", lambda f: f.metadata.get("format") == "erasing-esd-v2", _absolute),
    FileFormat("CompVis checkpoint", _any_name("model.diffusion_model."), _absolute),
    FileFormat(
        "CompVis network", _any_name("diffusion_model.", "input_blocks.", "middle_block.", "output_blocks."), _absolute
    ),
    FileFormat("nested diffusers weights", lambda f: f.nested, _absolute),
    FileFormat("full diffusers UNet", lambda f: any(n in f.tensors for n in _FULL), _absolute),
    FileFormat("diffusers weights", _any_name(*DIFFUSERS_BLOCKS, *(f"unet.{b}" for b in DIFFUSERS_BLOCKS)), _absolute),
)
"""From the most to the least particular."""
