"""Family: the facts about one LVLM family that the engine and the measurements need."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from prunebench.models import decoders
from prunebench.models.harness import Harness
from prunebench.pruner import Facts
from prunebench.pruner import Unsupported as Unsupported  # most who need a family need it
from prunebench.signals import Signal
from prunebench.tokens import Layout

KNOWN_GOOD = "transformers 5.6 to 5.23"
"""Before 5.6 the temporal positions of Qwen2.5-VL's images are wrong wherever text stands before
them.
"""

FULL = "full_attention"
"""The kind of a layer that looks at everything, as transformers names it."""
SLIDING = "sliding_attention"
"""The kind of one that looks back a number of positions."""
CHUNKED = "chunked_attention"
"""The kind of one that looks at the chunk of positions that it stands in."""
STATEFUL = frozenset({"linear_attention", "conv"})
"""Kinds of layers that keep a state of fixed size in place of keys and values."""

Part = TypeVar("Part", bound=nn.Module)

Size = tuple[int, int]
"""Width and height of an image in pixels."""


@dataclass(frozen=True)
class Originals:
    """What a batch was before the processor: the sizes of every row's images, in prompt order, and
    the processor.
    """

    sizes: Sequence[Sequence[Size]]
    processor: Any


@dataclass(frozen=True)
class EncoderRows:
    """Where one sample's visual tokens come from in the vision encoder.

    The encoder's sequences are counted through as if they stood one behind the other: those of all
    images of the batch, then those of all videos. A row is one position of them.

    `patches` [N, G] are the rows of the patches that each of N tokens was made of, -1 for a newline
    token, which was made of none. `summaries` [T] are the rows of every tile's CLS token, None
    where the encoder has no such token.
    """

    patches: Tensor
    summaries: Tensor | None = None

    def live(self, total: int, alive: Tensor) -> Tensor:
        """[total] bool: of so many rows of this sample alone, those that its tokens `alive` [n] are
        made of, and those that no token is made of.
        """
        live = torch.ones(total, dtype=torch.bool)
        live[self.patches[self.patches >= 0]] = False
        patches = self.patches[alive]
        live[patches[patches >= 0]] = True
        return live


LACKS = {
    "cls": (
        "the vision encoder of {} has no CLS token "
        f"({Signal.RECEIVED_ATTENTION} is the usual substitute)"
    ),
    "clipped": (
        "the vision encoder of {} is no CLIP's; name one that is shown the pictures with "
        "clip=openai/clip-vit-large-patch14-336 or another"
    ),
    "tiled": "{} has none",
}
"""Why a family cannot give a signal, by the flag of its own that the signal's row names."""


class Family(ABC):
    """Facts about one family of models; one subclass a file, found by `model_types`.

    The parts of the language model are named alike in every Llama-like text model of transformers,
    so those methods rarely need an override. What a family has to say is how its prompts, its
    images and its vision encoder hang together.
    """

    name: ClassVar[str]
    """What the family is called in tables and messages."""
    model_types: ClassVar[frozenset[str]]
    """`config.model_type` values of the family."""
    aliases: ClassVar[Mapping[str, str]]
    """Short names of public checkpoints, with their hub ids."""
    vision_inputs: ClassVar[tuple[str, ...]]
    """Names of the model's inputs that only the vision encoder reads; encodings take their place.
    """
    cls: ClassVar[bool] = False
    """Whether every sequence of the vision encoder starts with a CLS token."""
    tiled: ClassVar[bool] = False
    """Whether an image can come as a thumbnail and crops."""
    clipped: ClassVar[bool] = False
    """Whether the vision encoder is a CLIP's and takes crops [B, 3, H, W], so that a CLIP can be
    shown what it is shown.
    """
    projects_late: ClassVar[bool] = False
    """Whether the projector runs in the model's own forward, behind what `encode` gives."""
    cuts_inside: ClassVar[bool] = False
    """Whether the decoder is told which positions' logits are asked for, and the model takes what
    it puts out for these alone unless that is as long as the prompt.
    """
    harness: ClassVar[Harness | None] = None
    """How lmms-eval's wrapper of the family asks; None where none is known that takes chats."""
    blocks_at: ClassVar[tuple[str, ...]] = ("encoder.layers",)
    """Where the vision encoder keeps its blocks: the first of these paths that exists, because
    versions of transformers differ.
    """
    attention_at: ClassVar[str] = "self_attn"
    """Where such a block keeps the module that calls the attention function."""

    # ---- the language model ----------------------------------------------------------------------

    def decoder(self, model: nn.Module) -> nn.Module:
        """The text model that takes `inputs_embeds`."""
        decoder: nn.Module = stock(model).get_decoder()
        return decoder

    def layers(self, model: nn.Module) -> nn.ModuleList:
        """The decoder's layers in order."""
        return _part(self.decoder(model), "layers", nn.ModuleList)

    def rotary(self, model: nn.Module) -> nn.Module:
        """The module that turns position ids into rotary tables."""
        return _part(self.decoder(model), "rotary_emb", nn.Module)

    def attention(self, layer: nn.Module) -> nn.Module:
        """The self-attention module of one layer, as it is handed to the attention function."""
        return _part(layer, "self_attn", nn.Module)

    def feed_forward(self, layer: nn.Module) -> nn.Module:
        """The module of one layer that works on every row by itself, of experts or not."""
        return _part(layer, "mlp", nn.Module)

    def kinds(self, model: nn.Module) -> tuple[str, ...]:
        """Per layer, what it looks at, in transformers' words ("sliding_attention")."""
        config = config_of(self.decoder(model))
        # some models, such as Mistral, have one window for all layers and no list
        default = SLIDING if getattr(config, "sliding_window", None) else FULL
        kinds = getattr(config, "layer_types", None)
        return tuple(kinds or [default] * len(self.layers(model)))

    def stateful(self, model: nn.Module) -> frozenset[int]:
        """The layers that keep a state of fixed size in place of keys and values; they attend to
        nothing.
        """
        kinds = enumerate(self.kinds(model))
        return frozenset(number for number, kind in kinds if kind in STATEFUL)

    def tables(self, model: nn.Module, hidden: Tensor, ids: Tensor) -> Mapping[str, Any]:
        """The rotary tables of position ids [.., B, n], by the kind of layer that takes them; like
        `hidden` in device and dtype.
        """
        rotary: Any = self.rotary(model)
        # past the module's own call: the session's hook there notes the decoder's ids
        return dict.fromkeys(self.kinds(model), rotary.forward(hidden, ids.to(hidden.device)))

    def injected(self, kwargs: dict[str, Any]) -> tuple[dict[str, Any], list[Tensor]]:
        """The decoder's arguments without the visual features it adds behind its first layers, and
        those features.

        One tensor [visual tokens of the whole batch, D] a layer, in prompt order; none unless the
        family injects them.
        """
        return kwargs, []

    def layer_flops(self, text_config: Any, number: int, queries: int, keys: int) -> int:
        """FLOPs of decoder layer `number`: `queries` tokens run through it and attend to `keys`."""
        return decoders.layer(text_config, number, queries, keys)

    # ---- the vision encoder ----------------------------------------------------------------------

    def vision(self, model: nn.Module) -> nn.Module:
        """The vision encoder; some families project inside it, others behind it."""
        encoder: nn.Module = stock(model).get_encoder(modality="image")
        return encoder

    def blocks(self, model: nn.Module) -> nn.ModuleList:
        """The vision encoder's transformer blocks in order."""
        tower = self.vision(model)
        for path in self.blocks_at:
            # of a path without a dot the owner is "", which torch takes for the encoder itself
            owner, _, last = path.rpartition(".")
            try:
                return _part(tower.get_submodule(owner), last, nn.ModuleList)
            except (AttributeError, Unsupported):
                continue
        raise Unsupported(
            f"{type(tower).__name__} has no {' or '.join(self.blocks_at)}; "
            f"known to work: {KNOWN_GOOD}"
        )

    def block_attention(self, block: nn.Module) -> nn.Module:
        """The self-attention module of one vision block, as it is handed to the attention
        function.
        """
        return _part(block, self.attention_at, nn.Module)

    def feature_block(self, model: nn.Module) -> int:
        """The vision block, counted from 0, whose output the projector reads; the last one unless
        the family says otherwise.
        """
        return len(self.blocks(model)) - 1

    def feature_blocks(self, model: nn.Module) -> tuple[int, ...]:
        """All vision blocks, counted from 0, whose output the projector or the language model
        reads; the others are read by the next block alone.
        """
        return (self.feature_block(model),)

    def clip(self, model: nn.Module) -> str | None:
        """The CLIP whose vision encoder the model's began as, a hub id or a miniature's name; None
        where that is not known.
        """
        return None

    @abstractmethod
    def encode(self, model: nn.Module, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """The encoder's output by modality ("image", "video"), in the form `mm_encoder_outputs`
        takes.
        """

    @abstractmethod
    def vision_flops(self, config: Any, inputs: Mapping[str, Any]) -> tuple[int, int]:
        """FLOPs of the vision encoder and of the projector behind it, for all images and videos of
        `inputs`.
        """

    @abstractmethod
    def stretches(self, config: Any, inputs: Mapping[str, Any], block: int) -> list[int]:
        """How many rows stand in each stretch (crop, frame, window) whose rows attend to each other
        in a vision block, for all images and videos of `inputs`, in the order of the rows.
        """

    @abstractmethod
    def block_flops(self, config: Any, stretches: Sequence[int]) -> int:
        """FLOPs of one vision block over stretches of these lengths."""

    # ---- visual tokens ---------------------------------------------------------------------------

    @abstractmethod
    def placeholders(self, model: nn.Module) -> tuple[int, ...]:
        """The token ids that stand for visual features in `input_ids`."""

    def visual(self, model: nn.Module, input_ids: Tensor) -> Tensor:
        """[B, S] bool, on the CPU: which prompt positions are visual."""
        return torch.isin(input_ids.cpu(), torch.tensor(self.placeholders(model)))

    @abstractmethod
    def layouts(
        self, model: nn.Module, inputs: Mapping[str, Any], originals: Originals | None = None
    ) -> list[Layout]:
        """Per batch row, where each visual token lies; raises ValueError where ids and grids
        disagree.

        Without `originals` a tile's region is None in families whose inputs do not tell where in
        the image it lies.
        """

    @abstractmethod
    def encoder_rows(
        self, model: nn.Module, inputs: Mapping[str, Any], layouts: Sequence[Layout]
    ) -> list[EncoderRows]:
        """Per batch row, where its tokens come from in the vision encoder; `layouts` as `layouts`
        made them.
        """

    def together(self, inputs: Mapping[str, Any], visual: Tensor) -> Tensor | None:
        """[B, S] int64, on the CPU: the number of a group of positions that see each other in
        whatever order while a prompt is read, -1 for positions in none; None where every position
        sees what stands before it and no more. `visual` [B, S] are the visual positions.
        """
        return None

    def mutual(self, model: nn.Module) -> frozenset[str]:
        """Kinds of layers in which positions that `together` groups see each other; all here."""
        return frozenset(self.kinds(model))

    def token_pixels(self, model: nn.Module) -> int | None:
        """Pixels of one LLM token's side where images keep their resolution, None where it is
        fixed.
        """
        return None

    @property
    def cls_row(self) -> int | None:
        """Which row of every sequence of the vision encoder is a CLS token's; None for none."""
        return 0 if self.cls else None

    @property
    def resizes(self) -> bool:
        """Whether a smaller image has fewer tokens."""
        return type(self).token_pixels is not Family.token_pixels

    # ---- what methods are told -------------------------------------------------------------------

    def facts(self, model: nn.Module) -> Facts:
        """What methods are told of the model."""
        vision = config_of(self.vision(model))
        checkpoint = str(getattr(model.config, "_name_or_path", ""))
        # Qwen2-VL's `hidden_size` is the language model's; the encoder's own is `embed_dim` there
        vision_width = getattr(vision, "embed_dim", None) or vision.hidden_size
        return replace(
            self.decoder_facts(model),
            name=Path(checkpoint).name or None,
            vision_blocks=len(self.blocks(model)),
            vision_width=int(vision_width),
            feature_block=self.feature_block(model),
            tiled=self.tiled,
            clipped=self.clipped,
        )

    def decoder_facts(self, model: nn.Module) -> Facts:
        """What they are told of the language model alone."""
        text = config_of(self.decoder(model))
        heads, own = text.num_attention_heads, decoders.of_full_layers(text, self.kinds(model))
        return Facts(
            name=None,
            layers=len(self.layers(model)),
            width=text.hidden_size,
            heads=heads,
            eps=text.rms_norm_eps,
            kv_heads=getattr(own, "num_key_value_heads", None) or heads,
            head_width=getattr(own, "head_dim", None) or text.hidden_size // heads,
            frequencies=decoders.frequencies(self.rotary(model)),
            stateful=self.stateful(model),
            norm=getattr(self.decoder(model), "norm", None),
        )

    def lacks(self, signal: Signal) -> str | None:
        """Why the model cannot give a signal, with what is used in its stead; None where it can."""
        feature = signal.row.feature
        if not feature or getattr(self, feature):
            return None
        return LACKS[feature].format(self.name)


def config_of(module: nn.Module) -> Any:
    """A stock module's configuration. transformers declares no types for its fields, and torch
    takes any attribute of a module for a tensor or a module.
    """
    return module.config


def stock(model: nn.Module) -> Any:
    """The model as the class of transformers that it is, whose own methods torch's type does not
    have.
    """
    return model


def in_prompt_order(places: Tensor, layouts: Sequence[Layout]) -> list[Tensor]:
    """Per sample, the entries of `places` that belong to its tokens.

    `places` has one for every token of the batch, those of all images before those of all videos; a
    prompt mixes them.
    """
    of_video = [_of_video(layout) for layout in layouts]
    images = sum(int((~mask).sum()) for mask in of_video)
    start = {False: 0, True: images}
    ordered = []
    for mask in of_video:
        own = torch.empty(len(mask), dtype=torch.int64)
        for kind in (False, True):
            end = start[kind] + int((mask == kind).sum())
            own[mask == kind] = places[start[kind] : end]
            start[kind] = end
        ordered.append(own)
    return ordered


def _of_video(layout: Layout) -> Tensor:
    """[N] bool: which of a sample's tokens are a video's."""
    frames = [tile.kind == "frame" for tile in layout.tiles]
    return torch.tensor(frames, dtype=torch.bool)[layout.tile]


def _part(owner: nn.Module, name: str, kind: type[Part]) -> Part:
    part = getattr(owner, name, None)
    if not isinstance(part, kind):
        raise Unsupported(
            f"{type(owner).__name__} has no {name}; prunebench is known to work with {KNOWN_GOOD}"
        )
    return part
