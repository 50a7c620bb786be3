"""The report over all jobs: data for programs, and an index page with the pictures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from esd_pack.esd.evaluate.page import escaped, page, table_of_markup

from .jobs import Job
from .ledger import Outcome

Json = dict[str, Any]
FORMAT = "esd-batch-report-1"


def as_json(name: str, jobs: Sequence[Job], outcomes: Mapping[str, Outcome]) -> str:
    """Return every job with how it ended."""
    rows = [
        {
            **{key: getattr(job, key) for key in ("key", "name", "model", "concepts", "settings", "passes", "is_part")},
            **{
                key: getattr(outcomes[job.key], key)
                for key in ("state", "seconds", "host", "reason", "files", "figures")
            },
        }
        for job in jobs
        if job.key in outcomes
    ]
    counts = {state: sum(row["state"] == state for row in rows) for state in ("done", "failed")}
    return json.dumps({"format": FORMAT, "name": name, **counts, "jobs": rows}, indent=1) + "\n"


def as_html(name: str, jobs: Sequence[Job], outcomes: Mapping[str, Outcome]) -> str:
    """Return the index page; every text in it is escaped, it runs no script, and its links stay in the folder."""
    ended = [(job, outcomes[job.key]) for job in jobs if job.key in outcomes]
    failed = [(job, outcome) for job, outcome in ended if not outcome.is_done]
    whole = [(job, outcome) for job, outcome in ended if outcome.is_done and not job.is_part]
    parts = sum(outcome.is_done and job.is_part for job, outcome in ended)
    words = f"{len(whole)} results, {parts} merged parts, {len(failed)} failed"
    body = [
        f"<p>{words}.</p>",
        table_of_markup(
            ("job", "why it failed"), [(escaped(job.title), escaped(outcome.reason)) for job, outcome in failed]
        ),
        table_of_markup(HEAD, [row_of(job, outcome) for job, outcome in whole]),
        "".join(_picture(job) for job, outcome in whole if "picture.png" in outcome.files),
    ]
    return page(name, body, RULES, "'self' file:")


RULES = "body { max-width: 90rem } td { vertical-align: top } img { width: auto; max-width: 100% }\n"


HEAD = ("model", "erased", "settings", "gone", "kept", "worst neighbours", "left in the model", "files")


def row_of(job: Job, outcome: Outcome) -> tuple[str, ...]:
    """Return the cells of a job that is done, as HTML."""
    figures = outcome.figures
    found = figures.get("found", {})
    worst = ", ".join(f"{label} {before} to {after}" for label, before, after in figures.get("worst", ()))
    left = ", ".join(f"{prompt} {percent} %" for prompt, percent in figures.get("left", {}).items())
    links = " ".join(
        f'<a href="jobs/{escaped(job.name)}/{escaped(file)}">{escaped(file)}</a>' for file in outcome.files
    )
    plain = (job.model, ", ".join(job.concepts), job.settings, gone(found), kept(found), worst, left)
    return (*map(escaped, plain), links)


def gone(found: Json) -> str:
    """Return in how many pictures of what was erased the judge finds nothing more."""
    role = found.get("erased")
    return f"{role['after'][1] - role['after'][0]} of {role['after'][1]}" if role else ""


def kept(found: Json) -> str:
    """Return in how many of the kept pictures the judge finds what it should, before and after."""
    role = found.get("kept")
    return f"{role['before'][0]} to {role['after'][0]} of {role['after'][1]}" if role else ""


def _picture(job: Job) -> str:
    source = f"jobs/{escaped(job.name)}/picture.png"
    return f'<h2>{escaped(job.title)}</h2><img src="{source}" alt="evaluation of {escaped(job.title)}" loading="lazy">'
