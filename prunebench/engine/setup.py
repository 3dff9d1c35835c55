"""Setup: what stays the same for as long as a method is at work in a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor, nn

from prunebench.budget import Budget, Stage
from prunebench.engine.attention import implementation, unwatch
from prunebench.engine.call import Call
from prunebench.engine.encoder import Observer
from prunebench.engine.finite import Finite
from prunebench.engine.ready import Ready
from prunebench.engine.stream import EngineError
from prunebench.engine.trace import Trace
from prunebench.engine.window import check_kinds, chunk_of, window_of
from prunebench.models.base import Family, Unsupported
from prunebench.pruner import Positions, contained
from prunebench.signals import ATTENTION
from prunebench.sites import Part, Site


@dataclass(frozen=True)
class Early:
    """What the stages inside the vision encoder left of one sample, before the decoder ran.

    `kept` maps each of these sites to the original visual ordinals [K] alive behind it, ascending,
    on the CPU; `memo` is the dict that all stages of the sample share.
    """

    kept: Mapping[Site, Tensor] = field(default_factory=dict)
    memo: dict[str, Any] = field(default_factory=dict)


class Tower(Protocol):
    """The seam inside the vision encoder: it runs the stages of a plan that lie there.

    The encoder runs before the decoder, and before `Prefill` exists: under `generate` even before
    the model's own `forward`. So whoever serves these stages plans them by itself, sample by
    sample, with `planned(ready, budget, plan, available, layers)`, where `available` is the length
    of the sample's layout; asks the method at every stage of Part.VISION, in order; and keeps what
    was left, without changing how many features leave the projector. When the decoder is called,
    the prefill reads it: it notes the survivors in the trace, drops the others where the language
    model begins, and goes on with the plan's later stages as if they had been dropped by any other.
    """

    def attached(self) -> AbstractContextManager[None]:
        """Install the hooks; on leaving, the encoder is as it was."""

    def reset(self) -> None:
        """Forget the batch: another is about to be encoded."""

    def read(self, call: Call) -> Sequence[Early]:
        """What is left of each of the call's samples, one a row.

        It charges `trace.charge(seconds, flops)` with the time and work that the method took, once
        a prefill. Raises EngineError where the encoder did not run since the last prefill.
        """


@dataclass(frozen=True)
class Terms:
    """How a method is to work: what it may spend, where, and what becomes of position ids.

    `plan` sets the stages and leaves the `budget` aside; `positions` None means the method's own.
    """

    budget: Budget | None = None
    positions: Positions | None = None
    plan: tuple[Stage, ...] | None = None

    @classmethod
    def of(
        cls,
        budget: Budget | int | float | str | None,
        positions: Positions | None,
        plan: tuple[Stage, ...] | None,
    ) -> Terms:
        """The terms as a caller words them; raises BudgetError, EngineError for other positions."""
        if positions not in (None, "original", "compact"):
            raise EngineError(f"positions is {positions!r}; it is 'original' or 'compact'")
        return cls(None if budget is None else Budget.parse(budget), positions, plan)


class Setup:
    """The model's parts, the method bound to it, and how it is to work.

    `observer` reads the vision encoder, None where the method reads nothing there; `tower` runs
    stages inside it, None where no stage can lie there. Raises Unsupported for an attention kernel
    that no seam serves.
    """

    def __init__(
        self,
        parts: Family,
        model: nn.Module,
        ready: Ready,
        terms: Terms,
        trace: Trace,
        finite: Finite,
    ) -> None:
        self.parts, self.model, self.ready = parts, model, ready
        self.trace, self.finite = trace, finite
        self.budget, self.plan = terms.budget, terms.plan
        self.positions = terms.positions
        """What the caller wants of position ids; None for what the method's paper does."""
        self.decoder = parts.decoder(model)
        self.layers = parts.layers(model)
        self.rotary: Any = parts.rotary(model)
        self.config: Any = self.decoder.config
        self.kinds = parts.kinds(model)
        """Per layer, what it looks at, in transformers' words."""
        self.attending = [
            number for number in range(len(self.layers)) if number not in ready.stateful
        ]
        """The layers that keep keys and values."""
        self.kernel = implementation(self.config)
        if self.kernel not in ("sdpa", "eager") and "flash" not in self.kernel:
            raise Unsupported(
                f"attention {self.kernel!r} is not supported; use sdpa, eager or flash attention"
            )
        check_kinds(self.kinds)
        self.windows = {kind: window_of(self.config, kind) for kind in self.kinds}
        """How far back the layers of each kind look, None for everything."""
        self.mutual = parts.mutual(model)
        """The kinds whose layers let the positions of a group see each other."""
        self.chunk = chunk_of(self.config, self.kinds)
        self.observer: Observer | None = None
        if ready.blocks:
            self.observer = Observer(
                parts,
                model,
                ready.blocks,
                count=trace.count_flops,
                everywhere=ready.inside_encoder(terms.plan),
            )
        self.tower: Tower | None = None
        self.steers = _steered(ready, len(self.layers), self.kernel)
        """The seam from whose layer on the method has its say in decoding; None where it has none.
        """

    def compacts_at(self, site: Site) -> bool:
        """Whether a stage at that site closes up the gaps in position ids."""
        return (self.positions or self.ready.pruner.positions_at(site)) == "compact"

    @property
    def replans(self) -> bool:
        """Whether what later stages keep depends on what the method sees on the way."""
        return self.plan is None and self.ready.pruner.replans

    @property
    def probes(self) -> bool:
        """Whether the attention of any layer is looked at."""
        return bool(self.ready.needs & ATTENTION) or self.steers is not None

    @property
    def depth(self) -> int:
        """How many layers the decoder has."""
        return len(self.layers)

    def forget_encoder(self) -> None:
        """Images are about to be encoded: what is known of others is not theirs."""
        if self.observer is not None:
            self.observer.reset()
        if self.tower is not None:
            self.tower.reset()

    def attention(self, layer: int) -> nn.Module:
        """The self-attention module of a layer."""
        return self.parts.attention(self.layers[layer])

    def parts_of(self, layer: int) -> tuple[nn.Module, nn.Module]:
        """The two parts of a layer: its self-attention and its feed-forward module."""
        return self.attention(layer), self.parts.feed_forward(self.layers[layer])

    def tables(self, hidden: Tensor, ids: Tensor) -> Mapping[str, Any]:
        """The rotary tables of position ids [.., B, n], by the kind of layer that takes them."""
        return self.parts.tables(self.model, hidden, ids)

    @property
    def window(self) -> int | None:
        """The shortest window of any layer, None where every layer looks at everything."""
        widths = [width for width in self.windows.values() if width is not None]
        return min(widths, default=None)

    def unwatch(self) -> None:
        """Let no probe look at any layer's attention."""
        for layer in self.attending:
            unwatch(self.attention(layer))


def _steered(ready: Ready, depth: int, kernel: str) -> Site | None:
    """The seam from whose layer on the method steers decoding; None where it does not.

    Raises Unsupported where the model or its kernel cannot serve it.
    """
    with contained(ready.name, "decodes_at"):
        site = ready.pruner.decodes_at()
    if site is None:
        return None
    if site.part is not Part.LLM or site.layer >= depth:
        raise Unsupported(
            f"{ready.name} steers decoding at {site}; it must be one of llm:1..llm:{depth - 1}"
        )
    if site.layer - 1 in ready.stateful:
        raise Unsupported(
            f"{ready.name} steers decoding at {site}, and layer {site.layer - 1} keeps a state "
            "instead of attending to tokens (linear attention, convolution)"
        )
    if "flash" in kernel:
        raise Unsupported(
            f"{ready.name} steers decoding at {site}, which flash attention is not told; load the "
            "model with attn_implementation='sdpa' or 'eager'"
        )
    return site
