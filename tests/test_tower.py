"""Dropping tokens inside the vision encoder equals hiding them there: the seam against an oracle
that never slices, in every family.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from conftest import counted
from encoder_oracle import HiddenRows
from families import Miniature
from oracle import logits
from test_equivalence import Draw, run
from test_families import PROMPTS, build, made, one, plain, told
from test_families import miniature as miniature  # the fixture
from torch import Tensor

from prunebench import (
    INPUT,
    Budget,
    BudgetError,
    Keep,
    Pruner,
    Reads,
    Signal,
    Site,
    Stage,
    Unsupported,
    VisualTokens,
    llm,
    prune,
    vision,
)
from prunebench.cli import main
from prunebench.engine.counter import counter
from prunebench.engine.encode import encode
from prunebench.engine.stream import EngineError
from prunebench.measure.flops import sample_flops
from prunebench.models import family_of
from prunebench.sites import Part

CLOSE: dict[str, Any] = {"atol": 5e-4, "rtol": 2e-4}


@dataclass(frozen=True)
class Inside(Draw):
    """Keeps a draw at each of its sites, `share` of the tokens alive."""

    sites: tuple[Site, ...] = (vision(1),)
    share: float = 0.7

    def site(self) -> Site:
        return self.sites[0]

    def plan(self, budget: Any, available: int, layers: int) -> tuple[Stage, ...]:
        return tuple(
            Stage(site, round(available * self.share ** (number + 1)))
            for number, site in enumerate(self.sites)
        )


def last_site(miniature: Miniature) -> Site:
    """The last seam in front of a block whose output the projector reads."""
    return vision(family_of(miniature.model).feature_block(miniature.model))


PLANS: dict[str, Callable[[Miniature], tuple[Site, ...]]] = {
    "first block": lambda miniature: (vision(1),),
    "last block": lambda miniature: (last_site(miniature),),
    "two stages": lambda miniature: (vision(1), last_site(miniature)),
    "everywhere": lambda miniature: (vision(1), INPUT, llm(2)),
}


def encoder_rows(miniature: Miniature, inputs: dict[str, Any]) -> list[Any]:
    lvlm = family_of(miniature.model)
    layouts = lvlm.layouts(miniature.model, inputs)
    return lvlm.encoder_rows(miniature.model, inputs, layouts)


def placed(miniature: Miniature, prompt: str) -> dict[str, Any]:
    """The inputs of a prompt whose images can be pruned inside the encoder."""
    if miniature.one_sequence and prompt != "one image":
        pytest.skip(f"{miniature.name} keeps images apart by a mask")
    return made(miniature, prompt)


def dead_columns(miniature: Miniature, inputs: dict[str, Any], trace: Any) -> list[Tensor]:
    """Per layer [B, S]: visual positions that do not live there, from the trace's kept indices."""
    visual = family_of(miniature.model).visual(miniature.model, inputs["input_ids"])
    dead = [visual.clone() for _ in family_of(miniature.model).layers(miniature.model)]
    for row, sample in enumerate(trace.samples):
        places = visual[row].nonzero()[:, 0]
        for layer, mask in enumerate(dead):
            mask[row, places[sample.alive(layer)]] = False
    return dead


def hidden(
    miniature: Miniature, inputs: dict[str, Any], answer: Tensor, trace: Any, **options: Any
) -> Tensor:
    """The logits of the model that hides what the trace says is dropped."""
    kept = [sample.kept for sample in trace.samples]
    values = options.pop("merged", ()), options.pop("biases", ())
    oracle = HiddenRows(miniature.model, encoder_rows(miniature, inputs), kept, *values)
    dead = dead_columns(miniature, inputs, trace)
    with oracle.attached():
        return logits(miniature.model, inputs, answer, dead, **options)


@pytest.mark.parametrize("positions", ["original", "compact"])
@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("plan", PLANS)
def test_dropping_equals_hiding(
    miniature: Miniature, plan: str, prompt: str, positions: Any
) -> None:
    inputs = placed(miniature, prompt)
    pruner = Inside(sites=PLANS[plan](miniature))
    answer, got, trace = run(miniature.model, inputs, pruner, positions=positions)
    want = hidden(miniature, inputs, answer, trace, compact=positions == "compact")
    torch.testing.assert_close(got, want, **CLOSE)
    for sample in trace.samples:
        stages = pruner.plan(None, sample.available, 6)
        assert {site: len(kept) for site, kept in sample.kept.items()} == {
            stage.site: stage.keep for stage in stages
        }
        inside = [stage.keep for stage in stages if stage.site.part is not Part.LLM]
        assert sample.entering[0] == inside[-1]


@dataclass(frozen=True)
class Blinding(Draw):
    """Leaves nothing at a seam inside the encoder, the stages before it some."""

    stages: tuple[Stage, ...] = (Stage(vision(1), 0),)

    def site(self) -> Site:
        return vision(1)

    def plan(self, budget: Any, available: int, layers: int) -> tuple[Stage, ...]:
        return self.stages


@pytest.mark.parametrize("prompt", ["one image", "padded batch"])
@pytest.mark.parametrize("plan", ["at once", "after a stage", "and later"])
def test_a_stage_inside_the_encoder_may_keep_nothing(
    miniature: Miniature, plan: str, prompt: str
) -> None:
    """Newlines go with the others, and the language model reads the text alone."""
    inputs = placed(miniature, prompt)
    site = last_site(miniature)
    stages = {
        "at once": (Stage(site, 0),),
        "after a stage": (Stage(vision(1), 12), Stage(site, 0)),
        "and later": (Stage(vision(1), 0), Stage(INPUT, 0), Stage(llm(2), 0)),
    }[plan]
    if plan == "after a stage" and site == vision(1):
        pytest.skip("the encoder has one seam")
    if plan == "after a stage" and any(t.newlines for t in layout_of(miniature, inputs)):
        pytest.skip("its newlines alone are more")
    answer, got, trace = run(miniature.model, inputs, Blinding(stages=stages))
    for sample in trace.samples:
        assert len(sample.kept[stages[-1].site]) == 0
        assert sample.entering == [0] * len(sample.entering)
    dead = dead_columns(miniature, inputs, trace)
    want = logits(miniature.model, inputs, answer, dead)
    torch.testing.assert_close(got, want, **CLOSE)


def layout_of(miniature: Miniature, inputs: dict[str, Any]) -> list[Any]:
    """All grids of a batch."""
    layouts = family_of(miniature.model).layouts(miniature.model, inputs)
    return [tile for layout in layouts for tile in layout.tiles]


def test_the_oracle_can_tell(miniature: Miniature) -> None:
    """One other token hidden in the encoder changes the logits by far more than the tolerance, and
    so does hiding it behind the encoder alone.
    """
    inputs = one(miniature)
    answer, got, trace = run(miniature.model, inputs, Inside())
    (sample,) = trace.samples
    kept = sample.kept[vision(1)]
    dropped = torch.tensor([i for i in range(sample.available) if i not in kept.tolist()])
    (rows,) = encoder_rows(miniature, inputs)
    real = kept[rows.patches[kept, 0] >= 0]
    other = kept.clone()
    other[kept == real[0]] = dropped[0]
    late = hidden_with(miniature, inputs, answer, trace, {})
    swapped = hidden_with(miniature, inputs, answer, trace, {vision(1): other.sort().values})
    assert (late - got).abs().max() > 5e-3
    assert (swapped - got).abs().max() > 5e-3


def hidden_with(
    miniature: Miniature,
    inputs: dict[str, Any],
    answer: Tensor,
    trace: Any,
    kept: dict[Site, Tensor],
) -> Tensor:
    """The oracle, told of other survivors in the encoder than in the language model."""
    dead = dead_columns(miniature, inputs, trace)
    with HiddenRows(miniature.model, encoder_rows(miniature, inputs), [kept]).attached():
        return logits(miniature.model, inputs, answer, dead)


@pytest.mark.parametrize("prompt", PROMPTS)
def test_keep_all_is_bit_identical(miniature: Miniature, prompt: str) -> None:
    inputs = placed(miniature, prompt)
    _, got, trace = run(miniature.model, inputs, Inside(share=1.0))
    assert torch.equal(got, plain(miniature.model, inputs))
    assert all(len(sample.kept[vision(1)]) == sample.available for sample in trace.samples)


def test_batch_equals_one_by_one(miniature: Miniature) -> None:
    batch = placed(miniature, "every size")
    prompts = [PROMPTS["one image"](miniature), PROMPTS["two images"](miniature)]
    pruner = Inside(sites=(vision(1), INPUT))
    _, together, both = run(miniature.model, batch, pruner, seeds=list(range(len(miniature.sizes))))
    _, alone, trace = run(miniature.model, prompts[0], pruner, seeds=[0])
    torch.testing.assert_close(together[0], alone[0], **CLOSE)
    for site, kept in trace.samples[0].kept.items():
        assert both.samples[0].kept[site].tolist() == kept.tolist()


def test_a_call_by_hand_and_again(miniature: Miniature) -> None:
    """The encoder runs inside forward there; nothing of the first call is left in the second."""
    inputs, model = one(miniature), miniature.model
    with torch.no_grad(), prune(model, Inside()) as trace:
        first = model(**inputs).logits[:, -1]
        kept = trace.samples[0].kept[vision(1)].tolist()
        second = model(**inputs).logits[:, -1]
        assert trace.samples[0].kept[vision(1)].tolist() == kept
    _, got, _ = run(model, inputs, Inside())
    torch.testing.assert_close(first, got[:, 0], **CLOSE)
    assert torch.equal(first, second)


def test_beams_share_their_prompts_survivors(miniature: Miniature) -> None:
    inputs, model = one(miniature), miniature.model
    if "mm_encoder_outputs" not in encode(model, inputs):
        pytest.skip("this transformers encodes every beam anew")
    if miniature.name == "Llama 4":
        pytest.skip("transformers does not repeat its images for beams")
    with prune(model, Inside()) as trace:
        model.generate(**inputs, num_beams=2, max_new_tokens=3, min_new_tokens=3)
    first, second = trace.samples
    assert first.kept[vision(1)].tolist() == second.kept[vision(1)].tolist()
    assert first.entering == second.entering


@pytest.mark.parametrize("prompt", ["two images", "padded batch"])
def test_images_that_a_mask_keeps_apart_are_refused(prompt: str) -> None:
    inputs = PROMPTS[prompt](build("mistral3"))
    with pytest.raises(Unsupported, match="that a mask keeps apart inside the vision encoder"):
        run(build("mistral3").model, inputs, Inside())


@pytest.mark.parametrize("name", ["llava_next", "internvl", "qwen2_5_vl", "smolvlm"])
def test_eager_is_served_too(name: str) -> None:
    inputs = PROMPTS["padded batch"](build(name))
    pruner = Inside(sites=(vision(1), llm(2)))
    _, eager, _ = run(build(name, "eager").model, inputs, pruner)
    _, sdpa, _ = run(build(name).model, inputs, pruner)
    torch.testing.assert_close(eager, sdpa, **CLOSE)


# ---- merging -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Blend(Pruner):
    """Keeps every second token and gives it the mean of itself and its neighbour, in reverse."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "rows", [])

    def site(self) -> Site:
        return vision(1)

    def plan(self, budget: Any, available: int, layers: int) -> tuple[Stage, ...]:
        return (Stage(vision(1), round(0.8 * available)),)

    def prune(self, tokens: VisualTokens, stage: Stage) -> Keep:
        count = min(stage.keep, len(tokens) - 1)
        index = torch.cat([torch.arange(count), torch.arange(count, stage.keep)]).flip(0)
        neighbour = (index + 1).clamp(max=len(tokens) - 1)
        rows = (tokens.features[index] + tokens.features[neighbour]) / 2
        self.rows.append((tokens.features, rows.flip(0)))  # type: ignore[attr-defined]
        return Keep(index, rows)


@pytest.mark.parametrize("prompt", ["one image", "padded batch", "video"])
def test_merged_rows_go_on_in_the_survivors_places(miniature: Miniature, prompt: str) -> None:
    inputs, pruner = placed(miniature, prompt), Blend()
    rows = encoder_rows(miniature, inputs)
    shared = any(len(set(real(one))) < len(real(one)) for one in rows)
    if shared:
        with pytest.raises(Unsupported, match="visual tokens of this image share patches"):
            run(miniature.model, inputs, pruner)
        return
    answer, got, trace = run(miniature.model, inputs, pruner)
    merged = [{vision(1): values} for _, values in pruner.rows]  # type: ignore[attr-defined]
    want = hidden(miniature, inputs, answer, trace, merged=merged)
    torch.testing.assert_close(got, want, **CLOSE)
    unmerged = hidden(miniature, inputs, answer, trace)
    assert (unmerged - got).abs().max() > 5e-3


@dataclass(frozen=True)
class Weigh(Inside):
    """Draws, and weighs the survivors as if each stood for several tokens."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "biases", [])

    def prune(self, tokens: VisualTokens, stage: Stage) -> Keep:
        index = super().prune(tokens, stage).index.sort().values
        bias = torch.linspace(0, 2, len(index))
        self.biases.append(bias)  # type: ignore[attr-defined]
        return Keep(index, bias=bias)


@pytest.mark.parametrize("share", [0.6, 1.0])
@pytest.mark.parametrize("prompt", ["one image", "padded batch", "video"])
def test_a_bias_weighs_keys_in_later_blocks(
    miniature: Miniature, prompt: str, share: float
) -> None:
    """Also where nothing is dropped; and a second stage adds to what the first one gave."""
    inputs, sites = placed(miniature, prompt), (vision(1), last_site(miniature))
    pruner = Weigh(sites=sites, share=share)
    rows = encoder_rows(miniature, inputs)
    if any(len(set(real(one))) < len(real(one)) for one in rows):
        with pytest.raises(Unsupported, match="visual tokens of this image share patches"):
            run(miniature.model, inputs, pruner)
        return
    answer, got, trace = run(miniature.model, inputs, pruner)
    given = pruner.biases  # type: ignore[attr-defined]
    count = len(trace.samples)
    biases = [
        {site: given[count * number + row] for number, site in enumerate(sites)}
        for row in range(count)
    ]
    want = hidden(miniature, inputs, answer, trace, biases=biases)
    torch.testing.assert_close(got, want, **CLOSE)
    unweighed = hidden(miniature, inputs, answer, trace)
    assert (unweighed - got).abs().max() > 5e-3


def real(rows: Any) -> list[int]:
    """All patches of a sample's tokens, as often as tokens are made of them."""
    patches: list[int] = rows.patches[rows.patches >= 0].tolist()
    return patches


def test_features_are_the_rows_that_enter_the_block(miniature: Miniature) -> None:
    """A token's patches side by side, in the order of the tokens that have any."""
    inputs, pruner = one(miniature), Blend()
    lvlm, entered = family_of(miniature.model), []
    block = lvlm.blocks(miniature.model)[1]
    handle = block.register_forward_pre_hook(
        lambda _, args, kwargs: entered.append([*args, *kwargs.values()][0]),
        with_kwargs=True,
    )
    with torch.no_grad():
        miniature.model(**inputs)
    handle.remove()
    (rows,) = encoder_rows(miniature, inputs)
    with suppress(Unsupported):  # where nothing can be merged it is shown them all the same
        run(miniature.model, inputs, pruner)
    features = pruner.rows[0][0]  # type: ignore[attr-defined]
    patches = rows.patches[rows.patches[:, 0] >= 0]
    want = entered[0].reshape(-1, entered[0].shape[-1])[patches].flatten(1)
    assert torch.equal(features, want)


# ---- what is really gone -------------------------------------------------------------------------


@pytest.mark.parametrize("prompt", ["one image", "padded batch", "video"])
def test_blocks_run_over_fewer_rows(miniature: Miniature, prompt: str) -> None:
    """As many rows go through every block as tokens are alive there, or share a row with one."""
    inputs, lvlm = placed(miniature, prompt), family_of(miniature.model)
    sizes: list[int] = []
    handles = [
        lvlm.block_attention(block).register_forward_pre_hook(
            lambda _, args, kwargs: sizes.append(
                (args or (kwargs["hidden_states"],))[0].shape[:-1].numel()
            ),
            with_kwargs=True,
        )
        for block in lvlm.blocks(miniature.model)
    ]
    with torch.no_grad():
        miniature.model(**inputs)
        full, sizes[:] = list(sizes), []
        with prune(miniature.model, Inside(share=0.5)) as trace:
            miniature.model(**inputs)
    for handle in handles:
        handle.remove()
    live = torch.ones(full[0], dtype=torch.bool)
    for rows in encoder_rows(miniature, inputs):
        live[real(rows)] = False
    for rows, sample in zip(encoder_rows(miniature, inputs), trace.samples, strict=True):
        survivors = rows.patches[sample.kept[vision(1)]]
        live[survivors[survivors >= 0]] = True
    assert sizes == [full[0], *[int(live.sum())] * (len(full) - 1)]
    assert sizes[-1] < full[-1]


@pytest.mark.parametrize("prompt", ["one image", "two images", "video"])
@pytest.mark.parametrize("plan", ["first block", "two stages", "everywhere"])
def test_flops_equal_torchs_counter(miniature: Miniature, plan: str, prompt: str) -> None:
    inputs, lvlm, model = placed(miniature, prompt), family_of(miniature.model), miniature.model
    session = prune(model, Inside(sites=PLANS[plan](miniature)))
    with torch.no_grad(), session as trace, counter() as flops:
        model(**inputs, logits_to_keep=1)
    if any(name.endswith("rotary_emb") for name in flops.get_flop_counts()):
        pytest.skip("this transformers makes rotary tables by matrix products, which torch counts")
    assert sample_flops(model, lvlm, inputs, trace.samples[0]).total == counted(flops)


def test_no_trace_is_left(miniature: Miniature) -> None:
    inputs, model = one(miniature), miniature.model

    def hooks() -> int:
        return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())

    before, count = plain(model, inputs), hooks()
    run(model, inputs, Inside())
    with pytest.raises(ZeroDivisionError), prune(model, Raises()):
        model.generate(**inputs, max_new_tokens=2)
    assert hooks() == count
    assert not any("forward" in vars(module) for module in model.modules())
    assert {m.config._attn_implementation for m in model.modules() if hasattr(m, "config")} == {
        "sdpa"
    }
    assert torch.equal(plain(model, inputs), before)


@dataclass(frozen=True)
class Raises(Inside):
    """Fails in the middle of the encoder."""

    def prune(self, tokens: VisualTokens, stage: Stage) -> Keep:
        raise ZeroDivisionError


# ---- signals -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Look(Inside):
    """Notes what it is shown at every stage."""

    wants: tuple[Signal, ...] = ()
    layers: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "seen", [])

    @property
    def reads(self) -> Reads:
        return Reads(frozenset(self.wants), dict.fromkeys(self.wants, self.layers))

    def prune(self, tokens: VisualTokens, stage: Stage) -> Keep:
        self.seen.append(tokens)  # type: ignore[attr-defined]
        return super().prune(tokens, stage)


def heads_signals(miniature: Miniature) -> tuple[Signal, ...]:
    every = (Signal.CLS_ATTENTION, Signal.RECEIVED_ATTENTION)
    return tuple(signal for signal in every if family_of(miniature.model).lacks(signal) is None)


@pytest.mark.parametrize("prompt", ["one image", "video"])
def test_signals_are_those_of_the_block_before_and_of_survivors(
    miniature: Miniature, prompt: str
) -> None:
    """Where a method names no block; attention is that among the rows that are left."""
    inputs = placed(miniature, prompt)
    look = Look(sites=(vision(1), last_site(miniature), INPUT), wants=heads_signals(miniature))
    _, _, trace = run(miniature.model, inputs, look)
    (rows,), (sample,) = encoder_rows(miniature, inputs), trace.samples
    kept = {site: index for site, index in sample.kept.items() if site != INPUT}
    oracle = HiddenRows(miniature.model, [rows], [kept])
    with oracle.attached(), torch.no_grad():
        miniature.model(**inputs)
    seen = look.seen  # type: ignore[attr-defined]
    blocks = (0, last_site(miniature).layer - 1, last_site(miniature).layer)
    for tokens, block in zip(seen, blocks, strict=True):
        patches = rows.patches[tokens.index]
        weights = (patches >= 0).float()
        for signal, by_block in (
            (Signal.RECEIVED_ATTENTION, oracle.attention),
            (Signal.CLS_ATTENTION, oracle.first_rows),
        ):
            if signal not in look.needs:
                continue
            values = torch.cat(by_block[block], dim=1)[:, patches.clamp(min=0)]
            want = (values * weights).mean(-1)
            torch.testing.assert_close(tokens.signals[signal][0], want, atol=1e-5, rtol=1e-4)


def test_features_and_keys_inside_are_those_of_the_full_run_before_the_first_stage(
    miniature: Miniature,
) -> None:
    inputs = one(miniature)
    wants = (Signal.ENCODER_FEATURES, Signal.ENCODER_KEYS)
    inside = Look(sites=(vision(1),), wants=wants, layers=(0,))
    behind = Look(sites=(INPUT,), wants=wants, layers=(0,))
    run(miniature.model, inputs, inside)
    run(miniature.model, inputs, behind)
    early, late = inside.seen[0], behind.seen[0]  # type: ignore[attr-defined]
    place = torch.searchsorted(late.index, early.index)
    for signal, axis in ((Signal.ENCODER_FEATURES, 1), (Signal.ENCODER_KEYS, 2)):
        want = late.signals[signal].index_select(axis, place)
        assert torch.equal(early.signals[signal], want)


def test_signals_of_later_blocks_do_not_exist_there(miniature: Miniature) -> None:
    look = Look(sites=(vision(1), INPUT), wants=(Signal.ENCODER_KEYS,), layers=(0, -1))
    run(miniature.model, one(miniature), look)
    early, late = look.seen  # type: ignore[attr-defined]
    assert Signal.ENCODER_KEYS not in early.signals
    with pytest.raises(AttributeError, match="encoder_keys"):
        _ = early.encoder_keys
    assert late.encoder_keys.shape[0] == 2


def test_texts_and_clip_are_shown_there_too() -> None:
    miniature = build("llava")
    given = told(miniature, "one image")
    wants = (Signal.CLIP_TEXT, Signal.CLIP_PATCHES, Signal.TEXT_PIECES, Signal.PICTURES)
    inside = Look(sites=(vision(1),), wants=wants)
    behind = Look(sites=(INPUT,), wants=wants)
    for look in (inside, behind):
        run(miniature.model, one(miniature), look, **given)
    early, late = inside.seen[0], behind.seen[0]  # type: ignore[attr-defined]
    for signal in (Signal.CLIP_TEXT, Signal.CLIP_PATCHES):
        torch.testing.assert_close(early.signals[signal], late.signals[signal])
    assert early.text_pieces == late.text_pieces
    assert torch.equal(early.pictures[0], late.pictures[0])


def test_a_memo_lives_through_all_stages(miniature: Miniature) -> None:
    @dataclass(frozen=True)
    class Remembers(Inside):
        def prune(self, tokens: VisualTokens, stage: Stage) -> Keep:
            tokens.memo.setdefault("sites", []).append(stage.site)
            object.__setattr__(self, "sites_seen", tokens.memo["sites"])
            return super().prune(tokens, stage)

    pruner = Remembers(sites=(vision(1), INPUT, llm(2)))
    run(miniature.model, one(miniature), pruner)
    assert pruner.sites_seen == [vision(1), INPUT, llm(2)]  # type: ignore[attr-defined]


# ---- refusals ------------------------------------------------------------------------------------


def refused(model: Any, inputs: dict[str, Any], pruner: Pruner, **options: Any) -> str:
    with pytest.raises((Unsupported, EngineError, BudgetError)) as error:
        run(model, inputs, pruner, **options)
    return str(error.value)


def test_images_that_are_encoded_already(miniature: Miniature) -> None:
    inputs = one(miniature)
    encoded = encode(miniature.model, inputs)
    if "mm_encoder_outputs" not in encoded:
        pytest.skip("this transformers takes no encodings")
    reason = refused(miniature.model, encoded, Inside())
    assert "vision:1, inside the vision encoder, which ran before prune(...)" in reason
    with pytest.raises(Unsupported, match="inside the vision encoder: give its images as they are"):
        encode(miniature.model, inputs, [Inside()])


def test_blocks_that_nothing_is_read_behind(miniature: Miniature) -> None:
    beyond = vision(last_site(miniature).layer + 1)
    reason = refused(miniature.model, one(miniature), Inside(sites=(beyond,)))
    assert f"prunes at {beyond}, but the projector reads block {beyond.layer - 1}" in reason
    reason = refused(miniature.model, one(miniature), Inside(sites=(vision(0),)))
    assert "prunes at vision:0, before any block has run" in reason


def test_a_plan_that_the_site_does_not_announce(miniature: Miniature) -> None:
    @dataclass(frozen=True)
    class Secretive(Inside):
        def site(self) -> Site:
            return INPUT

    reason = refused(miniature.model, one(miniature), Secretive())
    assert "site() says input" in reason


def test_newlines_always_survive() -> None:
    miniature = build("llava_next")
    inputs = one(miniature, (112, 112))
    answer, got, trace = run(miniature.model, inputs, Inside(), plan=(Stage(vision(1), 10),))
    (sample,) = trace.samples
    newlines = sample.layout.newline.nonzero()[:, 0]
    assert set(newlines.tolist()) < set(sample.kept[vision(1)].tolist())
    assert len(sample.kept[vision(1)]) == 10
    torch.testing.assert_close(got, hidden(miniature, inputs, answer, trace), **CLOSE)
    reason = refused(miniature.model, inputs, Inside(), plan=(Stage(vision(1), 5),))
    assert "5 visual tokens are out of reach at vision:1: 8 are newlines" in reason


def test_a_prompt_with_an_image_and_a_video() -> None:
    miniature = build("qwen2_vl")
    from conftest import picture

    frames = [picture(112, 84, i) for i in range(4)]
    inputs = miniature.inputs(([picture(112, 84)], "color of 5"), video=frames)
    reason = refused(miniature.model, inputs, Inside())
    assert "a prompt with an image and a video cannot be pruned at vision:1" in reason


def test_a_budget_counts_it_like_the_input(miniature: Miniature) -> None:
    """A stage in the encoder decides how many tokens enter the language model."""

    @dataclass(frozen=True)
    class Plain(Draw):
        def site(self) -> Site:
            return vision(1)

    _, _, trace = run(miniature.model, one(miniature), Plain(), budget=0.5)
    (sample,) = trace.samples
    assert sample.spent("mean") == sample.spent("input") == sample.spent("kv")
    assert abs(sample.spent("mean") - Budget(0.5).tokens(sample.available)) <= 0.5


# ---- a sweep -------------------------------------------------------------------------------------

EARLY = """
from dataclasses import dataclass

import torch
from prunebench import ScorePruner, Signal, register, vision


@register()
@dataclass(frozen=True)
class Early(ScorePruner):
    needs = frozenset({Signal.RECEIVED_ATTENTION})

    def site(self):
        return vision(2)

    def score(self, tokens):
        return tokens.received_attention[0].mean(0)
"""


def test_a_sweep_shares_no_encoding_with_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Quality and cost; the encoder's FLOPs fall for this method and for no other."""
    file, out = tmp_path / "early.py", tmp_path / "study"
    file.write_text(EARLY)
    options = ["limit=2", "budgets=0.5", "controls=false", "cost.pairs=1", "cost.warmup=0"]
    methods = f"methods=none,random,{file}"
    assert main(["sweep", methods, *options, "cost.new_tokens=2", f"out={out}"]) == 0
    capsys.readouterr()
    rows = {
        path.parent.name.split("__")[1]: pd.read_parquet(path)
        for path in out.glob("cells/*/samples.parquet")
        if not path.parent.name.endswith("__cost")
    }
    assert set(rows) == {"none", "random", "early"}
    full, vision_flops = rows["none"], {name: one.flops_vision for name, one in rows.items()}
    assert (vision_flops["random"] == vision_flops["none"]).all()
    assert (vision_flops["early"] < vision_flops["none"]).all()
    assert (rows["early"].tokens_input == rows["random"].tokens_input).all()
    assert (rows["early"].tokens_input * 2 <= full.tokens_input + 1).all()
