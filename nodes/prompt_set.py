"""Prompt Set: what is drawn to measure an erasure."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..esd.evaluate.prompt_set import (
    ALTERNATIVE,
    ERASED,
    KEPT,
    ROLES,
    prompt_set,
    rows_of_lines,
    selected,
    with_guidance,
)
from .host.files import evaluation as host
from .schema import advanced, finding, saying
from .sockets import CATEGORY, Prompts

FIXED, PER_ROW = "fixed", "per row"


class ESDPromptSet(io.ComfyNode):
    """Prompts by role, typed or from a CSV file."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Define inputs and outputs."""
        return io.Schema(
            node_id="ESDPromptSet",
            display_name="ESD Prompt Set",
            category=CATEGORY,
            **finding("prompts from file", "CSV", "I2P", "ESD"),
            **saying(),
            description="Gathers what Evaluate draws: prompts of what was erased and of what should be as before.",
            inputs=[
                io.String.Input(
                    "erased",
                    multiline=True,
                    default="",
                    tooltip="One prompt a line: what was erased, in several phrasings. Write prompt -> label where the "
                    "judge should look for other words: a photo of a cat -> cat.",
                ),
                io.String.Input(
                    "kept", multiline=True, default="", tooltip="One prompt a line: what should be drawn as before."
                ),
                io.String.Input(
                    "alternatives",
                    multiline=True,
                    default="",
                    tooltip="One a line: further answers for the judge, which are not drawn.",
                ),
                *_file(),
            ],
            outputs=[Prompts.Output("prompts", display_name="prompts", tooltip="For Evaluate.")],
        )

    @classmethod
    def fingerprint_inputs(cls, file: str, **others: Any) -> str:
        """Run again when the file changes."""
        return host.fingerprint(file)

    @classmethod
    def execute(
        cls,
        erased: str,
        kept: str,
        alternatives: str,
        file: str,
        file_role: str,
        label_contains: str,
        first_rows: int,
        guidance: str,
    ) -> io.NodeOutput:
        """Read and put together."""
        typed = {ERASED: erased, KEPT: kept, ALTERNATIVE: alternatives}
        rows = [row for role, text in typed.items() for row in rows_of_lines(text, role)]
        if found := host.prompt_rows(file, file_role):
            rows += with_guidance(selected(found, label_contains, first_rows), guidance == PER_ROW)
        made = prompt_set(file if found else "typed prompts", rows)
        counts = {role: sum(row.role == role for row in made.rows) for role in ROLES}
        text = ", ".join(f"{count} {role}" for role, count in counts.items() if count)
        return io.NodeOutput(made, ui={"text": [text]})


def _file() -> list[io.Input]:
    """Return a file, and which of its rows."""
    return [
        io.Combo.Input(
            "file",
            options=host.prompt_files(),
            default=host.NO_FILE,
            tooltip="A CSV file in ComfyUI's input folder, as the paper's or I2P's, beside the lines above.",
        ),
        advanced(
            io.Combo.Input,
            "file_role",
            options=list(ROLES),
            default=ERASED,
            tooltip="What the file's rows are for, where it has no column role.",
        ),
        advanced(
            io.String.Input,
            "label_contains",
            default="",
            tooltip="Takes only the file's rows whose label has these words in it.",
        ),
        advanced(
            io.Int.Input,
            "first_rows",
            default=0,
            min=0,
            max=100000,
            tooltip="Takes only so many of the file's rows; 0 takes all.",
        ),
        advanced(
            io.Combo.Input,
            "guidance",
            options=[FIXED, PER_ROW],
            default=FIXED,
            tooltip="fixed: Evaluate's cfg for all, as the ESD paper. per row: the file's own, as I2P.",
        ),
    ]
