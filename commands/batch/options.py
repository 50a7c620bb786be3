"""What the command line accepts (standard library only)."""

from __future__ import annotations

import argparse
from pathlib import Path

URL = "http://127.0.0.1:8188"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that a batch has however it is started."""
    parser.add_argument("jobs", type=Path, nargs="?", metavar="jobs.yaml", help="the file of jobs (docs/batch.md)")
    parser.add_argument("--dry-run", action="store_true", help="print the plan and write the graphs, and do nothing")
    parser.add_argument("--results", metavar="PLACE", help="folder or fsspec URL of the results (default: in the file)")
    parser.add_argument("--first", type=_positive, metavar="N", help="only the first N jobs that are not done")
    parser.add_argument(
        "--url", action="append", metavar="ADDRESS", help="a ComfyUI to use; again for each further one"
    )
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="the output folder of the ComfyUI at --url")
    parser.add_argument("--models", type=Path, metavar="FOLDER", help="the folder of checkpoints, for plan and Ray")
    parser.add_argument("--ray", metavar="ADDRESS", help="a Ray cluster: its address, or auto")
    parser.add_argument("--workers", type=_positive, metavar="N", help="with --ray: at most so many workers")
    parser.add_argument("--scratch", type=Path, metavar="FOLDER", help="with --ray: where workers keep snapshots")
    parser.add_argument("--schema", action="store_true", help="print the JSON schema of the file, and do nothing")


def own_parser() -> argparse.ArgumentParser:
    """Return the command line of a batch that is started in an installed pack."""
    words = "Erase a list of concepts from a list of models."
    parser = argparse.ArgumentParser(prog="commands/batch", description=words)
    add_options(parser)
    parser.add_argument("--comfyui", type=Path, metavar="FOLDER", help="with --ray: ComfyUI's folder, where main.py is")
    return parser


def _positive(words: str) -> int:
    if not words.isdigit() or int(words) < 1:
        raise argparse.ArgumentTypeError(f'"{words}" is not a whole number above 0')
    return int(words)
