"""Icons from the npm registry: packages by name and fixed version, checked, and read without being unpacked."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import files

PUBLIC_REGISTRY = "https://registry.npmjs.org"


@dataclass(frozen=True)
class Package:
    """An icon set: its package, and the sha512 that the registry has published for this version."""

    name: str
    version: str
    integrity: str

    @property
    def path(self) -> str:
        """Where a registry keeps the archive."""
        return f"{self.name}/-/{self.name.rpartition('/')[2]}-{self.version}.tgz"


PACKAGES = {
    "noto": Package(
        "@iconify-json/noto",
        "1.2.9",
        "sha512-DQiuXENbun41ch+XPSV55H9FaWKpHTyz46YIKtSaKYD4fIDDzL1tR6H4np/T38jfrTAeI3rcKF0mqHYeZVAuaw==",
    ),
    "fluent": Package(
        "@iconify-json/fluent-emoji-flat",
        "1.2.6",
        "sha512-RY47RgPb47fYUiyrA64sIOL0+UU02s29sXpNBbIQRBUlPlfNFTKUmZDERGuxDs/7yNGWqQYvuaSYM1M4fRXlUw==",
    ),
    "ink": Package(
        "@iconify-json/fluent-emoji-high-contrast",
        "1.2.6",
        "sha512-esqhZPpkrF7sNX3NsLoh8KW64okEr/bzko7WNnFP+qTJGAqDPDYjp0925yxuivXy3HtVQB8xhIKu3+Nq1byX5w==",
    ),
}
"""Style: the icon set that it is taken from."""


def fetch(package: Package, folder: Path) -> Path:
    """The package's archive in `folder`, downloaded unless it is there; ValueError if it is not the published one."""
    archive = folder / Path(package.path).name
    if archive.exists():
        check(package, archive.read_bytes(), f"{archive} (delete it)")
        return archive
    address = f"{registry()}/{package.path}"
    with urllib.request.urlopen(address, timeout=60) as answer:
        found = answer.read()
    check(package, found, address)
    files.save_bytes(found, archive)
    return archive


def registry() -> str:
    """The registry that npm is set up to use, else the public one, without a slash at the end."""
    named = os.environ.get("NPM_CONFIG_REGISTRY") or os.environ.get("npm_config_registry")
    npm = shutil.which("npm")
    if not named and npm:
        asked = subprocess.run([npm, "config", "get", "registry"], capture_output=True, text=True, check=False)
        named = asked.stdout.strip() if asked.returncode == 0 else ""
    return (named if named and named.startswith("http") else PUBLIC_REGISTRY).rstrip("/")


def check(package: Package, archive: bytes, source: str) -> None:
    """Raise ValueError unless an archive has the published sha512; `source` says where it is from."""
    kind, _, wanted = package.integrity.partition("-")
    if base64.b64encode(hashlib.new(kind, archive).digest()).decode() != wanted:
        raise ValueError(f"{source} is not {package.name} {package.version} as it was published: fetch it again.")


def read(archive: Path) -> Mapping[str, Any]:
    """The icons of a package, in Iconify's JSON."""
    with tarfile.open(archive, "r:gz") as packed:
        member = packed.extractfile("package/icons.json")
        if member is None:
            raise ValueError(f"{archive} holds no icons.json: it is no icon set of Iconify's.")
        return dict(json.load(io.TextIOWrapper(member, encoding="utf-8")))


def svg(icons: Mapping[str, Any], name: str, ink: str = "#111") -> str:
    """One icon as an SVG picture; what has no colour of its own is drawn in `ink`."""
    found = icons["icons"].get(name)
    if found is None:
        alias = icons.get("aliases", {}).get(name)
        if alias is None:
            raise ValueError(f'The icon set {icons["prefix"]} has no "{name}": choose another icon for this object.')
        return svg(icons, alias["parent"], ink)
    width, height = (found.get(side, icons.get(side, 16)) for side in ("width", "height"))
    box = f'viewBox="{found.get("left", 0)} {found.get("top", 0)} {width} {height}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {box} color="{ink}">{found["body"]}</svg>'
