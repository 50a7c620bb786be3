"""Students over a small network: equal to the base at first, trained where the plan says, and what they amount to."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from esd_pack.esd.students import FullStudent, LowRankStudent, StudentPlan, low_rank, make_student, parameter_shapes

NAMES = ("0.weight", "2.weight")
ROWS = (("0.weight", (2, 6)),)


class Plain(nn.Linear):
    """A layer with a kind of its own, as hosts have them."""


@pytest.fixture
def network() -> nn.Module:
    """Two frozen Linear layers."""
    torch.manual_seed(0)
    return nn.Sequential(Plain(3, 6), nn.GELU(), Plain(6, 4)).requires_grad_(False)


X = torch.linspace(-1, 1, 15).reshape(5, 3)


def trained(student: Any, network: nn.Module) -> Tensor:
    """Take some steps towards other outputs; return the student's answer."""
    optimizer = torch.optim.Adam(student.trainable.values(), lr=0.05)
    for _ in range(10):
        optimizer.zero_grad()
        with student.attached(torch.float32):
            (network(X) - 1).square().mean().backward()
        optimizer.step()
    with student.attached(torch.float32), torch.no_grad():
        return network(X)


def test_what_is_fixed_is_not_learning() -> None:
    plan = StudentPlan(("a", "b"), fixed=("b",))
    assert plan.learning == StudentPlan(("a",), fixed=("b",))


@pytest.mark.parametrize("rows", [(), ROWS], ids=["whole", "rows"])
@pytest.mark.parametrize("rank", [0, 2])
def test_a_student_begins_as_the_base_and_ends_as_its_erasure(
    network: nn.Module, rank: int, rows: tuple[Any, ...]
) -> None:
    before = {name: t.clone() for name, t in network.state_dict().items()}
    base = network(X)
    student = make_student(StudentPlan(NAMES, rows, rank), network)
    assert isinstance(student, LowRankStudent if rank else FullStudent)
    with student.attached(torch.float32), torch.no_grad():
        assert torch.equal(network(X), base)
    answer = trained(student, network)
    assert not torch.allclose(answer, base)
    assert torch.equal(network(X), base)
    assert all(torch.equal(network.state_dict()[name], t) for name, t in before.items())
    learnt = student.erasure("net.")
    assert learnt.names == [f"net.{name}" for name in NAMES]
    assert set(learnt.low_rank if rank else learnt.differences) == set(learnt.names)
    for name in NAMES:
        change = learnt.change(f"net.{name}")
        assert change.shape == before[name].shape == learnt.shape(f"net.{name}")
        network.get_submodule(name[0]).weight += change
    assert torch.allclose(network(X), answer, atol=1e-6)
    first = learnt.change("net.0.weight")
    assert not rows or (not first[:2].any() and first[2:6].any())


@pytest.mark.parametrize("rank", [0, 2])
def test_the_plan_knows_the_shapes_of_the_parameters(network: nn.Module, rank: int) -> None:
    plan = StudentPlan(NAMES, ROWS, rank)
    shapes = {name: tuple(t.shape) for name, t in network.state_dict().items()}
    made = make_student(plan, network).trainable.values()
    assert parameter_shapes(plan, shapes) == [tuple(p.shape) for p in made]
    assert all(p.dtype is torch.float32 for p in made)


def test_every_matrix_of_a_low_rank_student_learns_and_equal_seeds_begin_alike(network: nn.Module) -> None:
    begun = [
        LowRankStudent(StudentPlan(NAMES, ROWS, 2, seed), network).trainable["0.lora_down.weight"] for seed in (1, 1, 2)
    ]
    assert torch.equal(begun[0], begun[1]) and not torch.equal(begun[0], begun[2])
    student = LowRankStudent(StudentPlan(NAMES, ROWS, 2), network)
    before = {name: p.detach().clone() for name, p in student.trainable.items()}
    trained(student, network)
    assert all(not torch.equal(before[name], p) for name, p in student.trainable.items())


def test_a_student_of_half_precision_layers_keeps_float32_values(network: nn.Module) -> None:
    network.to(torch.bfloat16)
    student = LowRankStudent(StudentPlan(NAMES, ROWS, 2), network)
    with student.attached(torch.bfloat16):
        out = network(X.to(torch.bfloat16))
        out.float().square().mean().backward()
    assert out.dtype is torch.bfloat16
    assert student.trainable["2.lora_up.weight"].grad.dtype is torch.float32


def test_a_low_rank_student_wants_linear_layers(network: nn.Module) -> None:
    with pytest.raises(TypeError, match="1 is no Linear layer"):
        LowRankStudent(StudentPlan(("1.weight",), (), 2), network)


def test_the_hooks_are_taken_off_again_whatever_happens(network: nn.Module) -> None:
    student = LowRankStudent(StudentPlan(NAMES, ROWS, 2), network)
    with pytest.raises(RuntimeError, match="stopped"), student.attached(torch.float32):
        raise RuntimeError("stopped")
    assert not any(module._forward_hooks for module in network.modules())


@pytest.mark.parametrize("rank", [0, 2])
def test_what_is_fixed_stays_as_the_student_begins(network: nn.Module, rank: int) -> None:
    student = make_student(StudentPlan(NAMES, (), rank, fixed=NAMES[:1]), network)
    student.begin({NAMES[0]: -torch.eye(3)}, torch.float32)
    begun = {name: parameter.detach().clone() for name, parameter in student.trainable.items()}
    trained(student, network)
    moved = {name for name, parameter in student.trainable.items() if not torch.equal(parameter, begun[name])}
    assert moved == {name for name in begun if name.startswith("2.")}
    assert bool(student.erasure("").change(NAMES[0]).any())


def test_the_first_factors_of_a_wide_matrix_are_those_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(low_rank, "OVERSAMPLED", 8)
    random = torch.Generator().manual_seed(0)
    draw = {"generator": random, "dtype": torch.float64}
    edit = torch.randn((60, 60), **draw) @ torch.diag(torch.logspace(0, -3, 60, dtype=torch.float64))
    whole = low_rank._factors(edit, 4)
    monkeypatch.setattr(low_rank, "WIDE", 10)
    some = low_rank._factors(edit, 4)
    assert len(some[1]) == 12
    nearest = [(u[:, :4] * s[:4]) @ vh[:4] for u, s, vh in (whole, some)]
    torch.testing.assert_close(nearest[0], nearest[1], rtol=1e-4, atol=1e-6)


def test_a_start_beside_layers_that_round_a_batch_is_that_beside_plain_ones() -> None:
    """As hosts do that compute in fp8 or fp4."""

    class Rounding(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.round() if x.ndim > 1 else x)

    torch.manual_seed(0)
    plain, rounding = (nn.Sequential(kind(6, 4)) for kind in (nn.Linear, Rounding))
    rounding.load_state_dict(plain.state_dict())
    changes = []
    for network in (plain, rounding):
        student = LowRankStudent(StudentPlan(("0.weight",), rank=3), network)
        student.begin({"0.weight": torch.randn((6, 6), generator=torch.Generator().manual_seed(1))}, torch.float32)
        changes.append(student.erasure("").change("0.weight"))
    assert torch.equal(*changes) and changes[0].any()
