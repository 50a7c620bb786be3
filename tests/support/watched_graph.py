"""A graph whose run can be watched."""

from __future__ import annotations


def graph(steps, seed=0):
    """A training of so many steps, and what keeps it alive; one that was finished is not made again."""
    small = {
        "width": 64,
        "height": 64,
        "num_inference_steps": 4,
        "samples_per_trajectory": 2,
        "trajectory_batch": 1,
        "buffer_size": 4,
    }
    inputs = {"method": "esd-x-strict", "steps": steps, "learning_rate": 1e-5, "eta": 1.0, "seed": seed}
    watching = {"preview_every": 20, "snapshot_every": 0, "start": "start over", "stop": "after all steps"}
    links = {"model": ["1", 0], "clip": ["1", 1], "concepts": ["2", 0], "settings": ["5", 0]}
    defaults = {
        "preset": "custom",
        "sampler_model": "base",
        "guidance_scale": 0.0,
        "strided": True,
        "draws_per_buffer": 0,
        "contexts": "own words",
        "closed_form": False,
    }
    how = {
        "optimizer": "adamw",
        "gradient_checkpointing": "auto",
        "precision": "auto",
        "batch_size": 1,
        "gradient_accumulation_steps": 1,
    }
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
