"""A graph whose run can be watched."""

from __future__ import annotations


def graph(steps):
    """A training of so many steps, and what keeps it alive."""
    small = {"width": 64, "height": 64, "walk_steps": 4, "points_per_walk": 2, "walk_batch": 1, "pool": 4}
    inputs = {"method": "esd-x-strict", "steps": steps, "learning_rate": 1e-5, "eta": 1.0, "seed": 0}
    watching = {"preview_every": 20, "snapshot_every": 0, "start": "start over"}
    links = {"model": ["1", 0], "clip": ["1", 1], "concepts": ["2", 0], "settings": ["5", 0]}
    defaults = {"preset": "custom", "source": "base", "walk_guidance": 0.0, "coarse_walks": True, "refresh": 0}
    how = {"optimizer": "adamw", "checkpointing": "auto", "precision": "auto", "batch_size": 1, "accumulate": 1}
    return {
        "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "emoji-world.ckpt"}},
        "2": {
            "class_type": "ESDConcept",
            "inputs": {"concept": "cat", "erase_from": "", "replace_with": "", "weight": 1.0},
        },
        "3": {"class_type": "ESDErase", "inputs": {**links, **inputs, **watching}},
        "4": {"class_type": "ESDErasureInfo", "inputs": {"weights": ["3", 1]}},
        "5": {"class_type": "ESDEraseSettings", "inputs": {**small, **defaults, **how}},
    }
