"""The network that a file is read against: its names, shapes and values, and what others call its tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..errors import EsdError

PREFIXES = ("model.diffusion_model.", "diffusion_model.", "unet.", "transformer.")
"""What files put before the name of a tensor of the network."""

TEXT_WIDTHS = {768: "SD1.x", 1024: "SD2.x", 2048: "SDXL"}
"""The model families by the width of their text embedding."""


@dataclass(frozen=True)
class Slice:
    """Some rows of a tensor that the host fuses of several."""

    host: str
    first: int
    rows: int


@dataclass(frozen=True)
class Network:
    """A model's network by host name without prefix: shapes at hand, each value (with the model's patches) on demand.

    `diffusers` maps diffusers names to host names, where the host knows them, `slices` those of fused tensors to rows.
    """

    family: str
    shapes: Mapping[str, tuple[int, ...]]
    weight: Callable[[str], Tensor]
    diffusers: Mapping[str, str]
    slices: Mapping[str, Slice] = field(default_factory=dict)

    def host_name(self, name: str) -> str | None:
        """Return the host's name of a tensor that a file calls `name`; None for what this network does not have.

        Rows of a fused tensor keep the name that diffusers has for them.
        """
        for prefix in PREFIXES:
            if name.startswith(prefix):
                name = name.removeprefix(prefix)
                break
        name = name if name in self.shapes else self.diffusers.get(name, name)
        return name if name in self.shapes or name in self.slices else None

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor, or of rows of a fused one under their own name."""
        part = self.slices.get(name)
        return self.shapes[name] if part is None else (part.rows, *self.shapes[part.host][1:])

    def value(self, name: str) -> Tensor:
        """Return the value of a tensor, or of rows of a fused one under their own name."""
        part = self.slices.get(name)
        return self.weight(name) if part is None else self.weight(part.host).narrow(0, part.first, part.rows)

    def fused(self, changes: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return changes by host name: those of rows in their place, the others of a fused tensor being 0."""
        found = {name: change for name, change in changes.items() if name not in self.slices}
        for name in changes.keys() & self.slices.keys():
            part = self.slices[name]
            whole = found.setdefault(part.host, torch.zeros(self.shapes[part.host]))
            whole.narrow(0, part.first, part.rows).copy_(changes[name])
        return found


def diffusers_names(network: Network) -> dict[str, str]:
    """Host name to diffusers name for every tensor; raises EsdError where diffusers has none."""
    names: dict[str, str] = {}
    for diffusers, host in network.diffusers.items():
        if host in network.shapes and (host not in names or names[host].startswith("class_embedding.")):
            names[host] = diffusers  # SDXL's label embedding has two names there; the file has add_embedding
    missing = next((n for n in network.shapes if n not in names), None)
    if missing is not None:
        raise EsdError(
            f"A {network.family} network has no layout in diffusers that could be written ({missing} has no name "
            "there): save it as difference or lora."
        )
    return names


def module_paths(network: Network) -> dict[str, str]:
    """Every way in which LoRA files spell a module, to the module's host path without prefix."""
    spelled: dict[str, str] = {}
    for host in network.shapes:
        module = _module(host)
        spelled[f"diffusion_model.{module}"] = spelled[f"lora_unet_{_flat(module)}"] = module
    for diffusers, host in network.diffusers.items():
        if host in network.shapes:
            name, module = _module(diffusers), _module(host)
            for spelling in (name, f"unet.{name}", f"lora_unet_{_flat(name)}", f"lycoris_{_flat(name)}"):
                spelled[spelling] = module
    return spelled


def kohya_path(host_name: str) -> str:
    """Return the module of a weight as LoRA files of the kohya layout call it, `lora_unet_input_blocks_1_1_...`."""
    return f"lora_unet_{_flat(_module(host_name))}"


def _module(name: str) -> str:
    return name.rpartition(".")[0]


def _flat(path: str) -> str:
    return path.replace(".", "_")
