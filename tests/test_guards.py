"""What is no number, what exits, what changes things in place: none of it reaches a number, the
engine or the next method.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from conftest import picture
from test_engine import Spy
from test_equivalence import PROMPTS, Draw, run
from torch import Tensor

from prunebench import Budget, Facts, Keep, Pruner, Reads, Signal, Stage, VisualTokens, llm, prune
from prunebench.engine import ask as asks
from prunebench.engine import reading as readings
from prunebench.engine import session as sessions
from prunebench.engine.finite import Finite, NotFinite
from prunebench.engine.readings import READINGS, Reading, received_attention
from prunebench.engine.ready import make_ready
from prunebench.engine.stream import EngineError
from prunebench.measure.latency import measure_pairs
from prunebench.measure.pairs import PairSettings
from prunebench.models import family_of
from prunebench.pruner import MethodError, contained

ODD = [float("nan"), float("inf"), -float("inf")]


@contextmanager
def spoilt(
    module: Any, place: Callable[[Tensor], Any], value: float = float("nan"), call: int = 0
) -> Iterator[None]:
    """Put `value` into what a module puts out, at its call of that number; `place` picks the
    entry.
    """
    calls = iter(range(1000))

    def hook(_module: Any, _args: Any, output: Any) -> Any:
        if next(calls) != call:
            return None
        hidden = (output[0] if isinstance(output, tuple) else output).clone()
        hidden[place(hidden)] = value
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    handle = module.register_forward_hook(hook)
    yield
    handle.remove()


# ---- what is no number ---------------------------------------------------------------------------


@pytest.mark.parametrize("value", ODD)
@pytest.mark.parametrize("method", ["none", "fastv"])
def test_logits_that_are_no_numbers_are_errors(
    model: Any, inputs_of: Any, method: str, value: float
) -> None:
    inputs = PROMPTS["padded batch"](inputs_of)
    head = model.get_output_embeddings()
    for call, place in ((0, "the logits of the prefill"), (2, "the logits of decoding step 2")):
        with (
            spoilt(head, lambda _: (1, -1, 7), value, call),
            prune(model, method, 1.0),
            pytest.raises(NotFinite, match=f"{place} of sample 1"),
        ):
            model.generate(**inputs, max_new_tokens=4)


def test_padding_may_hold_anything(model: Any, inputs_of: Any) -> None:
    inputs = PROMPTS["padded batch"](inputs_of)
    assert not inputs["attention_mask"][0, 0]
    head = model.get_output_embeddings()
    with torch.no_grad(), prune(model, "fastv", 0.5), spoilt(head, lambda _: (0, 0)):
        model(**inputs)
    with (
        torch.no_grad(),
        prune(model, "fastv", 0.5),
        spoilt(head, lambda _: (0, -1)),
        pytest.raises(NotFinite),
    ):
        model(**inputs)


@pytest.mark.parametrize("value", ODD)
def test_features_that_are_no_numbers_are_not_offered(
    model: Any, inputs_of: Any, value: float
) -> None:
    inputs = PROMPTS["padded batch"](inputs_of)
    visual = family_of(model).visual(model, inputs["input_ids"])
    column = int(visual[1].nonzero()[2, 0])
    layer, spy = model.get_decoder().layers[1], Spy()
    with (
        torch.no_grad(),
        spoilt(layer, lambda _: (1, column, 3), value),
        prune(model, replace(spy), 0.5),
        pytest.raises(NotFinite, match="features at llm:2 of sample 1"),
    ):
        model(**inputs)


def test_signals_that_are_no_numbers_are_not_offered(
    model: Any, inputs_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoilt_reading = Reading(axis=2, from_heads=lambda heads: received_attention(heads) / 0)
    monkeypatch.setitem(READINGS, Signal.RECEIVED_ATTENTION, spoilt_reading)
    with (
        torch.no_grad(),
        prune(model, Counting("llm:1"), 0.5),
        pytest.raises(NotFinite, match="received_attention at llm:1 of sample 0"),
    ):
        model(**PROMPTS["one image"](inputs_of))


def test_a_method_that_stumbles_over_nan_is_not_to_blame(
    model: Any, inputs_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On devices that are asked late, the place where it arose comes before what it led to."""
    looks: list[tuple[str, list[int], Tensor]] = []

    class Late(Finite):
        def look(
            self, values: Tensor, place: str, rows: list[int], spared: Tensor | None = None
        ) -> None:
            if values.is_floating_point():
                looks.append((place, rows, ~torch.isfinite(values).flatten(1).all(1)))
                self._flags.append(looks[-1])

    @dataclass(frozen=True)
    class Stumbling(Draw):
        def prune(self, tokens: VisualTokens, stage: Stage) -> Keep:
            if not bool(tokens.features.isfinite().all()):
                raise ValueError("score gave NaN")
            return super().prune(tokens, stage)

    inputs = PROMPTS["one image"](inputs_of)
    monkeypatch.setattr(sessions, "Finite", Late)
    layer = model.get_decoder().layers[1]
    method = prune(model, Stumbling(), plan=(Stage(llm(2), 5),))
    with (
        spoilt(layer, lambda _: (0, 5)),
        pytest.raises(NotFinite, match="features at llm:2"),
        method,
    ):
        model.generate(**inputs, max_new_tokens=1)
    head = model.get_output_embeddings()
    method = prune(model, Stumbling(), 0.5)
    with (
        spoilt(head, lambda _: (0, -1), call=1),
        pytest.raises(NotFinite, match="decoding step 1"),
        method,
    ):
        model.generate(**inputs, max_new_tokens=4)


# ---- what a method is shown are copies -----------------------------------------------------------


@dataclass(frozen=True)
class Vandal(Spy):
    """Overwrites all that it is shown."""

    def prune(self, tokens: VisualTokens, stage: Stage) -> Keep:
        keep = Keep(torch.arange(len(tokens))[-stage.keep :])
        layout = tokens.layout
        for value in (
            tokens.features,
            tokens.index,
            layout.tile,
            layout.row,
            layout.column,
            layout.newline,
        ):
            value.zero_()
        for signal in tokens.signals.values():
            for value in signal if isinstance(signal, tuple) else (signal,):
                if isinstance(value, Tensor):
                    value.zero_()
        return keep


@dataclass(frozen=True)
class PixelVandal(Vandal):
    needs = frozenset({Signal.PICTURES, Signal.MASKS})


def test_changes_in_place_reach_nobody(model: Any, inputs_of: Any) -> None:
    inputs = PROMPTS["padded batch"](inputs_of)
    layouts = family_of(model).layouts(model, inputs)
    rows = [layout.row.clone() for layout in layouts]

    @dataclass(frozen=True)
    class Honest(Spy):
        def prune(self, tokens: VisualTokens, stage: Stage) -> Keep:
            return Keep(torch.arange(len(tokens))[-stage.keep :])

    plan = (Stage(llm(1), 7), Stage(llm(3), 4))
    _, honest, fair = run(model, inputs, Honest(), plan=plan, layouts=layouts)
    _, vandal, trace = run(model, inputs, Vandal(), plan=plan, layouts=layouts)
    assert torch.equal(honest, vandal)
    for ours, theirs in zip(trace.samples, fair.samples, strict=True):
        assert {s: k.tolist() for s, k in ours.kept.items()} == {
            s: k.tolist() for s, k in theirs.kept.items()
        }
    assert all(torch.equal(layout.row, row) for layout, row in zip(layouts, rows, strict=True))


def test_the_callers_pictures_stay(model: Any, inputs_of: Any) -> None:
    inputs = PROMPTS["one image"](inputs_of)
    pictures = [[torch.full((1, 4, 4, 3), 9, dtype=torch.uint8)]]
    masks = [[torch.ones(2, 4, 4, dtype=torch.bool)]]
    with prune(model, PixelVandal(), 0.5, pictures=pictures, masks=masks), torch.no_grad():
        model(**inputs)
    assert bool((pictures[0][0] == 9).all())
    assert bool(masks[0][0].all())


# ---- what exits ----------------------------------------------------------------------------------


class Quit(BaseException):
    """An exception of a plug-in's own that is no Exception."""


EXITS = [SystemExit(0), GeneratorExit(), StopIteration(), Quit("bye")]


@pytest.mark.parametrize("exit_", EXITS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize(
    "member", ["prepared", "needs", "reads", "site", "plan", "prune", "reads.probe"]
)
def test_a_method_that_exits_is_an_ordinary_error(
    model: Any, inputs_of: Any, member: str, exit_: BaseException
) -> None:
    def leave(*_: Any) -> Any:
        raise exit_

    body: dict[str, Any] = {"needs": frozenset(), "__module__": __name__}
    body[member] = property(leave) if member in ("needs", "reads") else leave
    if member == "reads.probe":
        body["reads"] = Reads(frozenset({Signal.PROBE_LOGITS}), probe=leave)
    method: Any = dataclass(frozen=True)(type("Leaving", (Spy,), body))
    with (
        pytest.raises(MethodError, match=rf"\.{member} raised {type(exit_).__name__}") as error,
        prune(model, method(), 0.5),
    ):
        model.generate(**PROMPTS["one image"](inputs_of), max_new_tokens=1)
    assert error.value.__cause__ is exit_
    assert len(str(error.value)) <= 300
    with prune(model, "fastv", 0.5):  # nothing is left behind
        model.generate(**PROMPTS["one image"](inputs_of), max_new_tokens=1)


def test_a_persons_interrupt_and_ordinary_errors_pass() -> None:
    for error in (KeyboardInterrupt(), ValueError("x")):
        with pytest.raises(type(error)), contained("method", "prune"):
            raise error


def test_exceptions_without_a_text_are_named() -> None:
    class Mute(BaseException):
        def __str__(self) -> str:
            raise RuntimeError

    with (
        pytest.raises(MethodError, match=r"method\.score raised Mute"),
        contained("method", "score"),
    ):
        raise Mute


@pytest.mark.parametrize(
    "plan",
    [
        None,
        [1],
        (Stage(llm(2), True),),
        (Stage(llm(2), 2.5),),  # type: ignore[arg-type]
        "llm:2",
    ],
)
def test_a_plan_that_is_none_is_named(model: Any, inputs_of: Any, plan: Any) -> None:
    @dataclass(frozen=True)
    class Odd(Draw):
        def plan(self, budget: Budget | None, available: int, layers: int) -> Any:
            return plan

    with prune(model, Odd(), 0.5), pytest.raises(EngineError, match="Odd plans"):
        model(**PROMPTS["one image"](inputs_of))


@pytest.mark.parametrize("answer", [None, Keep([1, 2]), Keep(torch.arange(6), [1])])  # type: ignore[arg-type]
def test_an_answer_of_another_kind_is_named(model: Any, inputs_of: Any, answer: Any) -> None:
    @dataclass(frozen=True)
    class Odd(Draw):
        def prune(self, tokens: VisualTokens, stage: Stage) -> Any:
            return answer

    with prune(model, Odd(), 0.5), pytest.raises(EngineError, match="Odd at input"):
        model(**PROMPTS["one image"](inputs_of))


# ---- time and work -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Slow(Spy):
    def prune(self, tokens: VisualTokens, stage: Stage) -> Keep:
        time.sleep(0.05)
        return Keep(torch.arange(stage.keep))


def test_a_methods_time_is_its_own(
    model: Any, inputs_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = asks.answered

    def slow(*arguments: Any) -> Any:
        time.sleep(0.5)
        return check(*arguments)

    def slowly(value: Any) -> Any:
        time.sleep(0.1)
        return value

    class Looking(Finite):
        def look(self, *arguments: Any, **options: Any) -> None:
            time.sleep(0.1)

    monkeypatch.setattr(asks, "answered", slow)
    monkeypatch.setattr(sessions, "Finite", Looking)
    monkeypatch.setattr(readings, "copied", slowly)
    with prune(model, Slow(), 0.5) as trace, torch.no_grad():
        model(**PROMPTS["one image"](inputs_of))
    assert 0.05 <= trace.seconds["select"] < 0.3


@dataclass(frozen=True)
class Counting(Spy):
    """Counts how often it is prepared."""

    calls: list[str] = field(default_factory=list, compare=False)
    needs = frozenset({Signal.RECEIVED_ATTENTION})

    def prepared(self, facts: Facts) -> Pruner:  # type: ignore[override]
        self.calls.append("prepared")
        return self


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch, model: Any) -> list[str]:
    """Calls of the adapter that look where tokens lie."""
    calls: list[str] = []
    kind: Any = type(family_of(model))
    for name in ("layouts", "encoder_rows"):
        stock = getattr(kind, name)

        def count(*arguments: Any, stock: Any = stock, name: str = name, **options: Any) -> Any:
            calls.append(name)
            return stock(*arguments, **options)

        monkeypatch.setattr(kind, name, count)
    return calls


def test_what_is_ready_is_not_prepared_again(
    model: Any, inputs_of: Any, counted: list[str]
) -> None:
    inputs, method = PROMPTS["one image"](inputs_of), Counting()
    layouts = family_of(model).layouts(model, inputs)
    ready = make_ready(family_of(model), model, method)
    counted.clear()
    for _ in range(2):
        with prune(model, ready, 0.5, layouts=layouts):
            model.generate(**inputs, max_new_tokens=2)
    assert method.calls == ["prepared"]
    assert counted == ["encoder_rows"] * 2


def test_timed_calls_look_for_nothing(model: Any, inputs_of: Any, counted: list[str]) -> None:
    inputs, method, adapter = PROMPTS["one image"](inputs_of), Counting(), family_of(model)
    two = PairSettings(new_tokens=2, warmup=0, pairs=2)
    rows = measure_pairs(model, adapter, inputs, method, 0.5, two)
    assert (method.calls, counted) == (["prepared"], ["layouts", "encoder_rows"])
    counted.clear()
    ready, layouts = make_ready(adapter, model, method), adapter.layouts(model, inputs)
    counted.clear()
    one = PairSettings(new_tokens=2, warmup=0, pairs=1)
    again = measure_pairs(model, adapter, inputs, ready, 0.5, one, layouts=layouts)
    assert (method.calls, counted) == (["prepared"] * 2, ["encoder_rows"])
    held = [{row.variant: row.kv_bytes for row in kind if row.kv_bytes} for kind in (rows, again)]
    assert held[0] == held[1]


# ---- bytes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("compact", [False, True])
def test_bytes_are_those_of_live_keys_and_values(model: Any, inputs_of: Any, compact: bool) -> None:
    """2 heads of 20 in float32, keys and values: 320 bytes a position and layer."""
    inputs = PROMPTS["padded batch"](inputs_of)
    with prune(model, Draw(), plan=(Stage(llm(3), 6, compact),)) as trace, torch.no_grad():
        cache = model(**inputs).past_key_values
    texts = inputs["attention_mask"].sum(1) - torch.tensor(
        [sample.available for sample in trace.samples]
    )
    for sample, text in zip(trace.samples, texts.tolist(), strict=True):
        before = 6 if compact else sample.available
        assert sample.kv_bytes == 320 * (6 * text + 3 * before + 3 * 6)
    held = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    assert sum(sample.kv_bytes_padded for sample in trace.samples) == held
    assert (
        trace.samples[0].kv_bytes
        < trace.samples[0].kv_bytes_padded
        == trace.samples[1].kv_bytes_padded
    )


def test_bytes_do_not_depend_on_the_batch_or_on_new_tokens(model: Any, inputs_of: Any) -> None:
    prompts = [
        ([picture(112, 84)], "color of 5"),
        ([picture(84, 112, 1), picture(56, 84, 2)], "digit on red square"),
    ]
    for method in ("none", "fastv"):
        with prune(model, method, 1.0 if method == "none" else 0.5, seeds=[1]) as trace:
            model.generate(**inputs_of(*prompts), max_new_tokens=3)
            together = [sample.kv_bytes for sample in trace.samples]
            alone = []
            for prompt in prompts:
                model.generate(**inputs_of(prompt), max_new_tokens=1)
                alone.append(trace.samples[0].kv_bytes)
                assert trace.samples[0].kv_bytes == trace.samples[0].kv_bytes_padded
        assert together == alone
