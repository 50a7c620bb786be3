"""Classifiers that the user has in models/classifiers: ResNets in torchvision's layout, and ONNX files."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import comfy.model_management
import folder_paths
import numpy as np
import torch
from einops import rearrange
from torch import Tensor
from torch.nn.functional import interpolate, pad

from ....esd.errors import EsdError
from ....esd.evaluate.classifier import NUDENET, Classifier
from ....esd.files.lazy import open_tensors
from .folders import file_in

FOLDER = "classifiers"
WEIGHTS, ONNX = (".safetensors", ".pth", ".pt", ".bin"), ".onnx"
NONE_YET = "(put a file into models/classifiers)"
BOXES = 4
"""Figures before the classes in each column of a detector's output, "1 (4 + n) places"."""

RESNETS: Mapping[tuple[int, ...], str] = {
    (2, 2, 2, 2): "resnet18",
    (3, 4, 6, 3): "resnet34",
    (3, 4, 23, 3): "resnet101",
    (3, 8, 36, 3): "resnet152",
}
RESNET_50 = "resnet50"
"""Layers of each stage; the 50 has those of the 34, and bottlenecks."""


@dataclass(frozen=True)
class About:
    """What stands beside a file in one of its name that ends in .json: class names, and how pictures are made ready.

    A value is (pixel * scale - mean) / std, of red, green and blue, pixels being 0 ... 1.
    """

    labels: tuple[str, ...] = ()
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    scale: float = 1.0
    bgr: bool = False
    exclusive: bool = True


def register() -> None:
    """Make the folder known to the host."""
    folder_paths.add_model_folder_path(FOLDER, os.path.join(folder_paths.models_dir, FOLDER))


def files() -> list[str]:
    """Return the names of the files; the host's own list of this folder leaves out those with endings."""
    register()
    folders = [Path(folder) for folder in folder_paths.get_folder_paths(FOLDER)]
    found = {
        path.relative_to(folder).as_posix()
        for folder in folders
        for path in (folder.rglob("*") if folder.is_dir() else ())
        if path.suffix.lower() in (*WEIGHTS, ONNX)
    }
    return sorted(found) or [NONE_YET]


def fingerprint(name: str) -> str:
    """Return what changes when the file or what stands beside it does."""
    paths = [path for path in (_path(name), _path(name).with_suffix(".json")) if path.is_file()]
    return ";".join(f"{path}:{path.stat().st_size}:{path.stat().st_mtime_ns}" for path in paths)


def _path(name: str) -> Path:
    register()
    found = file_in(FOLDER, name)
    if found is None:
        raise EsdError(f'There is no classifier "{name!s:.100}": put it into models/classifiers and refresh (R).')
    return found


def load(name: str) -> Classifier:
    """Open a listed file; raise EsdError, which says what is wanted, for one that is no classifier."""
    path = _path(name)
    about = _about(path.with_suffix(".json"))
    identity = hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest() + repr(about)
    return (_onnx if path.suffix.lower() == ONNX else _resnet)(path, about, identity)


def _about(path: Path) -> About:
    if not path.is_file():
        return About()
    try:
        found = json.loads(path.read_text("utf-8"))
        known = {field.name for field in fields(About)}
        values: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in found.items() if n in known}
        return About(**values)
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise EsdError(
            f'{path.name} cannot be read ({error}): write JSON such as {{"labels": ["cat", "dog"]}}.'
        ) from error


def _named(path: Path, about: About, count: int, usual: tuple[str, ...] = ()) -> tuple[str, ...]:
    names = about.labels or usual
    if len(names) != count:
        raise EsdError(
            f"{path.name} has {count} classes and {len(names)} names: write them into {path.stem}.json beside it, as "
            '{"labels": [...]}.'
        )
    return tuple(map(str, names))


def _resnet(path: Path, about: About, identity: str) -> Classifier:
    import torchvision.models

    with open_tensors(path) as file:
        state = {name: stored.load() for name, stored in file.tensors.items()}
    kind = _kind(state)
    if not kind or "fc.weight" not in state:
        raise EsdError(
            f"{path.name} is no ResNet in torchvision's layout: choose one (conv1, layer1 to layer4, fc), or an ONNX "
            "file."
        )
    weights = torchvision.models.get_model_weights(kind).DEFAULT
    count = state["fc.weight"].shape[0]
    names = _named(path, about, count, tuple(weights.meta["categories"]))
    network = torchvision.models.get_model(kind, weights=None, num_classes=count)
    try:
        network.load_state_dict({name: t.float() if t.is_floating_point() else t for name, t in state.items()})
    except RuntimeError as error:
        raise EsdError(f"{path.name} is no whole {kind} ({str(error):.200}): download it anew.") from error
    network.eval().requires_grad_(False)
    ready = weights.transforms()

    def run(pictures: Tensor) -> Tensor:
        device = comfy.model_management.get_torch_device()
        try:
            values = ready(rearrange(pictures[..., :3], "b h w c -> b c h w").to(device))
            made: Tensor = network.to(device)(values).softmax(dim=1)
            return made.cpu()
        finally:
            network.to("cpu")

    return Classifier(f"{path.name} ({kind})", names, True, run, identity)


def _kind(state: Mapping[str, Tensor]) -> str:
    """Return torchvision's name of the ResNet that has these weights; empty for what is none."""
    depths = tuple(len({key.split(".")[1] for key in state if key.startswith(f"layer{i}.")}) for i in range(1, 5))
    if depths == (3, 4, 6, 3) and "layer1.0.conv3.weight" in state:
        return RESNET_50
    return RESNETS.get(depths, "")


def _onnx(path: Path, about: About, identity: str) -> Classifier:
    session = _session(path)
    (into, *_), (out, *_) = session.get_inputs(), session.get_outputs()
    shape = [side if isinstance(side, int) and side > 0 else 0 for side in into.shape]
    if len(shape) != 4 or 3 not in (shape[1], shape[3]):
        raise EsdError(f"{path.name} takes no RGB pictures, its input is {into.shape}: choose another ONNX file.")
    first = shape[1] == 3
    side = (shape[2] if first else shape[1]) or (320 if len(out.shape) == 3 else 224)
    detects = len(out.shape) == 3
    sample = torch.zeros((1, side, side, 3))
    count = _figures(session, into.name, sample, first, detects).shape[1]
    usual = NUDENET if detects and count == len(NUDENET) else ()
    names = _named(path, about, count, usual)

    def run(pictures: Tensor) -> Tensor:
        values = _ready(pictures, about, side, square=detects)
        return torch.cat([_figures(session, into.name, each[None], first, detects) for each in values])

    kind = f"{path.name} ({'detector' if detects else 'classifier'}, {side} px)"
    return Classifier(kind, names, about.exclusive and not detects, run, identity)


def _session(path: Path) -> Any:
    if find_spec("onnxruntime") is None:
        raise EsdError(
            f"{path.name} is an ONNX file, and this ComfyUI has no onnxruntime: install it into ComfyUI's Python, or "
            "use a ResNet file or another judge."
        )
    import onnxruntime

    try:
        return onnxruntime.InferenceSession(str(path), providers=onnxruntime.get_available_providers())
    except Exception as error:  # noqa: BLE001 - its errors are of a module of its own
        raise EsdError(f"{path.name} cannot be opened by onnxruntime ({str(error):.200}): download it anew.") from error


def _figures(session: Any, name: str, picture: Tensor, first: bool, detects: bool) -> Tensor:
    """Return "1 n": a classifier's output, or of a detector the best figure of each class over all places."""
    values = rearrange(picture, "b h w c -> b c h w") if first else picture
    (made, *_) = session.run(None, {name: np.ascontiguousarray(values.numpy(), dtype=np.float32)})
    found = torch.from_numpy(np.asarray(made)).float()
    return found[:, BOXES:].amax(dim=2) if detects else found.reshape(1, -1)


def _ready(pictures: Tensor, about: About, side: int, square: bool) -> Tensor:
    """Return pictures "b side side 3" as the network wants them: a detector's with black below and on the right."""
    values = rearrange(pictures[..., :3].float().cpu(), "b h w c -> b c h w")
    height, width = values.shape[2:]
    if square:
        longest = max(height, width)
        values = pad(values, (0, longest - width, 0, longest - height))
    values = interpolate(values, size=(side, side), mode="bilinear", antialias=True, align_corners=False)
    values = rearrange(values, "b c h w -> b h w c")
    made = (values * about.scale - torch.tensor(about.mean)) / torch.tensor(about.std)
    return made.flip(3) if about.bgr else made
