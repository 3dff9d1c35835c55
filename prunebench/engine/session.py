"""Session: one pruner at work in one stock model, through hooks that leave no trace."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from threading import Lock
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from torch import Tensor, nn

from prunebench.budget import Budget, Stage
from prunebench.engine.attention import probed
from prunebench.engine.cache import checked
from prunebench.engine.call import Call, CallerGives
from prunebench.engine.decode import Decoding, foreign_cache
from prunebench.engine.early import EarlyStages
from prunebench.engine.finite import Finite
from prunebench.engine.frame import Kwargs
from prunebench.engine.hooks import Hook, after, before
from prunebench.engine.injection import takes_over, with_injected
from prunebench.engine.listen import Listener
from prunebench.engine.lora import tuned
from prunebench.engine.prefill import Prefill
from prunebench.engine.ready import Ready, make_ready
from prunebench.engine.setup import Setup, Terms
from prunebench.engine.stream import EngineError
from prunebench.engine.trace import Trace
from prunebench.engine.wrappers import chain_of
from prunebench.models import family_of
from prunebench.models.bare import BareDecoder
from prunebench.models.base import EncoderRows, Unsupported
from prunebench.pruner import Positions, Pruner
from prunebench.signals import Signal
from prunebench.sites import Part
from prunebench.tokens import Layout

if TYPE_CHECKING:
    from prunebench.methods._names import MethodName

_ACTIVE: WeakSet[nn.Module] = WeakSet()
"""Decoders inside a block; whatever wraps them, hooks go there."""
_LOCK = Lock()


@contextmanager
def prune(  # noqa: PLR0913  (every one but three is optional, and named where it is called)
    model: nn.Module,
    pruner: Pruner | Ready | MethodName | str,
    budget: Budget | int | float | str | None = None,
    *,
    positions: Positions | None = None,
    layouts: Sequence[Layout] | None = None,
    rows: Sequence[EncoderRows] | None = None,
    seeds: Sequence[int] | None = None,
    questions: Sequence[str] | None = None,
    pictures: Sequence[Sequence[Tensor]] | None = None,
    masks: Sequence[Sequence[Tensor]] | None = None,
    processor: Any = None,
    plan: tuple[Stage, ...] | None = None,
    timed: bool = False,
    count_flops: bool = False,
) -> Iterator[Trace]:
    """Prune visual tokens in every `model.generate(...)` or `model(...)` inside the block.

    >>> import prunebench
    >>> from PIL import Image
    >>> from prunebench.testbed import sample
    >>> loaded = prunebench.load("tiny-qwen2.5-vl")
    >>> scene, question = sample(seed=1, index=19)
    >>> inputs = loaded.inputs(Image.fromarray(scene.render()), question.text)
    >>> with prunebench.prune(loaded.model, "divprune", budget=0.25) as trace:
    ...     output = loaded.model.generate(**inputs, max_new_tokens=4, do_sample=False)
    >>> loaded.text(output, inputs)
    'star'
    >>> len(trace.samples[0].kept[prunebench.INPUT])  # of 100 visual tokens
    25

    `pruner` is a method's name, the path of its file, or a method that `build` made with settings;
    one that is used often is bound to the model once, by `make_ready`. `budget` is a share of the
    visual tokens (0.25), a number of them (64), or either behind what is counted ("kv:0.25"); None
    means the method's own. `positions` overrides what the method's paper does with position ids;
    `plan` sets the stages and leaves the budget aside.

    What some methods read and only the caller has, one a sample: `seeds`, `questions`, `pictures`
    (images and videos, [F, H, W, 3] uint8 each), `masks` ([Q, H, W] bool an image); and the
    `processor`. `layouts`, one a sample, say where its tokens lie and `rows` where they come from
    in the vision encoder, for a caller who knows; else they are read off the inputs at every
    prefill.

    The last position of a prompt always survives, for the answer starts from it: where it is
    visual, because the prompt ends with its image, it counts among the tokens that a stage keeps,
    and the method chooses the others and is not shown it. A block serves one model and one call at
    a time. A cache that leaves the block behind a method whose positions are compact goes on right
    only inside it: outside, a model counts positions as if nothing had been closed up. A copy of
    the model that is made inside the block is not pruned.

    The trace is that of the latest prefill. Raises EngineError, NotFinite, MethodError,
    BudgetError, Unsupported, LoadError or RegistryError, never alters results quietly.
    """
    chain = chain_of(model)
    whole = chain[-1]
    family = family_of(whole)
    ready = pruner if isinstance(pruner, Ready) else make_ready(family, whole, pruner)
    trace = Trace(timed, count_flops, tally=ready.tally)
    setup = Setup(family, whole, ready, Terms.of(budget, positions, plan), trace, Finite())
    gives = CallerGives(seeds, questions, pictures, masks, processor, layouts, rows)
    missing = gives.missing(ready.needs)
    if missing is not None:
        raise Unsupported(
            f"{ready.name} needs the {missing} of the samples: prune(..., {missing}=...)"
        )
    session = Session(setup)
    listener = Listener(family, setup, gives, session)
    if ready.inside_encoder(plan):
        setup.tower = EarlyStages(setup, listener.prompts)
    with session.attached(), listener.attached(chain):
        yield trace
    setup.finite.settle()


@contextmanager
def prune_embeds(
    decoder: nn.Module,
    pruner: Pruner,
    *,
    visual: Tensor,
    layouts: Sequence[Layout],
    budget: Budget | int | float | str | None = None,
    positions: Positions | None = None,
    plan: tuple[Stage, ...] | None = None,
    signals: Sequence[Mapping[Signal, Any]] = (),
) -> Iterator[Trace]:
    """The same for a bare decoder called with `inputs_embeds`; `visual` [B, S] bool marks its
    visual positions.

    `signals`, a mapping a row, stand for those that a bare decoder cannot give; they are shown as
    they are.
    """
    parts, trace = BareDecoder(), Trace()
    ready = make_ready(parts, decoder, pruner, frozenset().union(*signals))
    setup = Setup(parts, decoder, ready, Terms.of(budget, positions, plan), trace, Finite())
    session = Session(setup)
    nobody, seeds = [None] * len(layouts), [0] * len(layouts)
    with session.attached():
        session.expect(Call(visual.cpu(), layouts, seeds, nobody, caller_signals=signals))
        yield trace
    setup.finite.settle()


class Session:
    """Hooks for one model and one method.

    What they know of the batch in flight is the `prefill` while the prompt is read, and the
    `decoding` while the answer goes on; `waiting` is the prompt that the next call of the decoder
    reads. `inside` are the hooks inside the decoder, for as long as the batch needs them: hooked
    layers cost time at every step.
    """

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.waiting: Call | None = None
        self.prefill: Prefill | None = None
        self.decoding: Decoding | None = None
        self.inside = ExitStack()
        self.hooked_from: int | None = None
        """The first of the layers that are hooked, which go on to the last; None for none."""
        self.wish: int | Tensor = 0
        """The positions whose logits are asked for, where the decoder is told: the last so many, or
        these; 0 for all.
        """

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Install the hooks; on leaving, the model is as it was."""
        setup = self.setup
        with ExitStack() as undo:
            with _LOCK:
                if setup.decoder in _ACTIVE:
                    raise EngineError(
                        "this model is inside another prune(...) block; leave that one first"
                    )
                _ACTIVE.add(setup.decoder)
            undo.callback(_ACTIVE.discard, setup.decoder)
            undo.enter_context(tuned(setup.model, setup.ready.reads.lora))
            if setup.observer is not None:
                undo.enter_context(setup.observer.attached())
            if setup.tower is not None:
                undo.enter_context(setup.tower.attached())
            undo.callback(self.inside.close)
            before(undo, setup.decoder, self._enter_decoder)
            yield

    # ---- what the listener tells -----------------------------------------------------------------

    def expect(self, call: Call) -> None:
        """The next call of the decoder is the prefill of this prompt."""
        self.waiting = call

    def check_resumed(self, cache: Any, ids: Tensor) -> None:
        """Note that these tokens come next; raises EngineError unless this is the cache that the
        session filled.
        """
        if self.decoding is None:
            raise foreign_cache(cache)
        self.decoding.check_cache(cache)
        self.decoding.note(ids)

    def read_into(self, cache: Any) -> Tensor:
        """[B, n] all tokens that were read into the cache; raises EngineError unless it is the one
        that the session filled.
        """
        if self.decoding is None:
            raise foreign_cache(cache)
        self.decoding.check_cache(cache)
        return self.decoding.known()

    def look_at(self, output: Any) -> None:
        """Check what the whole model put out; raises NotFinite, here or when the call ends."""
        logits = logits_of(output)
        if logits is not None and self.decoding is not None:
            self.decoding.look_at(logits)

    def end(self) -> None:
        """A call of `generate` is done; raises NotFinite for what it left to be looked at."""
        self.setup.finite.settle()

    # ---- hooks -----------------------------------------------------------------------------------

    def _enter_decoder(self, args: Any, kwargs: Kwargs) -> tuple[Any, Kwargs] | None:
        embeds = kwargs.get("inputs_embeds")
        if embeds is None:
            raise EngineError("the decoder was called without inputs_embeds")
        if self.waiting is None:
            changed = self._resume(embeds, kwargs)
        else:
            changed = self._begin(self.waiting, embeds, kwargs)
        return None if changed is kwargs else (args, changed)

    def _begin(self, call: Call, embeds: Tensor, kwargs: Kwargs) -> Kwargs:
        """Start the prefill of a prompt; the arguments that the decoder goes on with."""
        setup = self.setup
        # first: where this prefill fails, nothing of the batch before may go on
        self.waiting = self.prefill = self.decoding = None
        self._unhook_inside()
        self._probe()
        after(self.inside, setup.decoder, self._leave_decoder)
        prefill = Prefill(setup, call, embeds, kwargs.get("attention_mask"))
        self.prefill, self.wish = prefill, kwargs.get("logits_to_keep", 0)
        bare, features = setup.parts.injected(kwargs)
        if takes_over(prefill.sites, features):
            kwargs = bare
            for number, rows in enumerate(features):
                hook = Hook(partial(self._inject, prefill, number, rows))
                self.inside.callback(setup.layers[number].register_forward_hook(hook).remove)
        prefill.reading.watch_parts(self.inside, prefill.sites, lambda: prefill.now)
        changed = prefill.at_input(embeds, kwargs)
        layers = [site.layer for site in prefill.sites if site.part is Part.LLM]
        if layers:
            # layers' stages thin these ids; a stage before them thins the decoder's own argument
            before(self.inside, setup.rotary, self._see_positions)
        if prefill.entry is not None:
            self._hook_layers(0)
        elif layers:
            # the layer before the first site may be asked for its attention
            self._hook_layers(min(layers) - 1)
        return changed

    def _resume(self, embeds: Tensor, kwargs: Kwargs) -> Kwargs:
        """Go on behind a prefill; the arguments that the decoder takes the step with."""
        if self.decoding is None:
            raise foreign_cache(kwargs.get("past_key_values"))
        changed = self.decoding.at_decoder(embeds, kwargs)
        # several queries need a mask where one does not; a window may, at any step
        masked = embeds.shape[1] > 1 and self.decoding.uneven
        if masked or self.decoding.windowed:
            self._hook_layers(0)
        return changed

    def _hook_layers(self, first: int) -> None:
        """Hook the layers from that one on."""
        end = self.setup.depth if self.hooked_from is None else self.hooked_from
        for number in range(first, end):
            before(self.inside, self.setup.layers[number], partial(self._enter_layer, number))
        self.hooked_from = min(first, end)

    def _hook_step(self, decoding: Decoding) -> None:
        """Hook what the steps of an answer need, and no layer in front of the first that does."""
        if not decoding.steered:
            return
        if decoding.steering is not None:
            self._probe()
            decoding.steering.start()
        if decoding.moved:
            before(self.inside, self.setup.rotary, decoding.enter_rotary)
            after(self.inside, self.setup.rotary, decoding.leave_rotary)
        self._hook_layers(decoding.steered_from)

    def _probe(self) -> None:
        """Let probes see the attention of layers, where the method reads any, for as long as the
        hooks inside are there.
        """
        if self.setup.probes:
            self.inside.enter_context(probed(self.setup.config))
            self.inside.callback(self.setup.unwatch)

    def _unhook_inside(self) -> None:
        """Take the hooks inside the decoder off again."""
        self.inside.close()
        self.hooked_from = None

    def _inject(
        self,
        prefill: Prefill,
        number: int,
        rows: Tensor,
        _layer: nn.Module,
        _args: Any,
        output: Any,
    ) -> Any:
        """Add visual features behind a layer, in place of the decoder."""
        # the hook stays on while decoding needs others, and a step has no features to add
        if self.prefill is not prefill:
            return None
        stream, call = prefill.live[number], prefill.call
        if not isinstance(output, tuple):
            return with_injected(stream, call, rows, output)
        return (with_injected(stream, call, rows, output[0]), *output[1:])

    def _see_positions(self, args: Any, kwargs: Kwargs) -> None:
        ids = kwargs.get("position_ids", args[1] if len(args) > 1 else None)
        if self.prefill is not None:
            self.prefill.note_positions(ids)

    def _enter_layer(self, number: int, args: Any, kwargs: Kwargs) -> tuple[Any, Kwargs] | None:
        hidden = args[0] if args else kwargs["hidden_states"]
        if self.prefill is None:
            if self.decoding is None:
                return None
            return args, self.decoding.at_layer(number, hidden, kwargs)
        rows, changed = self.prefill.at_layer(number, hidden, kwargs)
        if rows is hidden and changed is kwargs:
            return None
        return ((rows, *args[1:]), changed) if args else (args, {**changed, "hidden_states": rows})

    def _leave_decoder(self, _args: Any, output: Any) -> Any:
        """After every prefill: see that all is as planned, and go over to decoding."""
        if self.prefill is None:
            return None
        prefill, self.prefill = self.prefill, None
        cache = checked(getattr(output, "past_key_values", None))
        prefill.finish(cache)
        self.decoding = Decoding(self.setup, prefill, cache)
        self._unhook_inside()
        self._hook_step(self.decoding)
        self.setup.finite.settle()
        if self.setup.parts.cuts_inside and prefill.now is not prefill.whole:
            output.last_hidden_state = rows_asked(output.last_hidden_state, self.wish)
        return output


def rows_asked(hidden: Tensor, wish: int | Tensor) -> Tensor:
    """Of the rows [B, n, D] that a decoder puts out those whose logits are asked for: the last so
    many, or these; all for 0.
    """
    # as transformers cuts them: the last 0 are all
    return hidden[:, slice(-wish, None) if isinstance(wish, int) else wish]


def logits_of(output: Any) -> Tensor | None:
    """The logits in what a whole model put out, None where there are none."""
    logits = getattr(output, "logits", None)
    if isinstance(logits, Tensor):
        return logits
    # of a tuple logits are the first tensor: labels, which put a loss there, are refused
    parts = output if isinstance(output, tuple) else ()
    return next((part for part in parts if isinstance(part, Tensor)), None)
