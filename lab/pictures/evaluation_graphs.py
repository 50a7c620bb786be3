"""The graphs of the evaluation's help pages."""

from __future__ import annotations

from support.page_graphs import CAT, FILE, SAMPLING, STOCK, Graph

PROMPTS = {"erased": "cat\ncat in ink style -> cat", "kept": "dog\nkey\ntulip", "size": (340, 470)}
SAMPLED = {**SAMPLING, "samples": 2, "file_name": ""}
ATTACK = {"search_steps": 30, "pictures": 4, "steps": 10, "cfg": 3, "file_name": ""}
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
    "ESDAttack": (
        [
            STOCK,
            CAT,
            ("ESDLoadErasure", (0, 390), {"file": FILE, "size": (300, 150)}),
            ("ESDJudgePlayground", (0, 620), {}),
            ("ESDAttack", (370, 0), {**ATTACK, "size": (380, 560)}),
            ("PreviewImage", (820, 0), {"size": (520, 560)}),
        ],
        [
            (0, "MODEL", 2, "model"),
            (0, "MODEL", 4, "base_model"),
            (0, "CLIP", 4, "clip"),
            (0, "VAE", 4, "vae"),
            (1, "concepts", 4, "concepts"),
            (2, "MODEL", 4, "model"),
            (3, "judge", 4, "judge"),
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
    "ESDJudgePrototypes": (
        [("CLIPVisionLoader", (0, 0), {}), ("ESDJudgePrototypes", (370, 0), {}), ("ESDEvaluate", (740, 0), SAMPLED)],
        [(0, "CLIP_VISION", 1, "clip_vision"), (1, "judge", 2, "judge")],
    ),
    "ESDJudgeCLIP": (
        [
            ("CLIPVisionLoader", (0, 0), {}),
            ("CLIPLoader", (0, 130), {}),
            ("ESDJudgeCLIP", (370, 0), {}),
            ("ESDEvaluate", (740, 0), SAMPLED),
        ],
        [(0, "CLIP_VISION", 2, "clip_vision"), (1, "CLIP", 2, "clip"), (2, "judge", 3, "judge")],
    ),
    "ESDJudgeFile": (
        [("ESDJudgeFile", (0, 0), {"size": (330, 110)}), ("ESDEvaluate", (400, 0), SAMPLED)],
        [(0, "judge", 1, "judge")],
    ),
    "ESDSampleSet": (
        [
            STOCK,
            ("ESDPromptSet", (0, 170), PROMPTS),
            ("ESDSampleSet", (400, 0), {**SAMPLING, "samples": 2, "size": (330, 420)}),
            ("PreviewImage", (790, 0), {"size": (420, 420)}),
        ],
        [
            (0, "MODEL", 2, "model"),
            (0, "CLIP", 2, "clip"),
            (0, "VAE", 2, "vae"),
            (1, "prompts", 2, "prompts"),
            (2, "pictures", 3, "images"),
        ],
    ),
    "ESDScore": (
        [
            ("ESDSampleSet", (0, 0), {**SAMPLING, "size": (330, 420)}),
            ("ImageToMask", (400, 0), {}),
            ("ESDScore", (740, 0), {"name": "ESD", "size": (330, 300)}),
        ],
        [(0, "pictures", 1, "image"), (0, "rows", 2, "rows"), (1, "MASK", 2, "mask")],
    ),
    "ESDUnifiedConceptEditing": (
        [
            STOCK,
            CAT,
            ("ESDKeep", (0, 390), {"prompts": "dog\ntiger", "size": (300, 170)}),
            ("ESDUnifiedConceptEditing", (370, 0), {}),
            ("KSampler", (740, 0), {}),
        ],
        [
            (0, "MODEL", 3, "model"),
            (0, "CLIP", 3, "clip"),
            (1, "concepts", 3, "concepts"),
            (2, "keeps", 3, "keep"),
            (3, "MODEL", 4, "model"),
        ],
    ),
    "ESDCompareReports": (
        [
            ("ESDEvaluate", (0, 0), {**SAMPLED, "name": "ESD", "size": (330, 560)}),
            ("ESDEvaluate", (390, 0), {**SAMPLED, "name": "SLD", "size": (330, 560)}),
            ("ESDCompareReports", (780, 0), {"size": (330, 320)}),
            ("PreviewImage", (1170, 0), {"size": (320, 320)}),
        ],
        [(0, "report", 2, "report_1"), (1, "report", 2, "report_2"), (2, "picture", 3, "images")],
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
