"""Blocks that visit a device in turn: the bits of a network that is there whole, two blocks at a time, no race.

`test_streaming.py` runs this file in a process of its own: autograd knows only devices that were there at its first
backward.  What runs here are toy blocks; whole runs of the families are states of `states.py`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

WIDTH, COUNT = 64, 6


class Block(nn.Module):
    """Two layers, a bare parameter and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)
        self.scale = nn.Parameter(torch.rand(WIDTH))
        self.register_buffer("shift", torch.rand(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.tanh(self.up(x * self.scale + self.shift)))


class Network(nn.Module):
    """Blocks in a row."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(COUNT))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


@pytest.fixture(scope="module")
def second(comfy: Any) -> Any:
    """The second device's module, started in this process."""
    sys.path.append(str(Path(__file__).parent))
    import second_device

    second_device.start()
    return second_device


@pytest.fixture
def network() -> Network:
    torch.manual_seed(0)
    return Network().requires_grad_(False).eval()


def with_gradients(
    network: Network,
    device: torch.device,
    paths: tuple[str, ...],
    after: Callable[[], object] = lambda: None,
    gradients: bool = True,
) -> list[Tensor]:
    """Calls without and with gradients, three rounds of both, as a run makes them; a student hangs on a block."""
    from esd_pack.nodes.host.families.family import Backward
    from esd_pack.nodes.host.model.backward import differentiable
    from esd_pack.nodes.host.model.streaming import streaming

    x = torch.linspace(-1, 1, 3 * WIDTH).reshape(3, WIDTH).to(device)
    learnt = nn.Parameter(torch.full((WIDTH,), 0.5, device=device))
    found = []
    with streaming(network, paths, device):
        for _ in range(3):
            with torch.no_grad():
                found += [network(x), network(2 * x)]
            if gradients:
                hook = network.blocks[0].up.register_forward_pre_hook(lambda layer, inputs: (inputs[0] * learnt,))
                with differentiable(network, Backward(("Block",)), True):
                    network(x).square().sum().backward()
                hook.remove()
                found.append(learnt.grad.clone())
            after()
    return [each.detach().cpu() for each in found]


PATHS = tuple(f"blocks.{index}" for index in (0, 1, 3, 4, 5))


def moved(network: Network, device: torch.device) -> None:
    """Put what is not streamed on the device, as a run does."""
    network.blocks[2].to(device)


def test_a_streamed_network_has_the_bits_of_a_whole_one(second: Any, network: Network) -> None:
    device = torch.device(second.NAME, 0)
    whole = with_gradients(network, torch.device("cpu"), ())
    moved(network, device)
    streamed = with_gradients(network, device, PATHS)
    assert all(torch.equal(a, b) for a, b in zip(whole, streamed, strict=True))
    held = [p for path in PATHS for p in network.get_submodule(path).parameters()]
    assert all(each.device.type == "cpu" for each in held)
    assert not any("forward" in block.__dict__ for block in network.blocks)


def test_two_blocks_at_most_are_on_the_device(second: Any, network: Network) -> None:
    device = torch.device(second.NAME, 0)
    moved(network, device)
    block = sum(t.nbytes for t in (*network.blocks[0].parameters(), *network.blocks[0].buffers()))
    second.peak(reset=True)
    before = second.allocated()
    with_gradients(network, device, PATHS)
    taken, activations = second.peak() - before, 40 * 3 * WIDTH * 4
    assert 2 * block <= taken <= 2 * block + activations
    assert second.allocated() == before


def test_the_next_block_is_on_its_way_while_one_computes(second: Any, network: Network) -> None:
    """What follows is learnt in the first round, and in the second one what follows a round."""
    from esd_pack.nodes.host.model import streaming

    device, late, counts = torch.device(second.NAME, 0), [], []
    moved(network, device)
    now: Callable[..., Tensor] = streaming._Copier.now
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streaming._Copier, "now", lambda self, held: (late.append(1), now(self, held))[1])
        with_gradients(network, device, PATHS, lambda: counts.append(len(late)))
    two_blocks = 2 * 6
    assert counts[0] > 0 and counts[1:] == [counts[0] + two_blocks] * 2


def test_a_copy_that_nobody_waits_for_is_noticed(second: Any, network: Network) -> None:
    """The second device knows races, so the tests above would find one."""
    from esd_pack.nodes.host.model import streaming

    device = torch.device(second.NAME, 0)
    moved(network, device)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streaming._Copier, "wait", lambda self: None)
        with pytest.raises(RuntimeError, match="a race"):
            with_gradients(network, device, PATHS, gradients=False)


def test_a_run_that_ends_in_a_block_leaves_the_weights_where_they_were(second: Any, network: Network) -> None:
    from esd_pack.nodes.host.model.streaming import streaming

    device = torch.device(second.NAME, 0)
    moved(network, device)
    before = dict(network.named_parameters())
    network.blocks[4].forward = lambda x: 1 / 0
    x = torch.ones(1, WIDTH, device=device)
    with pytest.raises(ZeroDivisionError), streaming(network, PATHS, device), torch.no_grad():
        network(x)
    assert all(p is before[name] for name, p in network.named_parameters())


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """What the host is asked to pin, all of which it does, and to give back."""
    import comfy.model_management

    asked: list[int] = []
    monkeypatch.setattr(comfy.model_management, "pin_memory", lambda t: asked.append(t.data_ptr()) is None)
    monkeypatch.setattr(comfy.model_management, "unpin_memory", lambda t: asked.remove(t.data_ptr()))
    yield asked


def test_what_the_host_pins_it_unpins(second: Any, network: Network, taken: list[int]) -> None:
    from esd_pack.nodes.host.model.streaming import pinned

    device = torch.device(second.NAME, 0)
    with pinned(list(network.blocks), device):
        assert len(taken) == 6 * COUNT
    assert taken == []


@pytest.mark.parametrize("rank", [0, 4])
def test_a_student_of_weights_that_are_elsewhere_begins_and_ends_as_one_beside_them(
    second: Any, network: Network, rank: int
) -> None:
    """From a start in closed form too; a weight that is trained in part keeps its frozen rows."""
    from esd_pack.esd.students import StudentPlan, make_student

    device, names = torch.device(second.NAME, 0), ("blocks.0.up.weight", "blocks.4.down.weight")
    plan = StudentPlan(names, (("blocks.4.down.weight", (16, 48)),), rank, seed=3)
    edits = {"blocks.0.up.weight": torch.diag(torch.linspace(-0.5, 0.5, WIDTH))}
    x, found = torch.linspace(-1, 1, WIDTH)[None], []
    for place, paths in ((torch.device("cpu"), ()), (device, PATHS)):
        student = make_student(plan, network, place)
        student.begin(edits, torch.float32)
        assert {each.device.type for each in student.trainable.values()} == {place.type}
        if paths:
            moved(network, device)
        with streaming_of(network, paths, place), student.attached(torch.float32), torch.no_grad():
            made = network(x.to(place)).cpu()
        change = student.erasure("")
        found.append([made, *(change.change(name) for name in names)])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    assert found[0][1].any()


def streaming_of(network: Network, paths: tuple[str, ...], device: torch.device) -> Any:
    from esd_pack.nodes.host.model.streaming import streaming

    return streaming(network, paths, device)
