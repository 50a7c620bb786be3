"""Compare Reports: several models on the same rows in one table."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..esd.evaluate.compare import ArmRates, arms_of, compare
from ..esd.evaluate.metrics import rate_words
from ..esd.evaluate.report import Report
from .host.files.evaluation import told
from .host.files.save import check_name
from .schema import finding, saying
from .sockets import CATEGORY, EvaluationReport
from .ui import evaluation as ui

MOST = 10
"""Reports that one node takes."""


class ESDCompareReports(io.ComfyNode):
    """Reports of Evaluate or Score."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Define inputs and outputs."""
        others = [
            EvaluationReport.Input(f"report_{number}", optional=True, tooltip="One more, of the same rows and judge.")
            for number in range(2, MOST + 1)
        ]
        return io.Schema(
            node_id="ESDCompareReports",
            display_name="ESD Compare Reports",
            category=CATEGORY,
            **finding("benchmark", "baseline", "evaluate", "ESD"),
            **saying(),
            description="Puts several models beside each other: found rates with intervals, and each one's test "
            "against the first.",
            is_output_node=True,
            inputs=[
                EvaluationReport.Input("report_1", tooltip="A report of Evaluate or Score."),
                *others,
                io.String.Input(
                    "file_name",
                    default="",
                    tooltip="Where the table goes in the output folder, as page, data and every picture's score. Empty "
                    "writes nothing.",
                ),
            ],
            outputs=[
                EvaluationReport.Output("report", display_name="report", tooltip="All models in one report."),
                io.Image.Output("picture", display_name="picture", tooltip="The table as a picture."),
                io.String.Output("text", display_name="text", tooltip="The figures in lines."),
            ],
        )

    @classmethod
    def validate_inputs(cls, file_name: str | None) -> bool | str:
        """Refuse a name that no file can have."""
        return check_name(file_name) if file_name else True

    @classmethod
    def execute(cls, file_name: str, **reports: Report | None) -> io.NodeOutput:
        """Compare."""
        numbered = sorted(reports.items(), key=lambda each: int(each[0].rpartition("_")[2]))
        given = [report for _, report in numbered if report is not None]
        arms = arms_of([(report.name or report.title, report.judge, report.scores) for report in given])
        made = compare(arms)
        seconds = tuple((report.name, dict(report.seconds).get("erased", 0.0)) for report in given if report.seconds)
        scores = tuple(score for each in arms.values() for score in each)
        report = Report("Beside each other", given[0].about, given[0].judge, scores=scores, arms=made, seconds=seconds)
        text, shown = told(report, file_name)
        return io.NodeOutput(report, _picture(made), text, ui=shown)


def _picture(arms: tuple[ArmRates, ...]) -> Any:
    """Return a chart a role under each other, a bar a model."""
    roles = dict.fromkeys(role for arm in arms for role, _ in arm.rates)
    return ui.under_each_other([ui.interval_bars(f"found: {role}", _bars(arms, role)) for role in roles])


def _bars(arms: tuple[ArmRates, ...], role: str) -> list[ui.Bar]:
    found = [(arm.name, rate) for arm in arms if (rate := arm.rate(role))]
    return [
        ui.Bar(
            name, "after" if place else "before", rate.share, rate.interval.low, rate.interval.high, rate_words(rate)
        )
        for place, (name, rate) in enumerate(found)
    ]
