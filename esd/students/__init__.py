"""Students: how what is trained sits in the frozen network, whole weights in its place or low-rank changes beside."""

from __future__ import annotations

from .full import FullStudent
from .low_rank import LowRankStudent
from .student import Student, StudentPlan, parameter_shapes

__all__ = ["FullStudent", "LowRankStudent", "Student", "StudentPlan", "make_student", "parameter_shapes"]


def make_student(plan: StudentPlan, network: object) -> Student:
    """Return the student of a plan over a frozen network (a `torch.nn.Module`), equal to it at first."""
    kind: type[FullStudent] | type[LowRankStudent] = LowRankStudent if plan.rank else FullStudent
    return kind(plan, network)  # type: ignore[arg-type]
