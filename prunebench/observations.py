"""Observations: the signals of a sample as attributes that say what they hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from prunebench.signals import Signal
from prunebench.sites import Site


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
    def visual_attention(self) -> Tensor:
        """[H, N, N] attention that the visual tokens (rows) pay each other (columns), in the layer
        before the site; the softmax runs over all visible keys.
        """
        return self._tensor(Signal.VISUAL_ATTENTION)

    @property
    def prompt_queries(self) -> Tensor:
        """[H, S, d_h] queries of the layer before the site as its kernel gets them, rotated.

        S rows are the sample's prompt as it stands there, without padding: `visual_places` and
        `text_places` say which is which.
        """
        return self._tensor(Signal.PROMPT_QUERIES)

    @property
    def prompt_keys(self) -> Tensor:
        """[H_kv, S, d_h] keys of the same layer and rows, rotated."""
        return self._tensor(Signal.PROMPT_KEYS)

    @property
    def prompt_values(self) -> Tensor:
        """[H_kv, S, d_h] values of the same layer and rows."""
        return self._tensor(Signal.PROMPT_VALUES)

    @property
    def next_text_attention(self) -> Tensor:
        """[H, Q, N] attention the Q text tokens after the first visual one would pay, in the layer
        *behind* the site, from its own norm and projections.
        """
        return self._tensor(Signal.NEXT_TEXT_ATTENTION)

    @property
    def next_queries(self) -> Tensor:
        """[H, S, d_h] queries of the layer behind the site, of all rows of the prompt, not rotated.

        They cost that layer's norm and projections once more.
        """
        return self._tensor(Signal.NEXT_QUERIES)

    @property
    def next_keys(self) -> Tensor:
        """[H_kv, S, d_h] keys of the same layer and rows, not rotated."""
        return self._tensor(Signal.NEXT_KEYS)

    @property
    def next_rotated_keys(self) -> Tensor:
        """[H_kv, S, d_h] the same keys, rotated as the layer would."""
        return self._tensor(Signal.NEXT_ROTATED_KEYS)

    @property
    def earlier_features(self) -> Tensor:
        """[N, D] the tokens' rows as they entered the layer before the site."""
        return self._tensor(Signal.EARLIER_FEATURES)

    @property
    def transitions(self) -> Tensor:
        """[J, 2, S, 2] how much LLM layers change: for each of those that `Reads.layers` names and
        that lie before the site, for its attention and its feed-forward part (axis 1) and for every
        row of the prompt, the norm of the output as a multiple of the normalised input's, and the
        cosine of the two.

        Layers ascend; rows that have left the prompt since are missing.
        """
        return self._tensor(Signal.TRANSITIONS)

    @property
    def visual_places(self) -> Tensor:
        """[N] int64, on the CPU: where the tokens' rows stand among the S rows of the prompt, which
        shrinks from stage to stage.
        """
        return self._tensor(Signal.VISUAL_PLACES)

    @property
    def text_places(self) -> Tensor:
        """[M] int64, on the CPU: where the rows of `text_features` stand there."""
        return self._tensor(Signal.TEXT_PLACES)

    @property
    def position_ids(self) -> Tensor:
        """[P, S] the position ids of these rows at the stage; P is 1, or 3 for time, height and
        width.
        """
        return self._tensor(Signal.POSITION_IDS)

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

        `Reads.cls_query_counts` says whether a CLS token's query is among these.
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
    def encoder_values(self) -> Tensor:
        """[B, H, N, d_h] values of the encoder's attention as its kernel gets them, averaged over
        the token's patches; 0 for newlines.
        """
        return self._tensor(Signal.ENCODER_VALUES)

    @property
    def cls_features(self) -> Tensor:
        """[B, T, D_v] the CLS token of every tile, as the encoder blocks asked for put it out."""
        return self._tensor(Signal.CLS_FEATURES)

    @property
    def cls_queries(self) -> Tensor:
        """[B, H, T, d_h] the query of every tile's CLS token, as the encoder's kernel gets it."""
        return self._tensor(Signal.CLS_QUERIES)

    @property
    def cls_keys(self) -> Tensor:
        """[B, H, T, d_h] the key of every tile's CLS token."""
        return self._tensor(Signal.CLS_KEYS)

    @property
    def cls_values(self) -> Tensor:
        """[B, H, T, d_h] the value of every tile's CLS token."""
        return self._tensor(Signal.CLS_VALUES)

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
    def clip_text_tokens(self) -> Tensor:
        """[M, L, P] CLIP's final norm and projection of every token of the same texts, which are
        padded to the L tokens that CLIP reads; not normalised.
        """
        return self._tensor(Signal.CLIP_TEXT_TOKENS)

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
