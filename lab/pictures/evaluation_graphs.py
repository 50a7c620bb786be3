"""The graphs of the evaluation's help pages."""

from __future__ import annotations

from support.page_graphs import CAT, FILE, SAMPLING, STOCK, Graph

PROMPTS = {"erased": "cat\ncat in ink style -> cat", "kept": "dog\nkey\ntulip", "size": (340, 470)}
SAMPLED = {**SAMPLING, "samples": 2, "file_name": ""}
EVALUATING: dict[str, Graph] = {
    "ESDSafeLatentDiffusion": (
        [
            STOCK,
            ("ESDSafeLatentDiffusion", (370, 0), {"concept": "cat", "size": (340, 170)}),
            ("KSampler", (780, 0), {}),
        ],
        [(0, "MODEL", 1, "model"), (0, "CLIP", 1, "clip"), (1, "MODEL", 2, "model")],
    ),
    "ESDMeasure": (
        [
            STOCK,
            CAT,
            ("ESDLoadErasure", (0, 390), {"file": FILE, "size": (300, 150)}),
            ("ESDKeep", (0, 620), {"prompts": "dog\nfox", "size": (300, 170)}),
            ("ESDMeasure", (370, 0), {"width": 64, "height": 64, "size": (380, 480)}),
            ("PreviewImage", (820, 0), {"size": (520, 300)}),
        ],
        [
            (0, "MODEL", 2, "model"),
            (0, "MODEL", 4, "base_model"),
            (0, "CLIP", 4, "clip"),
            (1, "concepts", 4, "concepts"),
            (2, "MODEL", 4, "model"),
            (3, "keeps", 4, "keep"),
            (4, "picture", 5, "images"),
        ],
    ),
    "ESDPromptSet": (
        [("ESDPromptSet", (0, 0), PROMPTS), ("ESDEvaluate", (420, 0), SAMPLED)],
        [(0, "prompts", 1, "prompts")],
    ),
    "ESDJudgeBaseModel": (
        [STOCK, ("ESDJudgeBaseModel", (370, 0), {}), ("ESDEvaluate", (740, 0), SAMPLED)],
        [
            (0, "MODEL", 1, "base_model"),
            (0, "CLIP", 1, "clip"),
            (0, "VAE", 1, "vae"),
            (1, "judge", 2, "judge"),
            (0, "MODEL", 2, "base_model"),
        ],
    ),
    "ESDJudgePlayground": (
        [("ESDJudgePlayground", (0, 0), {}), ("ESDEvaluate", (370, 0), SAMPLED)],
        [(0, "judge", 1, "judge")],
    ),
    "ESDEvaluate": (
        [
            STOCK,
            ("ESDLoadErasure", (0, 140), {"file": FILE, "size": (300, 150)}),
            ("ESDPromptSet", (0, 350), {**PROMPTS, "size": (340, 420)}),
            ("ESDJudgePlayground", (420, 700), {}),
            ("ESDEvaluate", (420, 0), {**SAMPLED, "size": (400, 640)}),
            ("PreviewImage", (890, 0), {"size": (640, 900)}),
        ],
        [
            (0, "MODEL", 1, "model"),
            (0, "MODEL", 4, "base_model"),
            (1, "MODEL", 4, "model"),
            (0, "CLIP", 4, "clip"),
            (0, "VAE", 4, "vae"),
            (2, "prompts", 4, "prompts"),
            (3, "judge", 4, "judge"),
            (4, "picture", 5, "images"),
        ],
    ),
}
