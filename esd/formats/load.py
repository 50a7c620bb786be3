"""A published file as erased weights: opened, recognised, compared, or refused before anything is applied."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ..erasure import PREFIX, Erasure, LowRankChange
from ..errors import EsdError
from ..files.lazy import open_tensors
from ..files.lazy_tensor import LazyTensor, TensorFile
from .detect import DetectedFile, detect
from .difference import compare, require_finite
from .network import Network
from .official import from_official

AUTO, AS_DIFFERENCE, AS_ABSOLUTE = "auto", "as difference", "as absolute"
INTERPRETATIONS = (AUTO, AS_DIFFERENCE, AS_ABSOLUTE)


@dataclass(frozen=True)
class Imported:
    """The weights, a line about the file, and what the user should know before trusting it."""

    weights: Erasure
    summary: str
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Base:
    """What a file is read against: the MODEL, the other model it was trained from (if any), and that file's hash."""

    network: Network
    trained_from: Network | None = None
    sha256: Callable[[], str] = str

    @property
    def of_values(self) -> Network:
        """The network that absolute values are compared with."""
        return self.trained_from or self.network


def load_erasure(path: Path, base: Base, interpret: str = AUTO) -> Imported:
    """Read a file as erased weights.

    "as absolute" ends with the file's own values; "as difference" carries only the trained change over, without the
    file's rounding.  "auto" is "as difference" when `trained_from` is given and "as absolute" otherwise.  Files of
    differences need no base.  Raises EsdError for whatever is damaged, foreign or doubtful beyond use.
    """
    if interpret not in INTERPRETATIONS:
        raise EsdError(f'interpret is "{interpret}": choose one of {", ".join(INTERPRETATIONS)}.')
    if interpret == AS_ABSOLUTE and base.trained_from:
        raise EsdError(
            "as absolute ends with the file's own values, which leaves nothing for base_model to do: disconnect it, or "
            "choose as difference."
        )
    if interpret == AUTO:
        interpret = AS_DIFFERENCE if base.trained_from else AS_ABSOLUTE
    with open_tensors(path) as file:
        content = detect(file, base.network)
        metadata = describe(path, file, content)
        read = _changes if content.changes else _absolute
        differences, about, warnings = read(content, base, interpret, metadata)
        low_rank = {PREFIX + name: _low_rank(name, *pair) for name, pair in content.products.items()}
    summary = f"{content.form}: {about}"
    if metadata.get("esd.base_file"):
        summary += f"; trained from {metadata['esd.base_file']}"
    if content.ignored:
        summary += f"; {content.ignored} tensors of VAE, text encoder or schedule left alone"
    full = {PREFIX + name: t for name, t in differences.items()}
    return Imported(Erasure(full, metadata, low_rank), summary, warnings)


def _low_rank(name: str, up: LazyTensor, down: LazyTensor) -> LowRankChange:
    """Return a low-rank change of a file; raise EsdError for values that are not finite."""
    change = LowRankChange(up.load().float(), down.load().float())
    for tensor in (change.up, change.down):
        require_finite(name, tensor)
    return change


Read = tuple[Mapping[str, Tensor], str, tuple[str, ...]]


def _changes(content: DetectedFile, base: Base, interpret: str, metadata: Mapping[str, str]) -> Read:
    differences = {}
    for name, stored in content.tensors.items():
        if name in content.products:
            continue
        change = stored.load().float().reshape(base.network.shapes[name])
        require_finite(name, change)
        if bool(change.any()):
            differences[name] = change
    changed = len(differences) + len(content.products)
    return differences, f"changes {changed} of {len(base.network.shapes)} tensors", ()


def _absolute(content: DetectedFile, base: Base, interpret: str, metadata: Mapping[str, str]) -> Read:
    found = compare(content.tensors, base.of_values.value, without_rounding=interpret == AS_DIFFERENCE)
    if not found.differences:
        raise EsdError("The file's weights equal this MODEL's, so there is nothing to erase: choose the erased file.")
    about = f"{found.compared} tensors, {len(found.differences)} differ (median change {found.relative:.1%})"
    mismatch = found.mismatch(len(base.of_values.shapes)) or _other_file(base, metadata)
    return base.network.fused(found.differences), about, _warnings(mismatch, base, interpret)


def _other_file(base: Base, metadata: Mapping[str, str]) -> str | None:
    wanted = metadata.get("esd.base_sha256")
    own = base.sha256() if wanted else ""
    if not own or own == wanted:
        return None
    return f"its metadata names {metadata.get('esd.base_file')} with another hash than this MODEL's file"


def _warnings(mismatch: str | None, base: Base, interpret: str) -> tuple[str, ...]:
    if mismatch is None:
        return ()
    if base.trained_from is not None:
        return (f"The file does not look trained from base_model: {mismatch}.",)
    if interpret == AS_DIFFERENCE:
        raise EsdError(
            f"The file does not look trained from this MODEL ({mismatch}), so its difference would mean nothing: "
            "connect the model it was trained from to base_model, or choose as absolute."
        )
    return (
        f"The file does not look trained from this MODEL: {mismatch}. Its values replace this MODEL's as they are; to "
        "carry only the erasure over, connect the model it was trained from to base_model.",
    )


def describe(path: Path, file: TensorFile, content: DetectedFile) -> dict[str, str]:
    """Return the `esd.*` metadata of a loaded file: its own, or what the official metadata says in our words."""
    own = {key: value for key, value in file.metadata.items() if key.startswith("esd.")}
    official = from_official(file.metadata) if not own else {}
    return {**own, **official, "esd.source_file": path.name, "esd.source_form": content.form}
