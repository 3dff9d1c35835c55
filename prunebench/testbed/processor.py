"""The miniatures' processor: one token a word, stock Qwen2.5-VL image and video processing, a short chat template."""

from typing import Any

from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast, Qwen2_5_VLProcessor, Qwen2VLImageProcessor, Qwen2VLVideoProcessor

from prunebench.testbed.scenes import CELL, words

PAD, END, UNKNOWN = "<|pad|>", "<|im_end|>", "<|unk|>"
VISION_START, VISION_END, IMAGE, VIDEO = "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"
MAX_TOKENS = 256  # an image; larger images are scaled down to it

# Nothing stands between the question's last word and the answer, on purpose: whatever stands there must first copy the
# word that selects the object and then look it up, and a model of this size does not learn that in the time it has.
CHAT_TEMPLATE = (
    "{%- for message in messages if message['role'] != 'system' -%}"
    "{%- if message['content'] is string -%}{{ message['content'] }}"
    "{%- else -%}{%- for part in message['content'] -%}"
    "{%- if part['type'] == 'image' or 'image_url' in part -%}"
    + VISION_START
    + IMAGE
    + VISION_END
    + "{%- elif part['type'] == 'video' -%}"
    "" + VISION_START + VIDEO + VISION_END + "{%- elif part['type'] == 'text' -%}{{ part['text'] }}{%- endif -%}"
    "{%- endfor -%}{%- endif -%}"
    "{%- if message['role'] == 'assistant' -%}" + END + "{%- endif -%}"
    "{%- endfor -%}"
)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Lower-case words of the scenes' questions and answers; punctuation is dropped, any other word is unknown."""
    special = (PAD, END, UNKNOWN, VISION_START, VISION_END, IMAGE, VIDEO)
    core = Tokenizer(WordLevel({word: index for index, word in enumerate(special + words())}, unk_token=UNKNOWN))
    core.normalizer = normalizers.Sequence([normalizers.Lowercase(), normalizers.Replace(Regex(r"[^\w\s]"), " ")])
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=core,
        pad_token=PAD,
        eos_token=END,
        unk_token=UNKNOWN,
        additional_special_tokens=[VISION_START, VISION_END, IMAGE, VIDEO],
        padding_side="left",
        model_max_length=4096,
        model_input_names=["input_ids", "attention_mask"],
    )


def build_processor() -> Qwen2_5_VLProcessor:
    """14-px patches merged 2x2; images whose sides are multiples of 28 px are not resized up to 256 tokens."""
    size = {"shortest_edge": CELL * CELL, "longest_edge": CELL * CELL * MAX_TOKENS}
    pixels: dict[str, Any] = {
        "patch_size": 14,
        "merge_size": 2,
        "temporal_patch_size": 2,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
        "size": size,
    }
    return Qwen2_5_VLProcessor(  # type: ignore[no-untyped-call]
        image_processor=Qwen2VLImageProcessor(**pixels),
        tokenizer=build_tokenizer(),
        video_processor=Qwen2VLVideoProcessor(**pixels),
        chat_template=CHAT_TEMPLATE,
    )
