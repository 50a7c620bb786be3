"""The text tower of an SD1 checkpoint through transformers' own CLIP."""

from pathlib import Path

import torch
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

TOWER = "cond_stage_model.transformer.text_model."


def text_model(state_dict: dict[str, Tensor]) -> CLIPTextModel:
    """Return CLIP-L's text tower in fp32 with a checkpoint's weights."""
    config = CLIPTextConfig(
        vocab_size=49408,
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=12,
        num_attention_heads=12,
        max_position_embeddings=77,
        hidden_act="quick_gelu",
        bos_token_id=49406,
        eos_token_id=49407,
        pad_token_id=1,
    )
    with torch.device("meta"):
        model = CLIPTextModel(config)
    prefix = "text_model." if any(name.startswith("text_model.") for name in model.state_dict()) else ""
    weights = {
        prefix + key.removeprefix(TOWER): value.to(torch.float32).contiguous()
        for key, value in state_dict.items()
        if key.startswith(TOWER) and "position_ids" not in key
    }
    model.load_state_dict(weights, strict=True, assign=True)
    for module in model.modules():
        if hasattr(module, "position_ids"):
            module.position_ids = torch.arange(77)[None]
    return model.eval()


@torch.no_grad()
def encode(model: CLIPTextModel, tokenizer_folder: Path, prompt: str) -> Tensor:
    """Return the last hidden states (1, 77, 768) of one prompt."""
    tokenizer = CLIPTokenizer.from_pretrained(tokenizer_folder)
    ids = tokenizer(prompt, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids
    return model(ids).last_hidden_state
