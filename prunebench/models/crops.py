"""Vision transformers that take square crops of one size, each a sequence of its own: what their
families share.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from prunebench.models.arithmetic import encoder_block, linear
from prunebench.models.base import KNOWN_GOOD, Unsupported


def side(vision_config: Any) -> int:
    """Patches along one side of a crop."""
    return edge(vision_config.image_size) // edge(vision_config.patch_size)


def edge(size: int | Sequence[int]) -> int:
    """The side of a square that a configuration gives by one number or by both; raises Unsupported
    where it is none.
    """
    sides = {size} if isinstance(size, int) else set(size)
    if len(sides) > 1:
        raise Unsupported(
            f"crops or patches of {size} pixels are not square; only square ones are known"
        )
    return sides.pop()


def vit_flops(vision_config: Any, crops: int, cls: bool) -> int:
    """FLOPs of the patch embedding and all blocks over `crops` crops, each with a CLS token where
    `cls`.
    """
    patches, width = side(vision_config) ** 2, vision_config.hidden_size
    embedding = linear(
        patches, vision_config.num_channels * edge(vision_config.patch_size) ** 2, width
    )
    block = encoder_block([patches + cls], width, vision_config.intermediate_size, gated=False)
    return int(crops * (embedding + vision_config.num_hidden_layers * block))


def mlp_flops(rows: int, *widths: int) -> int:
    """FLOPs of linear layers one behind the other, from `widths[0]` to `widths[-1]`."""
    return sum(linear(rows, before, after) for before, after in itertools.pairwise(widths))


def feature_block(config: Any, depth: int) -> int:
    """The block whose output is `hidden_states[config.vision_feature_layer]`, of which entry 0 is
    the embedding.

    Where several layers are concatenated, the deepest. Raises Unsupported where no block's output
    is read.
    """
    layers = _feature_layers(config, depth)
    if max(layers) == 0:
        raise Unsupported(
            f"vision_feature_layer {config.vision_feature_layer} is the patch embedding; "
            "there is no block behind which to look"
        )
    return max(layers) - 1


def feature_blocks(config: Any, depth: int) -> tuple[int, ...]:
    """All blocks whose output the projector reads, where several layers are concatenated."""
    return tuple(layer - 1 for layer in _feature_layers(config, depth) if layer > 0)


def _feature_layers(config: Any, depth: int) -> list[int]:
    """The entries of the hidden states that the projector reads, counted from the embedding, 0."""
    layers = config.vision_feature_layer
    if not isinstance(layers, list | tuple):
        layers = [layers]
    return [int(layer) % (depth + 1) for layer in layers]


def expect_encoder(config: Any, family: str, *kinds: str) -> None:
    """Raise Unsupported where the checkpoint pairs a model with a vision encoder that its family
    does not know.
    """
    kind = config.vision_config.model_type
    if kind not in kinds:
        raise Unsupported(
            f"{family} with a {kind!r} encoder is not known; {' or '.join(kinds)} is (with {KNOWN_GOOD})"
        )


def clip_of(config: Any) -> str | None:
    """The CLIP of a LLaVA: the one its configuration names as `clip`, or OpenAI's ViT-L/14 at 336
    px where the sizes are its.
    """
    vision = config.vision_config
    if getattr(config, "clip", None):
        return str(config.clip)
    sizes = (vision.hidden_size, vision.num_hidden_layers, vision.patch_size, vision.image_size)
    return "openai/clip-vit-large-patch14-336" if sizes == (1024, 24, 14, 336) else None


def runs(ids: Sequence[int], placeholder: int) -> Iterator[int]:
    """Lengths of the unbroken runs of a placeholder in one prompt's ids."""
    length = 0
    for token in [*ids, None]:
        if token == placeholder:
            length += 1
        elif length:
            yield length
            length = 0


def count(ids: Tensor, placeholder: int) -> int:
    """How often the placeholder stands in one prompt's ids."""
    return int((ids == placeholder).sum())


def given(inputs: Mapping[str, Any], name: str) -> list[Any]:
    """An input tensor as lists, empty where it is missing."""
    value = inputs.get(name)
    return [] if value is None else value.tolist()
