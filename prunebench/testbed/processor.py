"""The miniatures' processor: one token a word, stock Qwen2.5-VL image and video processing, a short
chat template.
"""

from typing import Any

from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)

from prunebench.testbed.questions import END, words
from prunebench.testbed.scenes import TOKEN_PIXELS

PAD, UNKNOWN = "<|pad|>", "<|unk|>"
VISION_START, VISION_END = "<|vision_start|>", "<|vision_end|>"
IMAGE, VIDEO = "<|image_pad|>", "<|video_pad|>"
MAX_TOKENS = 576  # an image; larger images are scaled down to it


def build_tokenizer(more: tuple[str, ...] = ()) -> PreTrainedTokenizerFast:
    """The words of the scenes, `more` behind them, and the marks of Qwen2.5-VL."""
    return word_tokenizer((VISION_START, VISION_END, IMAGE, VIDEO), more)


def word_tokenizer(
    marks: tuple[str, ...], more: tuple[str, ...] = (), **settings: Any
) -> PreTrainedTokenizerFast:
    """Lower-case words of the scenes' questions and answers; punctuation is dropped, any other word
    is unknown.

    `marks` are the special tokens besides those for padding, the end and unknown words, `more`
    further words; `settings` go to the tokenizer.
    """
    special = (PAD, END, UNKNOWN, *marks)
    vocabulary = {word: index for index, word in enumerate(special + words() + more)}
    core = Tokenizer(WordLevel(vocabulary, unk_token=UNKNOWN))
    core.normalizer = normalizers.Sequence(
        [normalizers.Lowercase(), normalizers.Replace(Regex(r"[^\w\s]"), " ")]
    )
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    usual = {"padding_side": "left", "model_max_length": 4096}
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD,
        eos_token=END,
        unk_token=UNKNOWN,
        additional_special_tokens=list(marks),
        model_input_names=["input_ids", "attention_mask"],
        **(usual | settings),
    )


def chat_template(*, image: str, video: str | None = None, start: str = "") -> str:
    """Jinja that writes `start`, then the messages' parts one after the other, `image` and `video`
    for pictures and films.
    """
    # Nothing stands between the question's last word and the answer, on purpose: whatever stands
    # there must first copy the word that selects the object and then look it up, which a model of
    # this size does not learn in the time it has.
    films = "" if video is None else "{%- elif part['type'] == 'video' -%}" + video
    return (
        start + "{%- for message in messages if message['role'] != 'system' -%}"
        "{%- if message['content'] is string -%}{{ message['content'] }}"
        "{%- else -%}{%- for part in message['content'] -%}"
        "{%- if part['type'] == 'image' or 'image_url' in part -%}"
        + image
        + films
        + "{%- elif part['type'] == 'text' -%}"
        "{{ part['text'] }}{%- endif -%}"
        "{%- endfor -%}{%- endif -%}"
        "{%- if message['role'] == 'assistant' -%}" + END + "{%- endif -%}"
        "{%- endfor -%}"
    )


def pixel_settings() -> dict[str, Any]:
    """14-px patches merged 2x2; images whose sides are multiples of 28 px are not resized up to 576
    tokens.
    """
    size = {
        "shortest_edge": TOKEN_PIXELS * TOKEN_PIXELS,
        "longest_edge": TOKEN_PIXELS * TOKEN_PIXELS * MAX_TOKENS,
    }
    return {
        "patch_size": 14,
        "merge_size": 2,
        "temporal_patch_size": 2,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
        "size": size,
    }


def build_processor(more: tuple[str, ...] = ()) -> Qwen2_5_VLProcessor:
    """The stock processing of images and videos, and the tokenizer of the words and of `more`."""
    pixels = pixel_settings()
    return Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(**pixels),
        tokenizer=build_tokenizer(more),
        video_processor=Qwen2VLVideoProcessor(**pixels),
        chat_template=chat_template(
            image=VISION_START + IMAGE + VISION_END, video=VISION_START + VIDEO + VISION_END
        ),
    )
