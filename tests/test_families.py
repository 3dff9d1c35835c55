"""Every family keeps the promises that the engine makes, shown on miniatures of the stock classes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import families
import numpy as np
import pytest
import torch
from conftest import counted, picture
from families import Family
from oracle import logits
from PIL import Image
from test_equivalence import PLANS, Draw, dead_columns, run
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
    VisualTokens,
    alive,
    llm,
    prune,
    registry,
)
from prunebench.engine.counter import counter
from prunebench.engine.encode import encode
from prunebench.measure.evidence import evidence_mask
from prunebench.measure.flops import head, llm_prefill
from prunebench.models import family_of
from prunebench.models.base import Originals, Unsupported
from prunebench.sites import Part
from prunebench.testing import matrix as support
from prunebench.testing.samples import facts

FAMILIES = families.names()
build = cache(families.build)


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> Family:
    return build(request.param)


def one(family: Family, size: tuple[int, int] | None = None, **options: Any) -> dict[str, Any]:
    """The inputs of one image and a question."""
    return family.inputs(([picture(*(size or family.sizes[0]))], "color of 5"), **options)


PROMPTS: dict[str, Callable[[Family], dict[str, Any]]] = {
    "one image": one,
    "two images": lambda f: f.inputs(
        ([picture(*f.sizes[0]), picture(*f.sizes[1], 1)], "color of 5")
    ),
    "padded batch": lambda f: f.inputs(
        ([picture(*f.sizes[0])], "color of 5"),
        ([picture(*f.sizes[1], 1), picture(*f.sizes[2], 2)], "digit on red square"),
    ),
    "every size": lambda f: f.inputs(
        *[([picture(*size, i)], "color of 5") for i, size in enumerate(f.sizes)]
    ),
    "video": lambda f: f.inputs(([], "color of 5"), video=[picture(112, 84, i) for i in range(4)]),
}


def made(family: Family, prompt: str) -> dict[str, Any]:
    if prompt == "video" and family.video is None:
        pytest.skip(f"{family.name} has no video")
    return PROMPTS[prompt](family)


def plain(model: Any, inputs: dict[str, Any]) -> Tensor:
    out = model.generate(
        **inputs,
        max_new_tokens=5,
        min_new_tokens=5,
        output_logits=True,
        return_dict_in_generate=True,
    )
    return torch.stack(out.logits, dim=1)


@pytest.mark.parametrize("site", [INPUT, llm(2)], ids=str)
@pytest.mark.parametrize("prompt", PROMPTS)
def test_keep_all_is_bit_identical(family: Family, prompt: str, site: Site) -> None:
    inputs = made(family, prompt)

    class All(Draw):
        def plan(self, budget: Any, available: int, layers: int) -> tuple[Stage, ...]:
            return (Stage(site, available),)

    _, got, _ = run(family.model, inputs, All())
    assert torch.equal(got, plain(family.model, inputs))


@pytest.mark.parametrize("positions", ["original", "compact"])
@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("plan", PLANS)
def test_dropping_equals_hiding(family: Family, plan: str, prompt: str, positions: Any) -> None:
    """Kept tokens, positions, masks and caches are right at every decode step; cache lengths are
    those of the trace.
    """
    inputs = made(family, prompt)
    tokens, got, trace = run(family.model, inputs, Draw(), plan=PLANS[plan], positions=positions)
    want = logits(
        family.model,
        inputs,
        tokens,
        dead_columns(family.model, inputs, trace),
        positions == "compact",
    )
    torch.testing.assert_close(got, want, atol=5e-4, rtol=2e-4)
    for sample in trace.samples:
        assert sample.cached == [
            min([s.keep for s in PLANS[plan] if s.site.layer <= n] or [sample.available])
            for n in range(6)
        ]


def test_the_oracle_can_tell(family: Family) -> None:
    """Hiding one other token changes the logits by far more than the tolerance."""
    inputs = one(family)
    tokens, got, trace = run(family.model, inputs, Draw(), plan=PLANS["llm:2"])
    dead = dead_columns(family.model, inputs, trace)
    revived = dead[2][0].nonzero()[0, 0]
    for mask in dead[2:]:
        mask[0, revived] = False
    assert (logits(family.model, inputs, tokens, dead) - got).abs().max() > 5e-3


def test_batch_equals_one_by_one(family: Family) -> None:
    prompts = [
        ([picture(*family.sizes[0])], "color of 5"),
        ([picture(*family.sizes[1], 1)], "digit on red square"),
    ]
    plan = PLANS["input and llm"]
    _, together, both = run(family.model, family.inputs(*prompts), Draw(), plan=plan, seeds=[3, 4])
    for row, prompt in enumerate(prompts):
        _, alone, trace = run(
            family.model, family.inputs(prompt), Draw(), plan=plan, seeds=[3 + row]
        )
        torch.testing.assert_close(together[row], alone[0], atol=5e-4, rtol=2e-4)
        for site, kept in trace.samples[0].kept.items():
            assert both.samples[row].kept[site].tolist() == kept.tolist()


@pytest.mark.parametrize("prompt", PROMPTS)
def test_encode_once_equals_encode_each(family: Family, prompt: str) -> None:
    inputs = made(family, prompt)
    encoded = encode(family.model, inputs)
    if "mm_encoder_outputs" not in encoded:
        assert encoded == inputs
        pytest.skip("this transformers takes no encodings; every call encodes")
    assert not set(family_of(family.model).vision_inputs) & set(encoded)
    for plan in ("input", "three stages"):
        _, each, _ = run(family.model, inputs, Draw(), plan=PLANS[plan], seeds=[1])
        _, once, _ = run(family.model, encoded, Draw(), plan=PLANS[plan], seeds=[1])
        assert torch.equal(each, once)


@dataclass(frozen=True)
class Spy(Pruner):
    """Keeps the tokens that the layer before attends to most, and notes all that it is shown."""

    needs = frozenset(
        {
            Signal.LAST_QUERY_ATTENTION,
            Signal.NEXT_QUERY_ATTENTION,
            Signal.TEXT_ATTENTION,
            Signal.KEYS,
            Signal.TEXT_FEATURES,
        }
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "seen", [])

    def site(self) -> Site:
        return llm(2)

    def prune(self, tokens: VisualTokens, stage: Stage) -> Keep:
        self.seen.append(tokens)  # type: ignore[attr-defined]
        return Keep(tokens.last_query_attention.mean(0).topk(stage.keep).indices)


@pytest.mark.parametrize("name", FAMILIES)
def test_signals_and_selection_do_not_depend_on_the_kernel(name: str) -> None:
    sdpa, eager = build(name), build(name, "eager")
    spies = [Spy(), Spy()]
    for spy, family in zip(spies, (sdpa, eager), strict=True):
        with prune(family.model, spy, plan=(Stage(llm(2), 7),)):
            family.model.generate(**PROMPTS["padded batch"](family), max_new_tokens=1)
    for ours, theirs in zip(list(spies[0].seen), list(spies[1].seen), strict=True):  # type: ignore[attr-defined]
        for signal in Spy.needs:
            torch.testing.assert_close(
                ours.signals[signal], theirs.signals[signal], atol=1e-4, rtol=1e-3
            )
        assert (
            spies[0].prune(ours, Stage(llm(2), 7)).index.tolist()
            == spies[1].prune(theirs, Stage(llm(2), 7)).index.tolist()
        )


def test_signals_are_what_eager_attention_puts_out(family: Family) -> None:
    """The row of the last query, from the model's own attention weights."""
    eager = build(next(n for n in FAMILIES if build(n) is family), "eager")
    inputs, spy = one(eager), Spy()
    with torch.no_grad():
        weights = eager.model(**inputs, output_attentions=True).attentions[1][0]
        with prune(eager.model, spy, plan=(Stage(llm(2), 7),)):
            eager.model(**inputs)
    visual = family_of(eager.model).visual(eager.model, inputs["input_ids"])[0]
    torch.testing.assert_close(
        spy.seen[0].last_query_attention, weights[:, -1, visual], atol=1e-5, rtol=1e-4
    )  # type: ignore[attr-defined]


def test_layouts_say_where_every_token_lies(family: Family) -> None:
    """A patch of another colour changes the pixels of the tokens that the layout and the encoder's
    rows put there.
    """
    lvlm = family_of(family.model)
    for size in family.sizes:
        box = (size[0] // 4, size[1] // 4, 3 * size[0] // 4, 3 * size[1] // 4)
        image = picture(*size)
        painted = image.copy()
        painted.paste((255, 0, 0), box)
        first, second = (family.inputs(([one_of], "color of 5")) for one_of in (image, painted))
        (layout,) = lvlm.layouts(family.model, first, Originals([[size]], family.processor))
        assert int(lvlm.visual(family.model, first["input_ids"]).sum()) == len(layout)
        (rows,) = lvlm.encoder_rows(family.model, first, [layout])
        before, after = (patch_embeddings(family, inputs) for inputs in (first, second))
        changed = ((before - after).abs().amax(-1) > 1e-4)[rows.patches.clamp(min=0)].any(-1) & (
            rows.patches[:, 0] >= 0
        )
        evidence = evidence_mask(layout, box, size)
        assert changed[evidence].all(), f"{size}: evidence that no pixel of the box reaches"
        # resampling and merged patches blur the box by a cell at most
        for number, tile in enumerate(layout.tiles):
            grid = layout.grid(number)[:, : tile.columns]
            if grid.numel():
                assert not (changed[grid] & ~grown(evidence[grid])).any(), (
                    f"{size}: tile {number} shows the box elsewhere"
                )
        assert not layout.newline[evidence].any()


def patch_embeddings(family: Family, inputs: dict[str, Any]) -> Tensor:
    """[R, D] what enters the first vision block, all sequences one after the other."""
    entered: list[Tensor] = []
    block = family_of(family.model).blocks(family.model)[0]
    handle = block.register_forward_pre_hook(
        lambda _, args, kw: entered.append((args or (kw["hidden_states"],))[0]), with_kwargs=True
    )
    with torch.no_grad():
        family.model(**inputs)
    handle.remove()
    return torch.cat([hidden.reshape(-1, hidden.shape[-1]) for hidden in entered])


def grown(mask: Tensor) -> Tensor:
    """[rows, columns] the mask and all its neighbours."""
    return torch.nn.functional.max_pool2d(mask[None, None].float(), 3, 1, 1)[0, 0] > 0


@pytest.mark.parametrize("prompt", PROMPTS)
def test_tokens_come_from_their_patches(family: Family, prompt: str) -> None:
    """Changing one token's rows behind the block that the projector reads changes the tokens that
    share one, and no other.
    """
    inputs, lvlm = made(family, prompt), family_of(family.model)
    layouts = lvlm.layouts(family.model, inputs)
    rows = lvlm.encoder_rows(family.model, inputs, layouts)
    block = lvlm.blocks(family.model)[lvlm.feature_block(family.model)]

    def features(changed: Tensor | None) -> Tensor:
        start = 0

        def push(*args: Any, **kwargs: Any) -> Any:
            nonlocal start
            output = stock(*args, **kwargs)
            hidden = (output[0] if isinstance(output, tuple) else output).clone(
                memory_format=torch.contiguous_format
            )
            flat = hidden.view(-1, hidden.shape[-1])
            for place in changed.tolist() if changed is not None else []:
                if start <= place < start + len(flat):
                    flat[place - start] += torch.randn(
                        flat.shape[1], generator=torch.Generator().manual_seed(1)
                    )
            start += len(flat)
            return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

        # not a hook: transformers takes hidden states in hooks of its own, which come first
        stock, block.forward = block.forward, push
        entered: list[Tensor] = []
        watch = family.model.get_decoder().register_forward_pre_hook(
            lambda _, __, kw: entered.append(kw["inputs_embeds"]), with_kwargs=True
        )
        with torch.no_grad():
            family.model(**inputs)
        del block.forward
        watch.remove()
        return entered[0]

    before = features(None)
    visual = lvlm.visual(family.model, inputs["input_ids"])
    for row, (layout, found) in enumerate(zip(layouts, rows, strict=True)):
        assert len(found.patches) == len(layout)
        patches = (found.patches[:, 0] >= 0).nonzero()[:, 0]
        for token in patches[[0, len(patches) // 2, -1]].tolist():
            moved = (features(found.patches[token]) - before).abs().amax(-1) > 1e-6
            # where tokens are interpolated, neighbours are made of the same patch
            sharing = torch.isin(found.patches, found.patches[token]).any(-1)
            assert moved[row, visual[row]].tolist() == sharing.tolist()
            assert moved.sum() == sharing.sum()
        assert layout.newline.tolist() == (found.patches[:, 0] < 0).tolist()


@dataclass(frozen=True)
class Look(Pruner):
    """Keeps whatever it may and notes what it is shown of the vision encoder."""

    wants: tuple[Signal, ...] = ()
    layers: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "seen", [])

    @property
    def reads(self) -> Reads:
        return Reads(frozenset(self.wants), blocks=dict.fromkeys(self.wants, self.layers))

    def prune(self, tokens: VisualTokens, stage: Stage) -> Keep:
        self.seen.append(tokens)  # type: ignore[attr-defined]
        return Keep(torch.arange(stage.keep))


def encoder_signals(family: Family) -> tuple[Signal, ...]:
    every = (
        Signal.CLS_ATTENTION,
        Signal.RECEIVED_ATTENTION,
        Signal.ENCODER_FEATURES,
        Signal.ENCODER_KEYS,
        Signal.CLS_FEATURES,
    )
    return tuple(signal for signal in every if family_of(family.model).lacks(signal) is None)


@pytest.mark.parametrize("prompt", PROMPTS)
def test_encoder_signals_are_the_same_however_the_encoder_runs(family: Family, prompt: str) -> None:
    """In generate, in a plain call, encoded before, and one by one."""
    inputs, model = made(family, prompt), family.model
    looks = [Look(encoder_signals(family), (0, -1)) for _ in range(3)]
    stage = (Stage(INPUT, 5),)
    with torch.no_grad():
        with prune(model, looks[0], plan=stage):
            model.generate(**inputs, max_new_tokens=1)
        with prune(model, looks[1], plan=stage):
            model(**inputs)
        encoded = encode(model, inputs, [looks[2]])
        with prune(model, looks[2], plan=stage):
            model.generate(**encoded, max_new_tokens=1)
    for first, second, third in zip(*(look.seen for look in looks), strict=True):  # type: ignore[attr-defined]
        assert set(first.signals) == set(encoder_signals(family))
        for signal, value in first.signals.items():
            assert value.shape[0] == 2
            assert torch.equal(value, second.signals[signal])
            assert torch.equal(value, third.signals[signal])
        assert first.encoder_features.shape[1] == first.received_attention.shape[2] == len(first)
        assert first.received_attention[..., ~first.layout.newline].min() > 0
        assert not first.encoder_features[:, first.layout.newline].any()


def test_encoder_attention_is_what_eager_puts_out(family: Family) -> None:
    """CLS and received attention, from the weights of the model's own eager kernel, spied on from
    outside.
    """
    name = next(n for n in FAMILIES if build(n) is family)
    eager, lvlm = build(name, "eager"), family_of(family.model)
    inputs = PROMPTS["two images"](eager)
    attention = lvlm.block_attention(lvlm.blocks(eager.model)[1])
    module = __import__(type(attention).__module__, fromlist=["x"])
    kernel, weights = module.eager_attention_forward, []

    def spied(called: Any, *args: Any, **kwargs: Any) -> Any:
        out = kernel(called, *args, **kwargs)
        if called is attention:
            weights.append(out[1])
        return out

    look = Look(encoder_signals(family), (1,))
    module.eager_attention_forward = spied
    try:
        with torch.no_grad(), prune(eager.model, look, plan=(Stage(INPUT, 5),)):
            eager.model(**inputs)
    finally:
        module.eager_attention_forward = kernel
    seen = look.seen[0]  # type: ignore[attr-defined]
    (rows,) = lvlm.encoder_rows(eager.model, inputs, lvlm.layouts(eager.model, inputs))
    shown = rows.patches[:, 0] >= 0
    received = torch.cat([w.mean(2).transpose(0, 1).flatten(1) for w in weights], dim=1)[
        :, rows.patches
    ].mean(-1)
    torch.testing.assert_close(
        seen.received_attention[0][:, shown], received[:, shown], atol=1e-5, rtol=1e-4
    )
    if Signal.CLS_ATTENTION in seen.signals:
        cls = torch.cat([w[:, :, 0].transpose(0, 1).flatten(1) for w in weights], dim=1)[
            :, rows.patches
        ].mean(-1)
        torch.testing.assert_close(
            seen.cls_attention[0][:, shown], cls[:, shown], atol=1e-5, rtol=1e-4
        )


def test_a_block_that_does_not_exist(family: Family) -> None:
    with (
        pytest.raises(Unsupported, match="encoder has blocks 0"),
        prune(family.model, Look((Signal.ENCODER_KEYS,), (99,))),
    ):
        pass


@pytest.mark.parametrize("prompt", ["one image", "two images", "video"])
def test_flops_equal_torchs_counter(family: Family, prompt: str) -> None:
    inputs, lvlm, model = made(family, prompt), family_of(family.model), family.model
    with torch.no_grad(), counter() as flops:
        model(**inputs, logits_to_keep=1)
    vision, projector = lvlm.vision_flops(model.config, inputs)
    text = model.config.get_text_config()
    language = llm_prefill(text, [inputs["input_ids"].shape[1]] * 6) + head(text)
    assert vision + projector + language == counted(flops)
    with torch.no_grad(), counter() as flops:
        lvlm.encode(model, inputs)
    assert vision + projector == counted(flops)


def test_no_trace_is_left(family: Family) -> None:
    inputs, model = one(family), family.model

    def hooks() -> int:
        return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())

    before, count = plain(model, inputs), hooks()
    with prune(model, Look(encoder_signals(family)), plan=(Stage(INPUT, 5),)):
        model.generate(**inputs, max_new_tokens=2)
    assert hooks() == count
    assert {m.config._attn_implementation for m in model.modules() if hasattr(m, "config")} == {
        "sdpa"
    }
    assert torch.equal(plain(model, inputs), before)


def test_pictures_differ() -> None:
    """The tests above would be blind to mixed-up images if these were alike."""
    assert isinstance(picture(8, 8), Image.Image)
    assert picture(8, 8, 0).tobytes() != picture(8, 8, 1).tobytes()


def ready(method: str) -> Pruner:
    """The method with default settings; weights are drawn, for there are none for miniatures of no
    training.
    """
    pruner = registry.build(method)
    try:
        pruner.prepared(facts())
    except Unsupported:
        return registry.build(method, {"weights": "random"})
    return pruner


def told(family: Family, prompt: str) -> dict[str, Any]:
    """What the caller of `prune` knows of one of the prompts."""
    frames = {
        "one image": [[[picture(*family.sizes[0])]]],
        "padded batch": [
            [[picture(*family.sizes[0])]],
            [[picture(*family.sizes[1], 1)], [picture(*family.sizes[2], 2)]],
        ],
        "video": [[[picture(112, 84, i) for i in range(4)]]],
    }[prompt]
    pictures = [
        [torch.stack([torch.from_numpy(np.array(frame)) for frame in one]) for one in row]
        for row in frames
    ]
    return {
        "questions": ["color of 5", "digit on red square"][: len(frames)],
        "pictures": pictures,
        "masks": [
            [torch.stack([one[0, ..., 0] > 128, one[0, ..., 1] > 128]) for one in row]
            for row in pictures
        ],
        "processor": family.processor,
    }


def budget_of(pruner: Pruner, available: int) -> Budget:
    """A budget that the method can meet in six layers."""
    for amount in (0.5, 0.6, 0.75, 1.0):
        try:
            stages = pruner.plan(Budget(amount), available, 6)
        except BudgetError:
            continue
        if sum(alive(stages, available, 6)) / 6 <= amount * available + 0.5:
            return Budget(amount)
    raise AssertionError(f"{pruner} reaches no budget")


@pytest.mark.parametrize("method", registry.names())
def test_the_matrix_says_what_runs(family: Family, method: str) -> None:
    """A method meets its budget exactly, or is refused with the reason that the documentation
    gives.
    """
    (place,) = [
        one
        for one in support.matrix()
        if (one.method, one.family) == (method, family_of(family.model).name)
    ]
    pruner, lvlm, model = ready(method), family_of(family.model), family.model
    for prompt in ("one image", "padded batch", "video"):
        if prompt == "video" and family.video is None:
            continue
        inputs = PROMPTS[prompt](family)
        if place.reason:
            with (
                pytest.raises(Unsupported) as refused,
                prune(model, pruner, 0.5, **told(family, prompt)),
            ):
                pass
            assert str(refused.value) == place.reason
        elif pruner.site().part is Part.PIXELS:
            resizes(family, pruner)
        else:
            available = [len(layout) for layout in lvlm.layouts(model, inputs)]
            budget = budget_of(pruner, min(available))
            with prune(model, pruner, budget, **told(family, prompt)) as trace:
                model.generate(**inputs, max_new_tokens=2, min_new_tokens=2)
            for sample, count in zip(trace.samples, available, strict=True):
                assert sample.available == count
                for stage in sample.stages:
                    kept = len(sample.kept[stage.site])
                    assert kept <= stage.keep if pruner.dynamic else kept == stage.keep
                over = sample.spent(budget.kind) - budget.tokens(count)
                assert over <= 0.5 + 1e-6
                assert pruner.dynamic or over >= -0.5 - 1e-6


def resizes(family: Family, pruner: Pruner) -> None:
    """A smaller image comes out of the processor with as many tokens as the method planned."""
    lvlm, size = family_of(family.model), family.sizes[0]
    cell = lvlm.token_pixels(family.model)
    assert cell is not None
    (before,) = lvlm.layouts(family.model, one(family))
    width, height = pruner.resize(size, cell, Budget(0.5))
    (after,) = lvlm.layouts(family.model, one(family, (width, height)))
    assert len(after) == (width // cell) * (height // cell) <= 0.5 * len(before)


def test_the_documentation_shows_the_matrix() -> None:
    page = Path(__file__).parents[1] / "docs" / "models.md"
    assert page.read_text() == support.markdown(), "run `make docs`"
    assert {family_of(build(name).model).name for name in FAMILIES} >= {
        place.family for place in support.matrix()
    }
