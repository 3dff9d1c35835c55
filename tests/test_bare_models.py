"""Bare models: folders of public configurations that a bench loads without a hub."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from PIL import Image
from transformers import AutoConfig, AutoProcessor

from prunebench.pricing.counting import stock_model
from prunebench.pricing.public import record

SCRIPT = Path(__file__).parents[1] / "tools" / "bare_models.py"
SPEC = importlib.util.spec_from_file_location("bare_models", SCRIPT)
assert SPEC is not None
assert SPEC.loader is not None
bare_models = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(bare_models)


@pytest.mark.parametrize(
    ("name", "size", "tokens"),
    [
        ("Qwen/Qwen2.5-VL-7B-Instruct", (1008, 1008), 1296),
        ("Qwen/Qwen3-VL-8B-Instruct", (1152, 1152), 1296),
        ("llava-hf/llava-1.5-7b-hf", (500, 300), 576),
    ],
)
def test_a_folder_is_the_public_model_with_the_words_of_a_miniature(
    tmp_path: Path, name: str, size: tuple[int, int], tokens: int
) -> None:
    (tmp_path / "clip").mkdir()  # writing one takes a gigabyte
    bare_models.main([str(tmp_path), name])
    folder = tmp_path / name.rpartition("/")[2]
    config = AutoConfig.from_pretrained(folder)
    assert not list(folder.glob("*.safetensors"))
    model = stock_model(config.to_dict())
    public = stock_model(record(name).config)
    shapes = {key: value.shape for key, value in model.named_parameters()}
    assert shapes == {key: value.shape for key, value in public.named_parameters()}
    processor = AutoProcessor.from_pretrained(folder)
    conversation = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "a"}]}]
    prompt = processor.apply_chat_template(conversation, add_generation_prompt=True)
    inputs = processor(images=Image.new("RGB", size), text=prompt, return_tensors="pt")
    image = config.image_token_id
    assert (inputs["input_ids"] == image).sum() == tokens
