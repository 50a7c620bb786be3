"""Evaluate: how often a judge still finds what was erased, and what should be as before."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from comfy_api.latest import io

from ..esd.concepts import Concept, Keep
from ..esd.evaluate.judge import Judge
from ..esd.evaluate.metrics import Change, changes, percent, rate_words
from ..esd.evaluate.prompt_set import ERASED, KEPT, PromptSet
from ..esd.evaluate.report import PicturePair, Report
from ..esd.evaluate.study import on_sheet
from .drawing_inputs import drawing, resuming, sampling_of_rows
from .host.files.evaluation import BlindSheet, told
from .host.files.kept_rows import KeptRows
from .host.files.save import check_name
from .host.images import evaluate as host
from .host.images import sampling
from .host.images.shots import shard, shots_of
from .host.images.studio import batch_of
from .host.model.measure import InModel, MeasureChoice, is_guided, measure_models
from .schema import advanced, finding, saying
from .sockets import CATEGORY, EvaluationReport, JudgeSocket, Prompts
from .ui import evaluation as ui
from .ui.grid import Column, Row, labelled_grid

SHOWN = 6
"""Pairs of pictures a role, the worst first."""

MEASURED = 4
"""Prompts of a role that are measured inside the model."""


class ESDEvaluate(io.ComfyNode):
    """Two MODELs, one prompt set, one judge."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Define inputs and outputs."""
        return io.Schema(
            node_id="ESDEvaluate",
            display_name="ESD Evaluate",
            category=CATEGORY,
            **finding("benchmark", "erasure score", "found rate", "ESD"),
            **saying(),
            description="Draws a prompt set before and after an erasure from the same noise, lets a judge look for "
            "each label, and reports found rates with intervals.",
            is_output_node=True,
            inputs=[*_what(), *_how()],
            outputs=[
                EvaluationReport.Output("report", display_name="report", tooltip="All figures and every score."),
                io.Image.Output("picture", display_name="picture", tooltip="The report as one picture."),
                io.Float.Output(
                    "erased", display_name="erased %", tooltip="Of the erased rows' pictures: without their label."
                ),
                io.Float.Output("kept", display_name="kept %", tooltip="Of the kept rows' pictures: with their label."),
                io.String.Output("text", display_name="text", tooltip="The figures in lines."),
            ],
        )

    @classmethod
    def validate_inputs(cls, file_name: str | None) -> bool | str:
        """Refuse a name that no file can have before anything is drawn."""
        return check_name(file_name) if file_name else True

    @classmethod
    def execute(
        cls,
        model: Any,
        base_model: Any,
        clip: Any,
        vae: Any,
        prompts: PromptSet,
        judge: Judge,
        samples: int,
        seed: int,
        in_model: bool,
        file_name: str,
        name: str = "erased",
        negative: str = "",
        resume: bool = True,
        shard_number: int = 1,
        shards: int = 1,
        **choice: Any,
    ) -> io.NodeOutput:
        """Draw, judge, compare and report."""
        chosen = sampling.SamplerChoice(seed, **choice)
        shots = shard(shots_of(prompts, samples, chosen), shard_number, shards)
        keeper = KeptRows() if resume else None
        # first what takes seconds, so that its refusals do not come after hours of drawing
        inside = _inside(model, base_model, clip, prompts, chosen) if in_model else InModel((), ())
        drawn = host.evaluate(base_model, model, clip, vae, shots, prompts.labels, judge, negative, keeper)
        before, after = drawn.scores[host.BASE], drawn.scores[host.ERASED_MODEL]
        settings = {**asdict(chosen), **({"negative": negative} if negative else {})}
        report = Report(
            f"Found by the judge: {prompts.name}",
            (("pictures", str(len(shots))), *((name, str(value)) for name, value in settings.items())),
            drawn.card,
            changes(before, after),
            (*before, *after),
            inside.concepts,
            inside.keeps,
            name=name,
            seconds=tuple(drawn.seconds.items()),
        )
        worst = _worst_first(drawn)
        sheet = BlindSheet(prompts.name, _by_lot(drawn, seed), seed)
        text, shown = told(report, file_name, [_pair(*p) for p in worst], sheet)
        rates = percent(report.changes, ERASED, missing=True), percent(report.changes, KEPT)
        return io.NodeOutput(report, _picture(report, worst), *rates, text, ui=shown)


Pair = tuple[host.KeptPicture, host.KeptPicture]


def _worst_first(drawn: host.Drawn) -> list[Pair]:
    """Of each role a few pairs: erased ones that are still found, and others that are not, come first."""
    pairs, chosen = _pairs(drawn), list[Pair]()
    for role in dict.fromkeys(before.score.role for before, _ in pairs):
        of_role = [pair for pair in pairs if pair[0].score.role == role]
        sign = 1 if role == KEPT else -1
        of_role.sort(key=lambda pair: (sign * pair[1].score.found, sign * pair[1].score.score))
        chosen += of_role[:SHOWN]
    return chosen


def _pairs(drawn: host.Drawn) -> list[Pair]:
    return list(zip(drawn.pictures[host.BASE], drawn.pictures[host.ERASED_MODEL], strict=True))


def _by_lot(drawn: host.Drawn, seed: int) -> list[PicturePair]:
    """Return the pairs of a blind sheet."""
    pairs = _pairs(drawn)
    return [_pair(*pairs[place]) for place in on_sheet([before.score.role for before, _ in pairs], seed)]


def _pair(before: host.KeptPicture, after: host.KeptPicture) -> PicturePair:
    score = before.score
    first, second = (ui.jpeg(each.picture / 255.0) for each in (before, after))
    return PicturePair(score.role, score.prompt, score.seed, first, second, score.label)


def _picture(report: Report, pairs: list[Pair]) -> Any:
    """Bars, residuals by noise level, and pairs of pictures of one size, under each other."""
    parts = [ui.interval_bars(report.title, [b for c in report.changes for b in _bars(c)])]
    if report.concepts:
        rows = {each.prompt: list(zip(each.sigmas, each.residuals, strict=True)) for each in report.concepts}
        parts.append(ui.heat_strip("Residual by noise level: 1 untouched, 0 gone", rows))
    for role in dict.fromkeys(before.score.role for before, _ in pairs):
        of_role = [p for p in pairs if p[0].score.role == role]
        alike = [p for p in of_role if p[0].picture.shape == of_role[0][0].picture.shape]
        columns = [Column(f"{role}: {before.score.prompt}", before.score.seed) for before, _ in alike]
        parts.append(labelled_grid(columns, [_row("before", 0, alike), _row("after", 1, alike)]))
    return ui.under_each_other(parts)


def _row(label: str, which: int, pairs: list[Pair]) -> Row:
    shown = [pair[which] for pair in pairs]
    notes = [each.score.answer or "(nothing)" for each in shown]
    return Row(label, batch_of([each.picture for each in shown]), notes)


def _bars(change: Change) -> list[ui.Bar]:
    both = (("before", change.before), ("after", change.after))
    return [
        ui.Bar(f"{change.role}, {kind}", kind, rate.share, rate.interval.low, rate.interval.high, rate_words(rate))
        for kind, rate in both
    ]


def _inside(model: Any, base: Any, clip: Any, prompts: PromptSet, choice: sampling.SamplerChoice) -> InModel:
    """Measure the first prompts of each role; nothing where the MODEL is guided while it samples."""
    erased, kept = (
        list(dict.fromkeys(row.prompt for row in prompts.drawn if row.role == role))[:MEASURED]
        for role in (ERASED, KEPT)
    )
    if is_guided(model, base) or not erased:
        return InModel((), ())
    how = MeasureChoice(1, 50, choice.seed, choice.width, choice.height)
    keeps = [Keep(tuple(kept))] if kept else []
    return measure_models(model, base, clip, [Concept(prompt) for prompt in erased], keeps, how)


def _what() -> list[io.Input]:
    """Return what is compared, on what, and by whom."""
    return [
        io.Model.Input("model", tooltip="The erased MODEL, or any other to compare with the base."),
        io.Model.Input("base_model", tooltip="The MODEL before the erasure."),
        io.Clip.Input("clip", tooltip="The text encoder for both."),
        io.Vae.Input("vae", tooltip="The VAE for both."),
        Prompts.Input("prompts", tooltip="What is drawn: a Prompt Set."),
        JudgeSocket.Input("judge", tooltip="What looks for the labels: a Judge."),
        *sampling_of_rows(),
    ]


def _how() -> list[io.Input]:
    """Return the widgets of a KSampler, and what is reported."""
    return [
        *drawing(),
        advanced(
            io.Boolean.Input,
            "in_model",
            default=True,
            tooltip="Also measures the first prompts inside the model, as Measure does.",
        ),
        io.String.Input(
            "file_name",
            default="esd/evaluation",
            tooltip="Where the report goes in the output folder: a page, its data (JSON), a table (CSV) of every "
            "picture and a blind sheet for a user study. Empty writes nothing.",
        ),
        io.String.Input(
            "name", default="erased", optional=True, tooltip="What Compare Reports calls this MODEL: ESD, or strong."
        ),
        io.String.Input(
            "negative",
            default="",
            optional=True,
            tooltip="A negative prompt for the erased MODEL's pictures alone: with the base on both sockets this "
            "measures what a negative prompt does without any erasure.",
        ),
        *resuming(),
    ]
