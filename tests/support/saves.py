"""A save of each kind."""

from __future__ import annotations

SAVES = {
    "as source": ("ESDSaveCheckpoint", "files.checkpoint", "calculate_weight"),
    "as loaded": ("ESDSaveCheckpoint", "files.save", "_host_save"),
    "difference": ("ESDSaveErasure", "files.export", "save_differences"),
    "lora": ("ESDSaveErasure", "files.export", "decompose"),
    "official": ("ESDSaveErasure", "files.export", "write_stream"),
    "diffusers unet": ("ESDSaveErasure", "files.export", "write_unet"),
}


def saved(world, outcome, kind):
    """Queue a save of what a run gave."""
    graph, node = world.graph(), SAVES[kind][0]
    weights, name = graph.give(outcome["weights"]), "kept/" + kind.replace(" ", "-")
    if node == "ESDSaveErasure":
        graph.add(node, weights=weights, filename_prefix=name, format=kind, rank=2, model=graph.give(world.model))
        return graph.run()
    loader = graph.add("CheckpointLoaderSimple", ckpt_name="emoji-world.ckpt")
    applied = graph.add("ESDApply", model=loader, weights=weights, strength=1.0)
    graph.add(node, model=applied, clip=[loader[0], 1], vae=[loader[0], 2], weights=weights, filename_prefix=name, precision=kind)  # fmt: skip  # noqa: E501
    return graph.run()
