"""Qwen2.5-VL and Qwen3-VL, as their repositories have them but for widths."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from hub.checkpoints import Checkpoint
from hub.vocabulary import byte_level

TEXT_TOKENS = 151643
SPECIAL_WORDS = (
    "<|endoftext|> <|im_start|> <|im_end|> <|object_ref_start|> <|object_ref_end|> <|box_start|> "
    "<|box_end|> <|quad_start|> <|quad_end|> <|vision_start|> <|vision_end|> <|vision_pad|> "
    "<|image_pad|> <|video_pad|> <tool_call> </tool_call> <|fim_prefix|> <|fim_middle|> "
    "<|fim_suffix|> <|fim_pad|> <|repo_name|> <|file_sep|>"
)
SPECIAL = tuple(SPECIAL_WORDS.split())
THOUGHT = ("<tool_response>", "</tool_response>", "<think>", "</think>")

HEAD = 8
"""Numbers of an attention head."""

SYSTEM = (
    "{% if loop.first and message['role'] != 'system' %}<|im_start|>system\n"
    "You are a helpful assistant.<|im_end|>\n{% endif %}"
)
TURNS = (
    "{% for message in messages %}SYSTEM<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' or 'image' in part or 'image_url' in part %}"
    "<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif part['type'] == 'video' or 'video' in part %}"
    "<|vision_start|><|video_pad|><|vision_end|>"
    "{% elif 'text' in part %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CLIP_COLOURS = {
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
HALF = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
ENDS = {"bos_token_id": 151643, "pad_token_id": 151643, "eos_token_id": [151645, 151643]}
MARKS = {
    "vision_start_token_id": 151652,
    "vision_end_token_id": 151653,
    "image_token_id": 151655,
    "video_token_id": 151656,
}


def qwen2_5_vl(layers: int, heads: int) -> Checkpoint:
    """Qwen2.5-VL, every one of its key heads shared by all `heads`."""
    text = {
        "attention_dropout": 0.0,
        "bos_token_id": 151643,
        "eos_token_id": 151645,
        "hidden_act": "silu",
        "hidden_size": HEAD * heads,
        "intermediate_size": 3 * HEAD * heads,
        "max_position_embeddings": 128000,
        "max_window_layers": layers,
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
        "num_key_value_heads": 1,
        "rms_norm_eps": 1e-06,
        "rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]},
        "rope_theta": 1000000.0,
        "sliding_window": 32768,
        "use_sliding_window": False,
        "tie_word_embeddings": False,
        "vocab_size": 152064,
    }
    vision = {
        "depth": 32,
        "fullatt_block_indexes": [7, 15, 23, 31],
        "hidden_act": "silu",
        "hidden_size": 64,
        "in_chans": 3,
        "intermediate_size": 171,
        "num_heads": 4,
        "out_hidden_size": HEAD * heads,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "spatial_patch_size": 14,
        "temporal_patch_size": 2,
        "tokens_per_second": 2,
        "window_size": 112,
    }
    config = {
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        "model_type": "qwen2_5_vl",
        "torch_dtype": "bfloat16",
        "transformers_version": "4.41.2",
        **MARKS,
        **text,
        "vision_config": vision,
    }
    images = {
        "image_processor_type": "Qwen2VLImageProcessor",
        "max_pixels": 12845056,
        "merge_size": 2,
        "min_pixels": 3136,
        "patch_size": 14,
        "processor_class": "Qwen2_5_VLProcessor",
        "temporal_patch_size": 2,
        **CLIP_COLOURS,
    }
    sampling = {"do_sample": True, "repetition_penalty": 1.05, "temperature": 1e-06}
    files = {
        "config.json": config,
        "generation_config.json": {**ENDS, **sampling},
        "preprocessor_config.json": images,
    }
    return _checkpoint(files, SPECIAL, TURNS.replace("SYSTEM", SYSTEM), 131072)


def qwen3_vl(layers: int, heads: int) -> Checkpoint:
    """Qwen3-VL."""
    text = {
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": 151643,
        "dtype": "bfloat16",
        "eos_token_id": 151645,
        "head_dim": HEAD,
        "hidden_act": "silu",
        "hidden_size": HEAD * heads,
        "intermediate_size": 3 * HEAD * heads,
        "max_position_embeddings": 262144,
        "model_type": "qwen3_vl_text",
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
        "num_key_value_heads": heads // 4,
        "rms_norm_eps": 1e-06,
        "rope_scaling": {
            "mrope_interleaved": True,
            "mrope_section": [2, 1, 1],
            "rope_type": "default",
        },
        "rope_theta": 5000000,
        "vocab_size": 151936,
    }
    vision = {
        "deepstack_visual_indexes": [8, 16, 24],
        "depth": 27,
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_size": 64,
        "in_channels": 3,
        "intermediate_size": 240,
        "model_type": "qwen3_vl",
        "num_heads": 4,
        "num_position_embeddings": 2304,
        "out_hidden_size": HEAD * heads,
        "patch_size": 16,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
    }
    config = {
        "architectures": ["Qwen3VLForConditionalGeneration"],
        "model_type": "qwen3_vl",
        "tie_word_embeddings": False,
        "transformers_version": "4.57.0.dev0",
        **MARKS,
        "text_config": text,
        "vision_config": vision,
    }
    patches = {
        "merge_size": 2,
        "patch_size": 16,
        "processor_class": "Qwen3VLProcessor",
        "temporal_patch_size": 2,
        **HALF,
    }
    images = {
        "image_processor_type": "Qwen2VLImageProcessorFast",
        "size": {"longest_edge": 16777216, "shortest_edge": 65536},
        **patches,
    }
    videos = {
        "size": {"longest_edge": 25165824, "shortest_edge": 4096},
        "video_processor_type": "Qwen3VLVideoProcessor",
        **patches,
    }
    sampling = {"do_sample": True, "temperature": 0.7, "top_k": 20, "top_p": 0.8}
    files = {
        "config.json": config,
        "generation_config.json": {**ENDS, **sampling},
        "preprocessor_config.json": images,
        "video_preprocessor_config.json": videos,
    }
    return _checkpoint(files, (*SPECIAL, *THOUGHT), TURNS.replace("SYSTEM", ""), 262144)


def _checkpoint(
    files: dict[str, dict[str, Any]], special: tuple[str, ...], template: str, longest: int
) -> Checkpoint:
    settings = {
        "add_bos_token": False,
        "add_prefix_space": False,
        "additional_special_tokens": special[1:14],
        "bos_token": None,
        "chat_template": template,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "errors": "replace",
        "model_max_length": longest,
        "pad_token": "<|endoftext|>",
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }
    tokenizer = byte_level(TEXT_TOKENS, special)
    return Checkpoint(files, tokenizer, settings, template, "<|im_end|>")


CHECKPOINTS: dict[str, Callable[[], Checkpoint]] = {
    "Qwen/Qwen2.5-VL-7B-Instruct": partial(qwen2_5_vl, layers=28, heads=7),
    "Qwen/Qwen3-VL-8B-Instruct": partial(qwen3_vl, layers=36, heads=8),
}
