"""What the benches share: the playground in an in-process host, runs on it, and the judge's counts."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
if os.environ.get("ESD_TEST_PACKAGES"):  # arms of a bench start in processes of their own
    sys.path.append(os.environ["ESD_TEST_PACKAGES"])

import torch  # noqa: E402

from commands import inprocess  # noqa: E402
from commands.playground.world import MODELS, Rate  # noqa: E402
from commands.rates import counted  # noqa: E402
from lab.launch import base  # noqa: E402
from lab.paths import OWN_HOST, RUN  # noqa: E402

STARTED_IN = Path.cwd()
"""The host wants another working folder; file names on the command line are meant from here."""

SIZE = {"width": 64, "height": 64}
"""The playground's pictures."""

FIXED = {
    "steps": 200,
    "learning_rate": 1e-4,
    "eta": 1.0,
    "stop": "after all steps",
    "contexts": "own words",
    "closed_form": False,
}
"""A run of a fixed length under the own words, for figures that are compared; `bench defaults` has the defaults."""


class Playground:
    """The playground model in the host, and pictures of it judged."""

    def __init__(self, picture_steps: int = 10, name: str = "sd1") -> None:
        """`picture_steps` is how many sampling steps each judged picture takes; `name` is that of the model."""
        self.picture_steps, self.drawn_by = picture_steps, MODELS[name]
        logging.disable(logging.INFO)
        os.environ.setdefault("TQDM_DISABLE", "1")
        host = Path(os.environ.get("COMFYUI_PATH") or OWN_HOST).resolve()
        inprocess.start(host, base.prepare_base(RUN / "bench", host))
        from esd_pack.commands.playground.judge import load_judge
        from esd_pack.nodes.host.files import load
        from esd_pack.nodes.host.images import sampling
        from esd_pack.nodes.host.run import erase

        self.erasing, self.sampling, self.judge = erase, sampling, load_judge()
        with torch.inference_mode():
            self.loaded = load.load(self.drawn_by.checkpoint.name)
        self._seen: dict[tuple[str, ...], Any] = {}

    def erase(self, concepts: Sequence[Any], keeps: Sequence[Any], settings: Any, **more: Any) -> tuple[Any, float]:
        """An erased model and the seconds that took."""
        start = time.perf_counter()
        with torch.inference_mode():  # as the host runs its nodes
            erased = self.erasing.erase_model(self.loaded.model, self.loaded.clip, concepts, keeps, settings, **more)
        return erased, time.perf_counter() - start

    def verdict(self, model: Any, prompts: Sequence[str], seed: int = 1000) -> Any:
        """The judge on one picture a prompt (DDIM, guidance 3, or as the model is sampled)."""
        return self.judge.judge(self.pictures(model, prompts, seed))

    def pictures(self, model: Any, prompts: Sequence[str], seed: int = 1000) -> Any:
        """One picture a prompt, each from its own noise."""
        by = self.drawn_by
        choice = self.sampling.SamplerChoice(seed, self.picture_steps, by.cfg, by.sampler, by.scheduler, 64, 64)
        with torch.inference_mode():
            return self.sampling.draw(model, self.loaded.clip, self.loaded.vae, prompts, choice)

    def before(self, prompts: Sequence[str]) -> Any:
        """The verdict on the original model, drawn once for each list of prompts."""
        key = tuple(prompts)
        if key not in self._seen:
            self._seen[key] = self.verdict(self.loaded.model, prompts)
        return self._seen[key]

    def rates(self, model: Any, groups: Mapping[str, Sequence[Any]]) -> dict[str, Rate]:
        """For each group of `playground.world.Judged`: found before and after."""
        prompts = [each.prompt for group in groups.values() for each in group]
        found = counted(groups, self.before(prompts), self.verdict(model, prompts))
        shares = {name: Rate(c.before.share, c.after.share, c.after.n) for name, c in found.items()}
        return {name: shares.get(name, Rate(0.0, 0.0, 0)) for name in groups}


def short(rate: Rate) -> str:
    """A rate for a table: before > after (pictures)."""
    return f"{rate.before:.0%} > {rate.after:.0%} ({rate.n})"


def write_json(path: str | None, rows: Sequence[Mapping[str, Any]], name: str = "sd1") -> None:
    """Rows with the machine, versions, date and the start of the playground's sha256, to a file if one is asked for."""
    if path is None:
        return
    about = {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}",
        "device": "cpu",  # as `commands.inprocess` starts the host
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "playground": hashlib.sha256(MODELS[name].checkpoint.read_bytes()).hexdigest()[:12],
    }
    (STARTED_IN / path).write_text(json.dumps({**about, "rows": list(rows)}, indent=1) + "\n", encoding="utf-8")


def as_json(rates: Mapping[str, Rate]) -> dict[str, Any]:
    """Rates as plain values."""
    return {name: asdict(rate) for name, rate in rates.items()}
