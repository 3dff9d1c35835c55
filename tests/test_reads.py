"""What a method reads is one object: it composes, and it says which stage sees what."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import families
import pytest
import torch
from conftest import picture

from prunebench import INPUT, Keep, Pruner, Reads, Signal, Stage, VisualTokens, llm, prune, vision
from prunebench.pruner import MethodError
from prunebench.sites import Part

CLS = frozenset({Signal.CLS_ATTENTION})
TEXT = frozenset({Signal.CLIP_TEXT})
PROBE = frozenset({Signal.PROBE_LOGITS})
CHANGES = frozenset({Signal.TRANSITIONS})
RECEIVED = frozenset({Signal.RECEIVED_ATTENTION})


def loud(question: str) -> tuple[str, ...]:
    return (question.upper(),)


def token() -> torch.Tensor:
    return torch.zeros(6, 80)


def test_two_compose() -> None:
    first = Reads(CLS, blocks={Signal.CLS_ATTENTION: (2, 3)}, lora=Path("lora"))
    second = Reads(TEXT | PROBE, texts=loud, clip="tiny-clip", probe=token)
    both = first | second
    assert both == second | first
    assert both.signals == CLS | TEXT | PROBE
    assert (both.blocks, both.texts, both.clip) == (first.blocks, loud, "tiny-clip")
    assert (both.probe, both.lora) == (token, Path("lora"))
    assert both | first == both
    assert Reads() | first == first


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (
            Reads(CLS, blocks={Signal.CLS_ATTENTION: (1,)}),
            Reads(CLS),
            r"cls_attention cannot be read in blocks \[1\] and \[\]",
        ),
        (Reads(TEXT, texts=loud), Reads(TEXT), "clip_text cannot be read of two methods' texts"),
        (
            Reads(CHANGES, layers={Signal.TRANSITIONS: (1, 2)}),
            Reads(CHANGES),
            r"transitions cannot be read in layers \[1, 2\] and \[\]",
        ),
        (
            Reads(RECEIVED, cls_query_counts=False),
            Reads(RECEIVED),
            "received_attention cannot be read with and without the CLS token's query",
        ),
        (Reads(TEXT, clip="a"), Reads(TEXT, clip="b"), "one CLIP is asked, not 'a' and 'b'"),
        (Reads(PROBE, probe=token), Reads(PROBE, probe=lambda: token()), "one probe token"),
        (Reads(lora=Path("a")), Reads(lora=Path("b")), "the model wears one adapter, not a and b"),
    ],
)
def test_what_cannot_be_shown_by_one_name_is_refused(
    first: Reads, second: Reads, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        _ = first | second


def test_places_join() -> None:
    early = Reads(CLS).only_at(INPUT)
    assert early.signals_at(INPUT) == CLS
    assert early.signals_at(llm(2)) == frozenset()
    late = Reads(CLS).only_at(llm(2), llm(3))
    assert (early | late).signals_at(llm(3)) == CLS
    assert (early | late).signals_at(llm(4)) == frozenset()
    assert (early | Reads(CLS)).signals_at(llm(4)) == CLS
    assert Reads(CLS).only_at(Part.LLM).signals_at(llm(9)) == CLS


def test_a_stage_sees_what_exists_there() -> None:
    everything = Reads(frozenset(Signal))
    at_input = everything.signals_at(INPUT)
    assert everything.signals_at(llm(1)) == frozenset(Signal)
    assert Signal.KEYS not in at_input
    assert Signal.TEXT_FEATURES in at_input
    inside = everything.signals_at(vision(2))
    assert Signal.TEXT_FEATURES not in inside
    assert Signal.CLS_ATTENTION in inside


def test_layers_compose_and_are_shown_to_the_stages_behind_them() -> None:
    named = Reads(CHANGES, layers={Signal.TRANSITIONS: (5, 2)})
    other = Reads(RECEIVED, cls_query_counts=False)
    both = named | other
    assert both == other | named
    assert (both.layers, both.cls_query_counts) == (named.layers, False)
    assert (named | Reads(CLS)).cls_query_counts
    assert named.signals_at(llm(2)) == frozenset()
    assert named.layers_at(Signal.TRANSITIONS, llm(3)) == (2,)
    assert named.layers_at(Signal.TRANSITIONS, llm(6)) == (2, 5)
    assert Reads(CHANGES).layers_at(Signal.TRANSITIONS, llm(3)) == (2,)
    assert named.misplaced([llm(2)]) == CHANGES
    assert named.misplaced([llm(2), llm(4)]) == frozenset()
    assert named.whereabouts(Signal.TRANSITIONS).endswith("prune at llm:3 or later")


def test_signals_that_are_looked_for_in_vain() -> None:
    keys = Reads(frozenset({Signal.KEYS}))
    assert keys.misplaced([INPUT]) == {Signal.KEYS}
    assert keys.misplaced([INPUT, llm(1)]) == frozenset()
    assert keys.only_at(INPUT).misplaced([INPUT, llm(1)]) == {Signal.KEYS}
    assert keys.only_at(llm(4)).misplaced([INPUT, llm(1)]) == frozenset()


@dataclass(frozen=True)
class Simple(Pruner):
    needs = CLS

    def prune(self, tokens: VisualTokens, stage: Stage) -> Keep:
        return Keep(torch.arange(stage.keep))


@dataclass(frozen=True)
class Fuller(Simple):
    """Says more, and builds on what its base reads."""

    @property
    def reads(self) -> Reads:
        return super().reads | Reads(TEXT, texts=loud)


@dataclass(frozen=True)
class Silent(Pruner):
    def prune(self, tokens: VisualTokens, stage: Stage) -> Keep:
        return Keep(torch.arange(stage.keep))


@dataclass(frozen=True)
class Speaking(Silent):
    @property
    def reads(self) -> Reads:
        return super().reads | Reads(TEXT)


def test_needs_and_reads_agree() -> None:
    assert Simple().reads == Reads(CLS)
    assert Fuller().reads.signals == CLS | TEXT
    assert Silent().needs == Silent().reads.signals == frozenset()
    assert Speaking().needs == Speaking().reads.signals == TEXT


def test_a_pruner_has_few_members() -> None:
    public = [name for name in vars(Pruner) if not name.startswith("_") and name != "register"]
    assert len(public) <= 14, public


@pytest.mark.parametrize("reads", [CLS, Reads(frozenset({"keys"})), None])  # type: ignore[arg-type]
def test_reads_of_another_kind_are_named(model: Any, reads: Any) -> None:
    @dataclass(frozen=True)
    class Odd(Silent):
        needs = frozenset()

    Odd.reads = property(lambda _: reads)  # type: ignore[assignment]
    with pytest.raises(MethodError, match=r"Odd\.reads.* is .*; it must be a"), prune(model, Odd()):
        pass


def test_a_stand_in_is_read_where_the_signal_would_be() -> None:
    stand_ins = {Signal.CLS_ATTENTION: Signal.RECEIVED_ATTENTION}
    reads = Reads(CLS | TEXT, blocks={Signal.CLS_ATTENTION: (2, 3)}).only_at(INPUT)
    fitted = reads.with_stand_ins(stand_ins)
    assert fitted.signals == TEXT | {Signal.RECEIVED_ATTENTION}
    assert fitted.blocks == {Signal.RECEIVED_ATTENTION: (2, 3)}
    assert fitted.places == dict.fromkeys(fitted.signals, frozenset({INPUT}))
    assert Reads(TEXT).with_stand_ins(stand_ins) == Reads(TEXT)


def test_a_model_that_lacks_a_signal_shows_its_stand_in() -> None:
    @dataclass(frozen=True)
    class Either(Pruner):
        needs = CLS

        @property
        def stand_ins(self) -> dict[Signal, Signal]:
            return {Signal.CLS_ATTENTION: Signal.RECEIVED_ATTENTION}

        def prune(self, tokens: VisualTokens, stage: Stage) -> Keep:
            shown.append(set(tokens.signals))
            return Keep(torch.arange(stage.keep))

    shown: list[set[Signal]] = []
    for family in ("llava", "qwen2_5_vl"):
        miniature = families.build(family)
        inputs = miniature.inputs(([picture(*miniature.sizes[0])], "color of 5"))
        with prune(miniature.model, Either(), 4):
            miniature.model.generate(**inputs, max_new_tokens=1)
    assert shown == [{Signal.CLS_ATTENTION}, {Signal.RECEIVED_ATTENTION}]
