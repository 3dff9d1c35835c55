"""Signals: what the engine can observe for a method beside features and layout, a row a signal.

A row says where a signal comes from, where in the model it therefore exists, what shape it has and
what random values stand for it in tests. A new signal is a row and an accessor here, and a reader
in the part of the engine that its origin names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import Any
from zlib import crc32

import torch
from torch import Tensor

from prunebench.sites import INPUT, Part, Site


class Origin(Enum):
    """Which part of the engine computes a signal."""

    BEFORE = "before"
    """From the attention of the LLM layer before the site: engine/reading.py."""
    BEHIND = "behind"
    """From the attention of the LLM layer behind the site, run dry: engine/reading.py."""
    PROBE = "probe"
    """From a token that the method adds behind the prompt (`Reads.probe`): engine/reading.py."""
    STREAM = "stream"
    """From the rows that enter the site: engine/reading.py."""
    ENCODER = "encoder"
    """From blocks of the vision encoder, those that `Reads.blocks` names: engine/encoder.py."""
    CLIP_CROPS = "clip crops"
    """From the CLIP that `Reads.clip` names, shown what the encoder sees: engine/encoder.py."""
    CLIP_TEXTS = "clip texts"
    """From the same CLIP, of the texts that `Reads.texts` makes: engine/reading.py."""
    CALLER = "caller"
    """From whoever calls `prune`: engine/call.py."""
    FAMILY = "family"
    """Nothing to look at: it says that the method makes sense for some families of models only."""


EVERYWHERE = frozenset(Part)

PARTS: Mapping[Origin, frozenset[Part]] = {
    Origin.BEFORE: frozenset({Part.LLM}),
    Origin.BEHIND: frozenset({Part.LLM}),
    Origin.PROBE: frozenset({Part.LLM}),
    Origin.STREAM: frozenset({Part.INPUT, Part.LLM}),
    Origin.ENCODER: frozenset({Part.VISION, Part.INPUT, Part.LLM}),
    Origin.CLIP_CROPS: frozenset({Part.VISION, Part.INPUT, Part.LLM}),
    Origin.CLIP_TEXTS: EVERYWHERE,
    Origin.CALLER: EVERYWHERE,
    Origin.FAMILY: EVERYWHERE,
}
"""In which parts of the model a stage can be shown the signals of an origin."""


@dataclass(frozen=True)
class Sizes:
    """How large the example of a signal is: a sample of `tokens` visual tokens in `tiles` grids.

    `image` [F, H, W, 3] are the pixels of one of its `images`; `blocks` and `texts` say of how many
    encoder blocks and texts there are values. Equal seeds give equal values.
    """

    tokens: int
    tiles: int
    images: int
    image: tuple[int, int, int, int]
    width: int = 16
    heads: int = 4
    text: int = 7
    encoder_width: int = 12
    clip_width: int = 10
    blocks: int = 1
    texts: int = 1
    question: str = ""
    seed: int = 0

    def generator(self, name: str) -> torch.Generator:
        """Random numbers of that name, the same whatever else is drawn."""
        # no hash(), which differs from process to process
        return torch.Generator().manual_seed(crc32(f"{self.seed} {name}".encode()))

    def normal(self, name: str, *shape: int) -> Tensor:
        """Normal values of that name."""
        return torch.randn(*shape, generator=self.generator(name))

    def attention(self, name: str, *shape: int) -> Tensor:
        """Rows of attention over the visual tokens and the text behind them, cut to the tokens."""
        return (2 * self.normal(name, *shape, self.tokens + self.text)).softmax(-1)[
            ..., : self.tokens
        ]

    def pixels(self) -> tuple[Tensor, ...]:
        """Pictures [F, H, W, 3] uint8."""
        shape = (self.images, *self.image)
        values = torch.randint(256, shape, generator=self.generator("pixels"), dtype=torch.uint8)
        return tuple(values)


@dataclass(frozen=True)
class Row:
    """What there is to say of one signal.

    `shape` names its axes (`SignalReadings` says what they are), `token_axis` the one that runs
    over the visual tokens, if any; `example` makes random values that a test can show a method.
    Some signals do not exist without an `argument` of `prune`, or in families of models that lack
    a `feature`, a flag of theirs.
    """

    name: str
    origin: Origin
    shape: str
    token_axis: int | None
    example: Callable[[Sizes], Any]
    argument: str = ""
    feature: str = ""


class Signal(StrEnum):
    """A name that goes into a method's `needs`; what is not declared is not computed."""

    row: Row

    def __new__(cls, row: Row) -> Signal:
        member = str.__new__(cls, row.name)
        member._value_ = row.name
        member.row = row
        return member

    LAST_QUERY_ATTENTION = Row(
        "last_query_attention",
        Origin.BEFORE,
        "[H, N]",
        1,
        lambda sizes: sizes.attention("paid by text", sizes.heads, sizes.text)[:, -1],
    )
    NEXT_QUERY_ATTENTION = Row(
        "next_query_attention",
        Origin.BEHIND,
        "[H, N]",
        1,
        lambda sizes: sizes.attention("paid behind", sizes.heads),
    )
    TEXT_ATTENTION = Row(
        "text_attention",
        Origin.BEFORE,
        "[H, Q, N]",
        2,
        lambda sizes: sizes.attention("paid by text", sizes.heads, sizes.text),
    )
    KEYS = Row(
        "keys",
        Origin.BEFORE,
        "[H_kv, N, d_h]",
        1,
        lambda sizes: sizes.normal("keys", sizes.heads // 2, sizes.tokens, 8),
    )
    TEXT_FEATURES = Row(
        "text_features",
        Origin.STREAM,
        "[M, D]",
        None,
        lambda sizes: sizes.normal("text features", sizes.text, sizes.width),
    )
    PROBE_LOGITS = Row(
        "probe_logits",
        Origin.PROBE,
        "[H, N]",
        1,
        lambda sizes: 2 * sizes.normal("probe logits", sizes.heads, sizes.tokens),
    )
    PROBE_LOG_ATTENTION = Row(
        "probe_log_attention",
        Origin.PROBE,
        "[H, N]",
        1,
        lambda sizes: sizes.attention("paid by the probe", sizes.heads).log(),
    )
    CLS_ATTENTION = Row(
        "cls_attention",
        Origin.ENCODER,
        "[B, H, N]",
        2,
        lambda sizes: sizes.normal("paid by CLS", sizes.blocks, sizes.heads, sizes.tokens).softmax(
            -1
        ),
        feature="cls",
    )
    RECEIVED_ATTENTION = Row(
        "received_attention",
        Origin.ENCODER,
        "[B, H, N]",
        2,
        lambda sizes: sizes.normal("received", sizes.blocks, sizes.heads, sizes.tokens).softmax(-1),
    )
    ENCODER_FEATURES = Row(
        "encoder_features",
        Origin.ENCODER,
        "[B, N, D_v]",
        1,
        lambda sizes: sizes.normal(
            "encoder features", sizes.blocks, sizes.tokens, sizes.encoder_width
        ),
    )
    ENCODER_KEYS = Row(
        "encoder_keys",
        Origin.ENCODER,
        "[B, H, N, d_h]",
        2,
        lambda sizes: sizes.normal("encoder keys", sizes.blocks, sizes.heads, sizes.tokens, 8),
    )
    CLS_FEATURES = Row(
        "cls_features",
        Origin.ENCODER,
        "[B, T, D_v]",
        None,
        lambda sizes: sizes.normal("CLS", sizes.blocks, sizes.tiles, sizes.encoder_width),
        feature="cls",
    )
    CLIP_TEXT = Row(
        "clip_text",
        Origin.CLIP_TEXTS,
        "[M, P]",
        None,
        lambda sizes: sizes.normal("CLIP text", sizes.texts, sizes.clip_width),
        argument="questions",
        feature="clipped",
    )
    CLIP_TILES = Row(
        "clip_tiles",
        Origin.CLIP_CROPS,
        "[T, P]",
        None,
        lambda sizes: sizes.normal("CLIP tiles", sizes.tiles, sizes.clip_width),
        feature="clipped",
    )
    CLIP_PATCHES = Row(
        "clip_patches",
        Origin.CLIP_CROPS,
        "[N, P]",
        0,
        lambda sizes: sizes.normal("CLIP patches", sizes.tokens, sizes.clip_width),
        feature="clipped",
    )
    TEXT_PIECES = Row(
        "text_pieces",
        Origin.CALLER,
        "M strings",
        None,
        lambda sizes: tuple(sizes.question.split()),
        argument="processor",
    )
    PICTURES = Row(
        "pictures",
        Origin.CALLER,
        "[F, H, W, 3] uint8 an image",
        None,
        lambda sizes: sizes.pixels(),
        argument="pictures",
    )
    MASKS = Row(
        "masks",
        Origin.CALLER,
        "[Q, H, W] bool an image",
        None,
        lambda sizes: tuple((one[0, ..., :2].movedim(-1, 0) > 150) for one in sizes.pixels()),
        argument="masks",
    )
    TILES = Row("tiles", Origin.FAMILY, "", None, lambda sizes: None, feature="tiled")

    @property
    def parts(self) -> frozenset[Part]:
        """In which parts of the model a stage can be shown it."""
        return PARTS[self.row.origin]

    def exists_at(self, site: Site) -> bool:
        """Whether a stage at that site can be shown it."""
        return site.part in self.parts

    @property
    def whereabouts(self) -> str:
        """Why it does not exist at some sites, and where it does."""
        if self.parts == {Part.LLM}:
            return "where no LLM layer has run; prune at llm:1 or later"
        return f"which comes before the language model; prune at {INPUT} or later"


def signals_of(*origins: Origin) -> frozenset[Signal]:
    """All signals that come from there."""
    return frozenset(signal for signal in Signal if signal.row.origin in origins)


BEFORE = signals_of(Origin.BEFORE)
"""Signals read in the layer before the site."""

BEHIND = signals_of(Origin.BEHIND)
"""Signals read in the layer behind the site."""

PROBE = signals_of(Origin.PROBE)
"""Signals of the token that `Reads.probe` adds behind the prompt."""

ATTENTION = signals_of(Origin.BEFORE, Origin.BEHIND, Origin.PROBE)
"""Signals that exist only where an LLM layer's attention does."""

ENCODER = signals_of(Origin.ENCODER)
"""Signals observed in the vision encoder.

Their first axis runs over the blocks that `Reads.blocks` names.
"""

CLIP = signals_of(Origin.CLIP_CROPS, Origin.CLIP_TEXTS)
"""Signals of the CLIP that `Reads.clip` names, which sees what the vision encoder sees."""

SEEN = signals_of(Origin.ENCODER, Origin.CLIP_CROPS)
"""Signals that exist once the vision encoder has run."""

GIVEN = signals_of(Origin.CALLER)
"""Signals that only the caller can give: the tokenizer, the images, masks of what they show."""

TOKEN_AXIS = {
    signal: signal.row.token_axis for signal in Signal if signal.row.token_axis is not None
}
"""Which axis of a signal runs over the visual tokens; the others have none."""


class NotShown(AttributeError):
    """A signal that a stage is not shown: it was not declared, or does not exist there."""


class SignalReadings:
    """The signals of a sample by name, as attributes that say what they hold.

    Each raises NotShown where the method has not declared the signal, or where it does not exist at
    the stage.
    """

    site: Site
    signals: Mapping[Signal, Any]
    absent: frozenset[Signal]

    @property
    def last_query_attention(self) -> Tensor:
        """[H, N] post-softmax attention the last prompt token pays, in the layer before the site
        (over all visible keys).
        """
        return self._tensor(Signal.LAST_QUERY_ATTENTION)

    @property
    def next_query_attention(self) -> Tensor:
        """[H, N] the same, in the layer *behind* the site, from its own norm and projections; costs
        those once more.
        """
        return self._tensor(Signal.NEXT_QUERY_ATTENTION)

    @property
    def text_attention(self) -> Tensor:
        """[H, Q, N] attention the Q text tokens after the first visual one pay, in the layer before
        the site.
        """
        return self._tensor(Signal.TEXT_ATTENTION)

    @property
    def keys(self) -> Tensor:
        """[H_kv, N, d_h] rotated keys of the layer before the site."""
        return self._tensor(Signal.KEYS)

    @property
    def text_features(self) -> Tensor:
        """[M, D] the text tokens' rows of the same stream at the site."""
        return self._tensor(Signal.TEXT_FEATURES)

    @property
    def cls_attention(self) -> Tensor:
        """[B, H, N] attention the CLS token of a token's tile pays to it in each of the B encoder
        blocks asked for.

        The mean over the patches the token was made of (softmax over CLS and patches); 0 for
        newlines.
        """
        return self._tensor(Signal.CLS_ATTENTION)

    @property
    def received_attention(self) -> Tensor:
        """[B, H, N] attention a token's patches receive in the encoder, averaged over the queries
        that may see them.
        """
        return self._tensor(Signal.RECEIVED_ATTENTION)

    @property
    def encoder_features(self) -> Tensor:
        """[B, N, D_v] output of the B encoder blocks asked for, averaged over the token's patches;
        0 for newlines.
        """
        return self._tensor(Signal.ENCODER_FEATURES)

    @property
    def encoder_keys(self) -> Tensor:
        """[B, H, N, d_h] keys of the encoder's attention as its kernel gets them, averaged over the
        token's patches.
        """
        return self._tensor(Signal.ENCODER_KEYS)

    @property
    def cls_features(self) -> Tensor:
        """[B, T, D_v] the CLS token of every tile, as the encoder blocks asked for put it out."""
        return self._tensor(Signal.CLS_FEATURES)

    @property
    def probe_logits(self) -> Tensor:
        """[H, N] scaled products of the probe token's query and the tokens' keys, rotated, in the
        layer before the site.
        """
        return self._tensor(Signal.PROBE_LOGITS)

    @property
    def probe_log_attention(self) -> Tensor:
        """[H, N] log of the attention the probe token pays there; the softmax runs over the whole
        prompt and the probe.
        """
        return self._tensor(Signal.PROBE_LOG_ATTENTION)

    @property
    def clip_text(self) -> Tensor:
        """[M, P] CLIP's embeddings of the texts that `Reads.texts` makes of the question; not
        normalised.
        """
        return self._tensor(Signal.CLIP_TEXT)

    @property
    def clip_tiles(self) -> Tensor:
        """[T, P] CLIP's embeddings of the tiles; not normalised."""
        return self._tensor(Signal.CLIP_TILES)

    @property
    def clip_patches(self) -> Tensor:
        """[N, P] CLIP's final norm and projection of the patches, averaged over the token's; not
        normalised, 0 for newlines.
        """
        return self._tensor(Signal.CLIP_PATCHES)

    @property
    def text_pieces(self) -> tuple[str, ...]:
        """M strings: what each row of `text_features` says."""
        return self._signal(Signal.TEXT_PIECES)  # type: ignore[no-any-return]

    @property
    def pictures(self) -> tuple[Tensor, ...]:
        """The images and videos, [F, H, W, 3] uint8 each (an image is one frame), as they were
        before the processor.
        """
        return self._signal(Signal.PICTURES)  # type: ignore[no-any-return]

    @property
    def masks(self) -> tuple[Tensor, ...]:
        """Per image [Q, H, W] bool: the masks of Q things it shows; a pixel may lie in none or in
        several.
        """
        return self._signal(Signal.MASKS)  # type: ignore[no-any-return]

    def _tensor(self, signal: Signal) -> Tensor:
        value: Tensor = self._signal(signal)
        return value

    def _signal(self, signal: Signal) -> Any:
        if signal in self.signals:
            return self.signals[signal]
        if signal not in self.absent:
            raise NotShown(
                f"{signal} was not asked for: add Signal.{signal.name} to the pruner's `needs`"
            )
        if signal.exists_at(self.site):
            raise NotShown(f"{signal} is read at other stages, not at {self.site}")
        raise NotShown(f"{signal} does not exist at {self.site}, {signal.whereabouts}")
