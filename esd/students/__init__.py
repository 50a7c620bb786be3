"""Students: how what is trained sits in the frozen network, whole weights in its place or low-rank changes beside."""

from __future__ import annotations

from torch import nn

from .full import FullStudent
from .low_rank import LowRankStudent
from .student import Student, StudentPlan, parameter_shapes

__all__ = ["FullStudent", "LowRankStudent", "Student", "StudentPlan", "make_student", "parameter_shapes"]


def make_student(plan: StudentPlan, network: nn.Module) -> Student:
    """Return the student of a plan over a frozen network, equal to it at first."""
    return LowRankStudent(plan, network) if plan.rank else FullStudent(plan, network)
