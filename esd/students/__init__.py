"""Students: how what is trained sits in the frozen network, whole weights in its place or low-rank changes beside."""

from __future__ import annotations

import torch
from torch import nn

from .full import FullStudent
from .low_rank import LowRankStudent
from .student import Student, StudentPlan, parameter_shapes

__all__ = ["FullStudent", "LowRankStudent", "Student", "StudentPlan", "make_student", "parameter_shapes"]


def make_student(plan: StudentPlan, network: nn.Module, device: torch.device | None = None) -> Student:
    """Return the student of a plan over a frozen network, equal to it at first.

    What it trains is on the device, else where each frozen weight is.
    """
    return LowRankStudent(plan, network, device) if plan.rank else FullStudent(plan, network, device)
