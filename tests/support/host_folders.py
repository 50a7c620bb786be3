"""Folders of models that the host of this process searches, for as long as a test needs them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def searched(output: Path, kinds: tuple[str, ...]) -> Iterator[None]:
    """Let the host find what is saved into output/checkpoints and the like; it forgets these folders at the end."""
    import folder_paths

    before = {kind: list(folder_paths.folder_names_and_paths.get(kind, ((), set()))[0]) for kind in kinds}
    for kind in kinds:
        (output / kind).mkdir(parents=True, exist_ok=True)
        folder_paths.add_model_folder_path(kind, str(output / kind))
    try:
        yield
    finally:
        for kind, places in before.items():
            folder_paths.folder_names_and_paths[kind][0][:] = places
            folder_paths.filename_list_cache.pop(kind, None)
