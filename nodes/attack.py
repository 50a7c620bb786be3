"""Attack: how easily a concept comes back in a MODEL, whoever erased it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from comfy_api.latest import io

from ..esd.concepts import Concept
from ..esd.evaluate.judge import Judge
from ..esd.evaluate.metrics import rate_words
from ..esd.evaluate.report import Report
from .host.files.evaluation import told
from .host.files.save import check_name
from .host.images import attack as host
from .schema import family_size, finding, saying
from .sockets import CATEGORY, EvaluationReport, JudgeSocket, erased_concepts, model_and_base, seed_input
from .ui import evaluation as ui
from .ui.grid import Column, Row, labelled_grid


class ESDAttack(io.ComfyNode):
    """Searches, inversion and completion."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Define inputs and outputs."""
        return io.Schema(
            node_id="ESDAttack",
            display_name="ESD Attack",
            category=CATEGORY,
            **finding("robustness", "red team", "adversarial", "textual inversion", "ESD"),
            **saying(),
            description="Tries to bring a concept back in an erased MODEL, in minutes and without its text encoder's "
            "gradients: by a search of conditions, by textual inversion, and from the base's first steps.",
            is_output_node=True,
            inputs=[*_what(), *_how()],
            outputs=[
                EvaluationReport.Output("report", display_name="report", tooltip="All figures and every score."),
                io.Float.Output(
                    "found", display_name="found %", tooltip="Of the strongest attack's pictures: with the concept."
                ),
                io.Float.Output(
                    "residual",
                    display_name="attack residual",
                    tooltip="What the strongest condition brings back: 1 all, 0 nothing. Of several concepts the "
                    "largest.",
                ),
                io.Image.Output("picture", display_name="picture", tooltip="The report as one picture."),
                io.Conditioning.Output(
                    "conditioning",
                    display_name="CONDITIONING",
                    tooltip="The strongest condition, in the place of a prompt for any sampler.",
                ),
                io.String.Output("text", display_name="text", tooltip="The figures in lines."),
            ],
        )

    @classmethod
    def validate_inputs(cls, file_name: str | None) -> bool | str:
        """Refuse a name that no file can have before anything is searched."""
        return check_name(file_name) if file_name else True

    @classmethod
    def execute(
        cls,
        model: Any,
        base_model: Any,
        clip: Any,
        vae: Any,
        concepts: tuple[Concept, ...],
        label: str,
        file_name: str,
        judge: Judge | None = None,
        **choice: Any,
    ) -> io.NodeOutput:
        """Attack, draw, judge and report."""
        chosen = host.AttackChoice(**choice)
        found = host.attack_models(model, base_model, clip, vae, concepts, judge, label, chosen)
        worst = max(found, key=lambda each: each.comeback.attacked.mean)
        about = tuple((name, str(value)) for name, value in asdict(chosen).items())
        report = Report(
            "Brought back by attacks", about, judge.card if judge else "", attacks=tuple(e.comeback for e in found)
        )
        text, shown = told(report, file_name)
        most = 100.0 * max(each.most.share for each in found)
        residual = worst.comeback.attacked.mean
        return io.NodeOutput(report, most, residual, _picture(found, chosen), worst.conditioning(clip), text, ui=shown)


def _picture(found: list[host.Attacked], choice: host.AttackChoice) -> Any:
    """Bars of what is found, and the pictures, concept by concept."""
    parts = []
    for each in found:
        bars = [
            ui.Bar(how, "before" if how == host.BEFORE else "after", *_ends(rate), rate_words(rate))
            for how, rate in each.comeback.found
        ]
        columns = [Column(f"{each.comeback.prompt}, {i + 1}", choice.seed) for i in range(choice.pictures)]
        rows = [Row(how, pictures) for how, pictures in each.drawn.items()]
        parts += [ui.interval_bars(f"Found: {each.comeback.prompt}", bars), labelled_grid(columns, rows)]
    return ui.under_each_other(parts)


def _ends(rate: Any) -> tuple[float, float, float]:
    return rate.share, rate.interval.low, rate.interval.high


def _what() -> list[io.Input]:
    """Return what is attacked, and who looks for the concept."""
    return [
        *model_and_base(),
        io.Clip.Input("clip", tooltip="The text encoder for both."),
        io.Vae.Input("vae", tooltip="The VAE for both."),
        erased_concepts(),
        JudgeSocket.Input(
            "judge", optional=True, tooltip="What looks for the concept in pictures. Without one the base model does."
        ),
        io.String.Input("label", default="", tooltip="What the judge looks for. Empty: the concept's own words."),
    ]


def _how() -> list[io.Input]:
    """Return how hard it tries, and what is drawn."""
    return [
        io.Int.Input(
            "search_steps",
            default=60,
            min=1,
            max=10000,
            tooltip="Steps of each search; the inversion takes twice as many. More steps find more.",
        ),
        io.Int.Input(
            "trajectories",
            default=4,
            min=1,
            max=64,
            tooltip="Searched on; as many others are measured.",
        ),
        io.Int.Input("pictures", default=8, min=1, max=64, tooltip="Drawn and judged for each attack."),
        seed_input("Of all noise: equal seeds give equal attacks."),
        io.Int.Input("steps", default=20, min=2, max=1000, tooltip="Sampling steps, as in KSampler."),
        io.Float.Input("cfg", default=7.0, min=0.0, max=100.0, step=0.5, tooltip="Guidance, as in KSampler."),
        io.String.Input(
            "file_name",
            default="esd/attack",
            tooltip="Where the report goes in the output folder: a page, its data (JSON) and a table (CSV) of every "
            "picture. Empty writes nothing.",
        ),
        *family_size(),
    ]
