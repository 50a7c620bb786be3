"""For the tests of faults: a world to erase from, what must be as before whatever broke, and processes that die."""

from __future__ import annotations

import gc
import os
import random
import shutil
import signal
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from support.graphs import Graph, Outcome
from support.short_runs import EventRecorder, module
from support.short_runs import erase as queue

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

CHECKPOINT = "emoji-world.ckpt"
STEPS = 3
SHORT = {
    "num_inference_steps": 2,
    "samples_per_trajectory": 2,
    "trajectory_batch": 1,
    "buffer_size": 2,
    "strided": False,
    "contexts": "own words",
    "closed_form": False,
}

needs_fork = pytest.mark.skipif(not hasattr(os, "fork") or resource is None, reason="needs a system that can fork")


@dataclass
class HostFixture:
    """A MODEL with its CLIP and VAE in the host of this process, and the folder that it writes to."""

    comfy: Any
    model: Any
    clip: Any
    vae: Any
    base: Path

    @property
    def output(self) -> Path:
        """The host's output folder."""
        return self.base / "output"

    @property
    def runs(self) -> Path:
        """Where runs are kept."""
        return self.output / "esd" / "runs"

    def graph(self) -> Graph:
        """An empty graph."""
        return Graph(self.comfy)

    def erase(self, **inputs: Any) -> Outcome:
        """Queue the shortest run there is."""
        settings = {**SHORT, **inputs.pop("settings", {})}
        return queue(
            self, settings=settings, **{"steps": STEPS, "method": "esd-x-strict", "stop": "after all steps", **inputs}
        )

    def clear(self) -> None:
        """Nothing in the output folder."""
        for path in self.output.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def make_world(comfy: Any, base: Path, tiny: Any = None) -> HostFixture:
    """The playground, by the stock loader; or the tiny MODEL, for runs that save no checkpoint."""
    if tiny is not None:
        return HostFixture(comfy, tiny.model, tiny.clip, tiny.vae, base)
    return HostFixture(comfy, *comfy.NODE_CLASS_MAPPINGS["CheckpointLoaderSimple"]().load_checkpoint(CHECKPOINT), base)


@contextmanager
def listening() -> Iterator[EventRecorder]:
    """Hear every message about a run, at once."""
    from server import PromptServer

    told = EventRecorder()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PromptServer.instance, "send_sync", told.send_sync)
        patch.setattr(module("run.status"), "EVERY_SECONDS", 0.0)
        yield told


def sentence(outcome: Outcome) -> str:
    """The message of a graph that was refused or failed, which must be one sentence."""
    assert outcome.ending in ("execution_error", "refused"), outcome.ending
    text = outcome.message
    assert text.endswith(".") and text.isprintable() and ": " in text, text
    return text


def bits(outcome: Outcome) -> tuple[Any, dict[str, bytes]]:
    """All that a run gives, to compare."""
    weights = outcome["weights"].differences
    return outcome["losses"], {name: t.numpy().tobytes() for name, t in weights.items()}


def _switches() -> dict[str, Any]:
    import comfy.model_management as host

    return {
        "torch": torch.get_rng_state().numpy().tobytes(),
        "numpy": repr(np.random.get_state()),
        "python": random.getstate(),
        "in training": getattr(host, "in_training", None),
        "interrupted": host.processing_interrupted(),
        "gradients": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "dtype": torch.get_default_dtype(),
    }


def _marks(world: HostFixture) -> list[Any]:
    """What a run could leave on the host's networks: other methods, hooks, patches, gradients."""
    networks = (world.model.model, world.clip.cond_stage_model, world.vae.first_stage_model)
    parts = [part for network in networks for part in network.modules()]
    hooks = [(vars(p).get("forward"), len(p._forward_hooks), len(p._forward_pre_hooks), p.training) for p in parts]
    gradients = [(p.requires_grad, p.grad is None) for network in networks for p in network.parameters()]
    return [hooks, gradients, dict(world.model.patches), dict(world.clip.patcher.patches)]


@contextmanager
def undisturbed(world: HostFixture) -> Iterator[None]:
    """What goes on inside leaves the MODEL, the random states and every switch of torch and the host as they were."""
    switches, marks = _switches(), _marks(world)
    kept = {name: t.clone() for name, t in world.model.model.state_dict().items()}
    yield
    now = _switches()
    assert now == switches, [name for name in now if now[name] != switches[name]]
    state = world.model.model.state_dict()
    assert state.keys() == kept.keys() and all(torch.equal(state[name], t) for name, t in kept.items())
    assert _marks(world) == marks
    assert _left_in_memory() == []


def _left_in_memory() -> list[str]:
    """Parts of a run that somebody still holds."""
    gc.collect()
    return [type(o).__name__ for o in gc.get_objects() if type(o).__name__ in ("HostDenoiser", "Training", "Job")]


def leftovers(folder: Path) -> list[Path]:
    """Files and folders that are still being written, or were when their process died."""
    return sorted(folder.rglob("*.esd-partial"))


Work = Callable[[], object]


def in_child(work: Work) -> int:
    """Do it in a forked process; returns its exit code, or minus the signal that it died of."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside threads, which hold nothing here
        child = os.fork()
    if child:
        return _ended(child)
    try:
        torch.set_num_threads(1)  # the threads of the parent are not in the child
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        work()
    except BaseException as error:
        os.write(2, f"{type(error).__name__}: {error}\n".encode())
        os._exit(3)
    os._exit(0)


def _ended(child: int, seconds: float = 300.0) -> int:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    raise AssertionError(f"the child was not ready after {seconds} s")


CALLS = ("mkdir", "fsync", "replace", "unlink", "rmdir")
"""Of the system, before and after each of which a process can be killed."""


def killed_at_call(number: int, work: Work) -> int:
    """Do it in a child that kills itself at the n-th moment beside such a call; 0 when there are not so many."""

    def doomed() -> None:
        moments = iter(range(1, 10**9))

        def strike() -> None:
            if next(moments) == number:
                os.kill(os.getpid(), signal.SIGKILL)

        for name in CALLS:
            setattr(os, name, _struck(getattr(os, name), strike))
        work()

    return in_child(doomed)


def _struck(call: Callable[..., Any], strike: Callable[[], None]) -> Callable[..., Any]:
    def around(*args: Any, **kwargs: Any) -> Any:
        strike()
        found = call(*args, **kwargs)
        strike()
        return found

    return around


def killed_at_byte(size: int, work: Work) -> int:
    """Do it in a child that the system kills in the middle of a write, once a file has grown to `size` bytes."""

    def doomed() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # ends the process on the spot, as SIGKILL does
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        work()

    return in_child(doomed)


DEAD = (-9, -25)
"""How a child ends that was killed: by SIGKILL, or by SIGXFSZ in the middle of a write."""
