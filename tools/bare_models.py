"""Write folders that a bench with random weights loads where no model hub can be reached: the
configuration of a public model, and the tokenizer and processor of the miniature of its kind.

Times are those of the public model at its own width and depth. Its words are the miniature's, so
that a prompt has a few text tokens more; pictures are cut as the public model's processor does.

    python tools/bare_models.py FOLDER Qwen/Qwen2.5-VL-7B-Instruct llava-hf/llava-1.5-7b-hf
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import CLIPConfig, CLIPModel

from prunebench.pricing.public import Record, record

TESTBED = Path(__file__).parents[1] / "prunebench" / "testbed"

KINDS = {
    "qwen2_5_vl": "tiny-qwen2.5-vl",
    "qwen3_vl": "tiny-qwen3-vl",
    "llava": "tiny-llava-1.5",
}
"""The miniature that is a model in small, by the kind of model."""

ROPES: dict[str, dict[str, Any]] = {
    "qwen2_5_vl": {"rope_theta": 1e6, "mrope_section": [16, 24, 24]},
    "qwen3_vl": {"rope_theta": 5e6, "mrope_section": [24, 20, 20], "mrope_interleaved": True},
    "llava": {"rope_theta": 1e4},
}
"""How positions turn; sections share a head of 128 numbers between time, height and width."""

MERGE = 2
"""Patches along a side that become one visual token."""

CLIP_TEXT = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12}
CLIP_WIDTH = 768
"""OpenAI's ViT-L/14 at 336 pixels: its text encoder, and what both encoders project to."""

Json = dict[str, Any]


def main(words: Sequence[str]) -> None:
    """Write a folder a model, by the last part of its name."""
    folder, *names = words
    for name in names:
        public = record(name)
        write(Path(folder) / public.name.rpartition("/")[2], public)


def write(folder: Path, public: Record) -> None:
    """Write one model's folder; raises KeyError for a kind without a miniature."""
    kind = public.config["model_type"]
    miniature = TESTBED / KINDS[kind]
    _copy(miniature, folder)
    small = _read(miniature / "config.json")
    config = _config(public, small)
    if "clip" in small:
        clip = folder.parent / "clip"
        if not clip.exists():
            _write_clip(clip, TESTBED / str(small["clip"]), public.config["vision_config"])
        config["clip"] = str(clip.resolve())
    _write(folder / "config.json", config)
    _write(folder / "processor_config.json", _processor(public, miniature))


def _config(public: Record, small: Json) -> Json:
    """The public configuration, with the miniature's ids of tokens and the positions that the
    public model has at any width of head.
    """
    text = dict(public.config["text_config"])
    ids = {name: small[name] for name in small if name.endswith(("token_id", "token_index"))}
    ends = {name: value for name, value in small["text_config"].items() if name.endswith("_id")}
    rope = {"rope_type": "default", **ROPES[public.config["model_type"]]}
    text |= {**ends, "max_position_embeddings": 32_768, "rope_parameters": rope}
    content = {**public.config, **ids, "text_config": text, "dtype": "bfloat16"}
    content["architectures"] = small["architectures"]
    if "image_seq_length" in small:
        vision = public.config["vision_config"]
        content["image_seq_length"] = (vision["image_size"] // vision["patch_size"]) ** 2
        content.pop("image_token_id", None)
    return content


def _processor(public: Record, miniature: Path) -> Json:
    """The miniature's processor, which cuts pictures as the public model's does."""
    content = _read(miniature / "processor_config.json")
    images, vision = content["image_processor"], public.config["vision_config"]
    if public.images["cut"] == "grid":
        least, most = public.images["min_pixels"], public.images["max_pixels"]
        images["size"] = {"shortest_edge": least, "longest_edge": most}
        for part in (images, content["video_processor"]):
            part |= {"patch_size": vision["patch_size"], "merge_size": MERGE}
    else:
        images |= _square(vision)
        content["patch_size"] = vision["patch_size"]
    return content


def _write_clip(folder: Path, miniature: Path, vision: Json) -> None:
    """A whole CLIP with random weights, whose vision encoder has the size of the model's."""
    text = _read(miniature / "config.json")["text_config"] | CLIP_TEXT
    text |= {"num_hidden_layers": 12, "projection_dim": CLIP_WIDTH}
    config = CLIPConfig(text_config=text, vision_config=dict(vision), projection_dim=CLIP_WIDTH)
    torch.manual_seed(0)
    _copy(miniature, folder)
    CLIPModel(config).half().save_pretrained(folder)
    content = _read(miniature / "processor_config.json")
    content["image_processor"] |= _square(vision)
    _write(folder / "processor_config.json", content)


def _copy(miniature: Path, folder: Path) -> None:
    """A miniature's folder without its weights, and what its training left."""
    shutil.copytree(miniature, folder, ignore=shutil.ignore_patterns("*.safetensors", "*.csv"))


def _square(vision: Json) -> Json:
    """How an image processor makes the squares that the encoder takes."""
    side = {"height": vision["image_size"], "width": vision["image_size"]}
    return {"size": side, "crop_size": side}


def _read(path: Path) -> Json:
    content: Json = json.loads(path.read_text(encoding="utf-8"))
    return content


def _write(path: Path, content: Json) -> None:
    path.write_text(json.dumps(content, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
