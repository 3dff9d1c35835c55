"""Signals: what the engine can observe for a method beside features and layout, a row a signal.

A row says where a signal comes from, where in the model it therefore exists, what shape it has and
what random values stand for it in tests. A new signal is a row here, an accessor in observations.py
and a reader in the part of the engine that its origin names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import Any

from prunebench.sites import INPUT, Part, Site
from prunebench.sizes import Sizes


class Origin(Enum):
    """Which part of the engine computes a signal."""

    BEFORE = "before"
    """From the attention of the LLM layer before the site: engine/views.py."""
    BEHIND = "behind"
    """From the attention of the LLM layer behind the site, run dry: engine/views.py."""
    LAYERS = "layers"
    """From what enters and leaves LLM layers before the site: engine/transitions.py."""
    PROBE = "probe"
    """From a token that the method adds behind the prompt (`Reads.probe`): engine/views.py."""
    STREAM = "stream"
    """From the rows that enter the site: engine/views.py."""
    ENCODER = "encoder"
    """From blocks of the vision encoder, those that `Reads.blocks` names: engine/readings.py."""
    CLIP_CROPS = "clip crops"
    """From the CLIP that `Reads.clip` names, shown what the encoder sees (engine/encoder.py), or
    the pictures themselves where that is no CLIP's (engine/beside.py).
    """
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
    Origin.LAYERS: frozenset({Part.LLM}),
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
class Row:
    """What there is to say of one signal.

    `shape` names its axes (`SignalReadings` says what they are), `token_axes` those that run over
    the visual tokens, if any; `example` makes random values that a test can show a method.
    Some signals do not exist without an `argument` of `prune`, or in families of models that lack
    a `feature`, a flag of theirs.
    """

    name: str
    origin: Origin
    shape: str
    token_axes: tuple[int, ...]
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
        (1,),
        lambda sizes: sizes.attention("paid by text", sizes.heads, sizes.behind)[:, -1],
    )
    NEXT_QUERY_ATTENTION = Row(
        "next_query_attention",
        Origin.BEHIND,
        "[H, N]",
        (1,),
        lambda sizes: sizes.attention("paid behind", sizes.heads),
    )
    TEXT_ATTENTION = Row(
        "text_attention",
        Origin.BEFORE,
        "[H, Q, N]",
        (2,),
        lambda sizes: sizes.attention("paid by text", sizes.heads, sizes.behind),
    )
    KEYS = Row(
        "keys",
        Origin.BEFORE,
        "[H_kv, N, d_h]",
        (1,),
        lambda sizes: sizes.normal("keys", sizes.kv_heads, sizes.tokens, sizes.head_width),
    )
    VISUAL_ATTENTION = Row(
        "visual_attention", Origin.BEFORE, "[H, N, N]", (1, 2), Sizes.visual_attention
    )
    PROMPT_QUERIES = Row(
        "prompt_queries",
        Origin.BEFORE,
        "[H, S, d_h]",
        (),
        lambda sizes: sizes.heads_of_prompt("queries", sizes.heads),
    )
    PROMPT_KEYS = Row(
        "prompt_keys",
        Origin.BEFORE,
        "[H_kv, S, d_h]",
        (),
        lambda sizes: sizes.heads_of_prompt("prompt keys", sizes.kv_heads),
    )
    PROMPT_VALUES = Row(
        "prompt_values",
        Origin.BEFORE,
        "[H_kv, S, d_h]",
        (),
        lambda sizes: sizes.heads_of_prompt("values", sizes.kv_heads),
    )
    NEXT_TEXT_ATTENTION = Row(
        "next_text_attention",
        Origin.BEHIND,
        "[H, Q, N]",
        (2,),
        lambda sizes: sizes.attention("paid behind by text", sizes.heads, sizes.behind),
    )
    NEXT_QUERIES = Row(
        "next_queries",
        Origin.BEHIND,
        "[H, S, d_h]",
        (),
        lambda sizes: sizes.heads_of_prompt("next queries", sizes.heads),
    )
    NEXT_KEYS = Row(
        "next_keys",
        Origin.BEHIND,
        "[H_kv, S, d_h]",
        (),
        lambda sizes: sizes.heads_of_prompt("next keys", sizes.kv_heads),
    )
    NEXT_ROTATED_KEYS = Row(
        "next_rotated_keys",
        Origin.BEHIND,
        "[H_kv, S, d_h]",
        (),
        lambda sizes: sizes.heads_of_prompt("next rotated keys", sizes.kv_heads),
    )
    EARLIER_FEATURES = Row(
        "earlier_features",
        Origin.LAYERS,
        "[N, D]",
        (0,),
        lambda sizes: sizes.normal("earlier features", sizes.tokens, sizes.width),
    )
    TRANSITIONS = Row("transitions", Origin.LAYERS, "[J, 2, S, 2]", (), Sizes.transitions)
    TEXT_FEATURES = Row(
        "text_features",
        Origin.STREAM,
        "[M, D]",
        (),
        lambda sizes: sizes.normal("text features", sizes.text, sizes.width),
    )
    VISUAL_PLACES = Row("visual_places", Origin.STREAM, "[N]", (0,), Sizes.visual_places)
    TEXT_PLACES = Row("text_places", Origin.STREAM, "[M]", (), Sizes.text_places)
    POSITION_IDS = Row("position_ids", Origin.STREAM, "[P, S]", (), Sizes.position_ids)
    PROBE_LOGITS = Row(
        "probe_logits",
        Origin.PROBE,
        "[H, N]",
        (1,),
        lambda sizes: 2 * sizes.normal("probe logits", sizes.heads, sizes.tokens),
    )
    PROBE_LOG_ATTENTION = Row(
        "probe_log_attention",
        Origin.PROBE,
        "[H, N]",
        (1,),
        lambda sizes: sizes.attention("paid by the probe", sizes.heads).log(),
    )
    CLS_ATTENTION = Row(
        "cls_attention",
        Origin.ENCODER,
        "[B, H, N]",
        (2,),
        lambda sizes: sizes.encoder_attention("paid by CLS"),
        feature="cls",
    )
    RECEIVED_ATTENTION = Row(
        "received_attention",
        Origin.ENCODER,
        "[B, H, N]",
        (2,),
        lambda sizes: sizes.encoder_attention("received"),
    )
    ENCODER_FEATURES = Row(
        "encoder_features",
        Origin.ENCODER,
        "[B, N, D_v]",
        (1,),
        lambda sizes: sizes.normal(
            "encoder features", sizes.blocks, sizes.tokens, sizes.encoder_width
        ),
    )
    ENCODER_KEYS = Row(
        "encoder_keys",
        Origin.ENCODER,
        "[B, H, N, d_h]",
        (2,),
        lambda sizes: sizes.heads_of_encoder("encoder keys", sizes.tokens),
    )
    ENCODER_VALUES = Row(
        "encoder_values",
        Origin.ENCODER,
        "[B, H, N, d_h]",
        (2,),
        lambda sizes: sizes.heads_of_encoder("encoder values", sizes.tokens),
    )
    CLS_FEATURES = Row(
        "cls_features",
        Origin.ENCODER,
        "[B, T, D_v]",
        (),
        lambda sizes: sizes.normal("CLS", sizes.blocks, sizes.tiles, sizes.encoder_width),
        feature="cls",
    )
    CLS_QUERIES = Row(
        "cls_queries",
        Origin.ENCODER,
        "[B, H, T, d_h]",
        (),
        lambda sizes: sizes.heads_of_encoder("CLS queries", sizes.tiles),
        feature="cls",
    )
    CLS_KEYS = Row(
        "cls_keys",
        Origin.ENCODER,
        "[B, H, T, d_h]",
        (),
        lambda sizes: sizes.heads_of_encoder("CLS keys", sizes.tiles),
        feature="cls",
    )
    CLS_VALUES = Row(
        "cls_values",
        Origin.ENCODER,
        "[B, H, T, d_h]",
        (),
        lambda sizes: sizes.heads_of_encoder("CLS values", sizes.tiles),
        feature="cls",
    )
    CLIP_TEXT = Row(
        "clip_text",
        Origin.CLIP_TEXTS,
        "[M, P]",
        (),
        lambda sizes: sizes.normal("CLIP text", sizes.texts, sizes.clip_width),
        argument="questions",
        feature="clipped",
    )
    CLIP_TEXT_TOKENS = Row(
        "clip_text_tokens",
        Origin.CLIP_TEXTS,
        "[M, L, P]",
        (),
        lambda sizes: sizes.normal("CLIP text tokens", sizes.texts, 9, sizes.clip_width),
        argument="questions",
        feature="clipped",
    )
    CLIP_TILES = Row(
        "clip_tiles",
        Origin.CLIP_CROPS,
        "[T, P]",
        (),
        lambda sizes: sizes.normal("CLIP tiles", sizes.tiles, sizes.clip_width),
        feature="clipped",
    )
    CLIP_PATCHES = Row(
        "clip_patches",
        Origin.CLIP_CROPS,
        "[N, P]",
        (0,),
        lambda sizes: sizes.normal("CLIP patches", sizes.tokens, sizes.clip_width),
        feature="clipped",
    )
    TEXT_PIECES = Row(
        "text_pieces",
        Origin.CALLER,
        "M strings",
        (),
        lambda sizes: tuple(sizes.question.split()),
        argument="processor",
    )
    PICTURES = Row(
        "pictures",
        Origin.CALLER,
        "[F, H, W, 3] uint8 an image",
        (),
        Sizes.pixels,
        argument="pictures",
    )
    MASKS = Row(
        "masks",
        Origin.CALLER,
        "[Q, H, W] bool an image",
        (),
        lambda sizes: tuple((one[0, ..., :2].movedim(-1, 0) > 150) for one in sizes.pixels()),
        argument="masks",
    )
    TILES = Row("tiles", Origin.FAMILY, "", (), lambda sizes: None, feature="tiled")

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

LAYERS = signals_of(Origin.LAYERS)
"""Signals of what enters and leaves LLM layers before the site.

`Reads.layers` names the layers of those whose first axis runs over layers.
"""

ATTENTION = signals_of(Origin.BEFORE, Origin.BEHIND, Origin.PROBE)
"""Signals that exist only where an LLM layer's attention does."""

ENCODER = signals_of(Origin.ENCODER)
"""Signals observed in the vision encoder.

Their first axis runs over the blocks that `Reads.blocks` names.
"""

CLIP_TEXTS = signals_of(Origin.CLIP_TEXTS)
"""Signals of the texts that `Reads.texts` makes of the question."""

CLIP_CROPS = signals_of(Origin.CLIP_CROPS)
"""Signals of what a CLIP sees."""

CLIP = CLIP_CROPS | CLIP_TEXTS
"""Signals of the CLIP that `Reads.clip` names."""

SEEN = signals_of(Origin.ENCODER, Origin.CLIP_CROPS)
"""Signals that exist once the vision encoder has run."""

GIVEN = signals_of(Origin.CALLER)
"""Signals that only the caller can give: the tokenizer, the images, masks of what they show."""

TOKEN_AXES = {signal: signal.row.token_axes for signal in Signal if signal.row.token_axes}
"""Which axes of a signal run over the visual tokens; the others have none."""
