"""Every family keeps the promises that the engine makes, on miniatures of the stock classes."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import families
import numpy as np
import pytest
import torch
from conftest import counted, picture
from families import Miniature
from families.llava import clip as named_clip
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
    models,
    prune,
    registry,
)
from prunebench.engine.counter import counter
from prunebench.engine.encode import encode
from prunebench.engine.ready import make_ready
from prunebench.engine.session import prune_embeds
from prunebench.measure.evidence import evidence_mask
from prunebench.measure.flops import head, llm_prefill
from prunebench.models import family_of
from prunebench.models.bare import BareDecoder
from prunebench.models.base import Originals, Unsupported
from prunebench.sites import Part
from prunebench.testing import matrix as support
from prunebench.testing.samples import facts
from prunebench.tokens import Layout, Tile

FAMILIES = families.names()
TWINS = {"gemma4", "glm4v_moe", "idefics3", "qwen3_5_moe", "qwen3_vl_moe"}
"""Those that differ from another in little, or whose images cannot be small and that have fast
tests of their own; they are left to the slow tests.
"""
MARKED = [
    pytest.param(name, marks=[pytest.mark.slow] if name in TWINS else []) for name in FAMILIES
]
build = cache(families.build)


@pytest.fixture(params=MARKED)
def miniature(request: pytest.FixtureRequest) -> Miniature:
    return build(request.param)


def one(
    miniature: Miniature, size: tuple[int, int] | None = None, **options: Any
) -> dict[str, Any]:
    """The inputs of one image and a question."""
    return miniature.inputs(([picture(*(size or miniature.sizes[0]))], "color of 5"), **options)


PROMPTS: dict[str, Callable[[Miniature], dict[str, Any]]] = {
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


def made(miniature: Miniature, prompt: str) -> dict[str, Any]:
    if prompt == "video" and miniature.video is None:
        pytest.skip(f"{miniature.name} has no video")
    return PROMPTS[prompt](miniature)


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
def test_keep_all_is_bit_identical(miniature: Miniature, prompt: str, site: Site) -> None:
    inputs = made(miniature, prompt)

    class All(Draw):
        def plan(self, budget: Any, available: int, layers: int) -> tuple[Stage, ...]:
            return (Stage(site, available),)

    _, got, _ = run(miniature.model, inputs, All())
    assert torch.equal(got, plain(miniature.model, inputs))


@pytest.mark.parametrize("positions", ["original", "compact"])
@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("plan", PLANS)
def test_dropping_equals_hiding(
    miniature: Miniature, plan: str, prompt: str, positions: Any
) -> None:
    """Kept tokens, positions, masks and caches are right at every decode step; cache lengths are
    those of the trace.
    """
    inputs = made(miniature, prompt)
    tokens, got, trace = run(miniature.model, inputs, Draw(), plan=PLANS[plan], positions=positions)
    want = logits(
        miniature.model,
        inputs,
        tokens,
        dead_columns(miniature.model, inputs, trace),
        positions == "compact",
    )
    torch.testing.assert_close(got, want, atol=5e-4, rtol=2e-4)
    for sample in trace.samples:
        assert sample.cached == [
            min([s.keep for s in PLANS[plan] if s.site.layer <= n] or [sample.available])
            for n in range(6)
        ]


def test_the_oracle_can_tell(miniature: Miniature) -> None:
    """Hiding one other token changes the logits by far more than the tolerance."""
    inputs = one(miniature)
    tokens, got, trace = run(miniature.model, inputs, Draw(), plan=PLANS["llm:2"])
    dead = dead_columns(miniature.model, inputs, trace)
    revived = dead[2][0].nonzero()[0, 0]
    for mask in dead[2:]:
        mask[0, revived] = False
    assert (logits(miniature.model, inputs, tokens, dead) - got).abs().max() > 5e-3


def test_batch_equals_one_by_one(miniature: Miniature) -> None:
    prompts = [
        ([picture(*miniature.sizes[0])], "color of 5"),
        ([picture(*miniature.sizes[1], 1)], "digit on red square"),
    ]
    plan = PLANS["input and llm"]
    _, together, both = run(
        miniature.model, miniature.inputs(*prompts), Draw(), plan=plan, seeds=[3, 4]
    )
    for row, prompt in enumerate(prompts):
        _, alone, trace = run(
            miniature.model, miniature.inputs(prompt), Draw(), plan=plan, seeds=[3 + row]
        )
        torch.testing.assert_close(together[row], alone[0], atol=5e-4, rtol=2e-4)
        for site, kept in trace.samples[0].kept.items():
            assert both.samples[row].kept[site].tolist() == kept.tolist()


@pytest.mark.parametrize("prompt", PROMPTS)
def test_encode_once_equals_encode_each(miniature: Miniature, prompt: str) -> None:
    inputs = made(miniature, prompt)
    encoded = encode(miniature.model, inputs)
    if "mm_encoder_outputs" not in encoded:
        assert encoded == inputs
        pytest.skip("this transformers takes no encodings; every call encodes")
    assert not set(family_of(miniature.model).vision_inputs) & set(encoded)
    for plan in ("input", "three stages"):
        _, each, _ = run(miniature.model, inputs, Draw(), plan=PLANS[plan], seeds=[1])
        _, once, _ = run(miniature.model, encoded, Draw(), plan=PLANS[plan], seeds=[1])
        assert torch.equal(each, once)


@dataclass(frozen=True)
class Spy(Pruner):
    """Keeps the tokens that the layer before attends to most, and notes all that it is shown."""

    seen: list[VisualTokens] = field(default_factory=list, compare=False)
    needs = frozenset(
        {
            Signal.LAST_QUERY_ATTENTION,
            Signal.NEXT_QUERY_ATTENTION,
            Signal.TEXT_ATTENTION,
            Signal.KEYS,
            Signal.TEXT_FEATURES,
        }
    )

    def site(self) -> Site:
        return llm(2)

    def prune(self, tokens: VisualTokens, stage: Stage) -> Keep:
        self.seen.append(tokens)
        return Keep(tokens.last_query_attention.mean(0).topk(stage.keep).indices)


@pytest.mark.parametrize("name", MARKED)
def test_signals_and_selection_do_not_depend_on_the_kernel(name: str) -> None:
    sdpa, eager = build(name), build(name, "eager")
    spies = [Spy(), Spy()]
    for spy, miniature in zip(spies, (sdpa, eager), strict=True):
        with prune(miniature.model, spy, plan=(Stage(llm(2), 7),)):
            miniature.model.generate(**PROMPTS["padded batch"](miniature), max_new_tokens=1)
    for ours, theirs in zip(list(spies[0].seen), list(spies[1].seen), strict=True):
        for signal in Spy.needs:
            torch.testing.assert_close(
                ours.signals[signal], theirs.signals[signal], atol=1e-4, rtol=1e-3
            )
        assert (
            spies[0].prune(ours, Stage(llm(2), 7)).index.tolist()
            == spies[1].prune(theirs, Stage(llm(2), 7)).index.tolist()
        )


def test_signals_are_what_eager_attention_puts_out(miniature: Miniature) -> None:
    """The row of the last query, from the model's own attention weights."""
    eager = build(next(n for n in FAMILIES if build(n) is miniature), "eager")
    inputs, spy = one(eager), Spy()
    with torch.no_grad():
        # layers that keep a state put out none
        place = 1 - len(family_of(eager.model).stateful(eager.model) & {0})
        weights = eager.model(**inputs, output_attentions=True).attentions[place][0]
        with prune(eager.model, spy, plan=(Stage(llm(2), 7),)):
            eager.model(**inputs)
    visual = family_of(eager.model).visual(eager.model, inputs["input_ids"])[0]
    torch.testing.assert_close(
        spy.seen[0].last_query_attention, weights[:, -1, visual], atol=1e-5, rtol=1e-4
    )


def test_layouts_say_where_every_token_lies(miniature: Miniature) -> None:
    """A patch of another colour changes the pixels of the tokens that the layout and the encoder's
    rows put there.
    """
    family = family_of(miniature.model)
    for size in miniature.sizes:
        box = (size[0] // 4, size[1] // 4, 3 * size[0] // 4, 3 * size[1] // 4)
        image = picture(*size)
        painted = image.copy()
        painted.paste((255, 0, 0), box)
        first, second = (miniature.inputs(([one_of], "color of 5")) for one_of in (image, painted))
        (layout,) = family.layouts(miniature.model, first, Originals([[size]], miniature.processor))
        assert int(family.visual(miniature.model, first["input_ids"]).sum()) == len(layout)
        (rows,) = family.encoder_rows(miniature.model, first, [layout])
        before, after = (patch_embeddings(miniature, inputs) for inputs in (first, second))
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


def patch_embeddings(miniature: Miniature, inputs: dict[str, Any]) -> Tensor:
    """[R, D] what enters the first vision block, all sequences one after the other."""
    entered: list[Tensor] = []
    block = family_of(miniature.model).blocks(miniature.model)[0]
    handle = block.register_forward_pre_hook(
        # the first argument, whatever a family calls it
        lambda _, args, kw: entered.append((*args, *kw.values())[0]),
        with_kwargs=True,
    )
    with torch.no_grad():
        miniature.model(**inputs)
    handle.remove()
    return torch.cat([hidden.reshape(-1, hidden.shape[-1]) for hidden in entered])


def grown(mask: Tensor) -> Tensor:
    """[rows, columns] the mask and all its neighbours."""
    return torch.nn.functional.max_pool2d(mask[None, None].float(), 3, 1, 1)[0, 0] > 0


@pytest.mark.parametrize("prompt", PROMPTS)
def test_tokens_come_from_their_patches(miniature: Miniature, prompt: str) -> None:
    """Changing one token's rows behind the block that the projector reads changes the tokens that
    share one, and no other.
    """
    inputs, family = made(miniature, prompt), family_of(miniature.model)
    layouts = family.layouts(miniature.model, inputs)
    rows = family.encoder_rows(miniature.model, inputs, layouts)
    block = family.blocks(miniature.model)[family.feature_block(miniature.model)]

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
        watch = miniature.model.get_decoder().register_forward_pre_hook(
            lambda _, __, kw: entered.append(kw["inputs_embeds"]), with_kwargs=True
        )
        with torch.no_grad():
            miniature.model(**inputs)
        del block.forward
        watch.remove()
        return entered[0]

    before = features(None)
    visual = family.visual(miniature.model, inputs["input_ids"])
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
    seen: list[VisualTokens] = field(default_factory=list, compare=False)

    @property
    def reads(self) -> Reads:
        return Reads(frozenset(self.wants), blocks=dict.fromkeys(self.wants, self.layers))

    def prune(self, tokens: VisualTokens, stage: Stage) -> Keep:
        self.seen.append(tokens)
        return Keep(torch.arange(stage.keep))


def encoder_signals(miniature: Miniature) -> tuple[Signal, ...]:
    every = (
        Signal.CLS_ATTENTION,
        Signal.RECEIVED_ATTENTION,
        Signal.ENCODER_FEATURES,
        Signal.ENCODER_KEYS,
        Signal.CLS_FEATURES,
    )
    return tuple(signal for signal in every if family_of(miniature.model).lacks(signal) is None)


@pytest.mark.parametrize("prompt", PROMPTS)
def test_encoder_signals_are_the_same_however_the_encoder_runs(
    miniature: Miniature, prompt: str
) -> None:
    """In generate, in a plain call, encoded before, and one by one."""
    inputs, model = made(miniature, prompt), miniature.model
    looks = [Look(encoder_signals(miniature), (0, -1)) for _ in range(3)]
    stage = (Stage(INPUT, 5),)
    with torch.no_grad():
        with prune(model, looks[0], plan=stage):
            model.generate(**inputs, max_new_tokens=1)
        with prune(model, looks[1], plan=stage):
            model(**inputs)
        encoded = encode(model, inputs, [looks[2]])
        with prune(model, looks[2], plan=stage):
            model.generate(**encoded, max_new_tokens=1)
    for first, second, third in zip(*(look.seen for look in looks), strict=True):
        assert set(first.signals) == set(encoder_signals(miniature))
        for signal, value in first.signals.items():
            assert value.shape[0] == 2
            assert torch.equal(value, second.signals[signal])
            assert torch.equal(value, third.signals[signal])
        assert first.encoder_features.shape[1] == first.received_attention.shape[2] == len(first)
        assert first.received_attention[..., ~first.layout.newline].min() > 0
        assert not first.encoder_features[:, first.layout.newline].any()


def test_encoder_attention_is_what_eager_puts_out(miniature: Miniature) -> None:
    """CLS and received attention, from the weights of the model's own eager kernel, spied on from
    outside.
    """
    name = next(n for n in FAMILIES if build(n) is miniature)
    eager, family = build(name, "eager"), family_of(miniature.model)
    inputs = PROMPTS["two images"](eager)
    attention = family.block_attention(family.blocks(eager.model)[1])
    module: Any = importlib.import_module(type(attention).__module__)
    kernel = module.eager_attention_forward
    weights: list[Tensor] = []

    def spied(called: Any, *args: Any, **kwargs: Any) -> Any:
        out = kernel(called, *args, **kwargs)
        if called is attention:
            weights.append(out[1])
        return out

    look = Look(encoder_signals(miniature), (1,))
    module.eager_attention_forward = spied
    try:
        with torch.no_grad(), prune(eager.model, look, plan=(Stage(INPUT, 5),)):
            eager.model(**inputs)
    finally:
        module.eager_attention_forward = kernel
    seen = look.seen[0]
    (rows,) = family.encoder_rows(eager.model, inputs, family.layouts(eager.model, inputs))
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


def test_a_block_that_does_not_exist(miniature: Miniature) -> None:
    with (
        pytest.raises(Unsupported, match="encoder has blocks 0"),
        prune(miniature.model, Look((Signal.ENCODER_KEYS,), (99,))),
    ):
        pass


@pytest.mark.parametrize("prompt", ["one image", "two images", "video"])
def test_flops_equal_torchs_counter(miniature: Miniature, prompt: str) -> None:
    inputs, family, model = made(miniature, prompt), family_of(miniature.model), miniature.model
    with torch.no_grad(), counter() as flops:
        model(**inputs, logits_to_keep=1)
    vision, projector = family.vision_flops(model.config, inputs)
    text = model.config.get_text_config()
    lengths = [inputs["input_ids"].shape[1]] * 6
    language = llm_prefill(text, lengths, family.layer_flops) + head(text)
    assert vision + projector + language == counted(flops)
    with torch.no_grad(), counter() as flops:
        family.encode(model, inputs)
    assert vision + projector * (not family.projects_late) == counted(flops)


def test_no_trace_is_left(miniature: Miniature) -> None:
    inputs, model = one(miniature), miniature.model

    def hooks() -> int:
        return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())

    before, count = plain(model, inputs), hooks()
    with prune(model, Look(encoder_signals(miniature)), plan=(Stage(INPUT, 5),)):
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


def told(miniature: Miniature, prompt: str) -> dict[str, Any]:
    """What the caller of `prune` knows of one of the prompts."""
    frames = {
        "one image": [[[picture(*miniature.sizes[0])]]],
        "padded batch": [
            [[picture(*miniature.sizes[0])]],
            [[picture(*miniature.sizes[1], 1)], [picture(*miniature.sizes[2], 2)]],
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
        "processor": miniature.processor,
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


OF_PROMPTS = ("visual tokens of this image share patches", "cannot be pruned there")
"""How reasons end for which a prompt is refused inside the vision encoder."""


def _pairs() -> Iterator[Any]:
    """Every method on every family; one in eight of the pairs is fast, so that each family and
    each method has some, and all are behind the mark.
    """
    for row, family in enumerate(FAMILIES):
        for column, method in enumerate(registry.names()):
            is_slow = family in TWINS or (3 * row + column) % 8
            marks = [pytest.mark.slow] if is_slow else []
            yield pytest.param(family, method, marks=marks)


@pytest.mark.parametrize(("miniature", "method"), list(_pairs()), indirect=["miniature"])
def test_the_matrix_says_what_runs(miniature: Miniature, method: str) -> None:
    """A method meets its budget exactly, or is refused with the reason that the documentation
    gives.
    """
    (place,) = [
        one
        for one in support.matrix()
        if (one.method, one.family) == (method, family_of(miniature.model).name)
    ]
    pruner = ready(method)
    for prompt in ("one image", "padded batch", "video"):
        if prompt == "video" and miniature.video is None:
            continue
        if place.reason:
            with (
                pytest.raises(Unsupported) as refused,
                prune(miniature.model, pruner, 0.5, **told(miniature, prompt)),
            ):
                pass
            assert str(refused.value) == place.reason
        elif pruner.site().part is Part.PIXELS:
            resizes(miniature, pruner)
        else:
            meets_its_budget(miniature, pruner, prompt)


def meets_its_budget(miniature: Miniature, pruner: Pruner, prompt: str) -> None:
    """It keeps at every stage what was planned."""
    family, model, inputs = family_of(miniature.model), miniature.model, PROMPTS[prompt](miniature)
    available = [len(layout) for layout in family.layouts(model, inputs)]
    budget = budget_of(pruner, min(available))
    try:
        with prune(model, pruner, budget, **told(miniature, prompt)) as trace:
            model.generate(**inputs, max_new_tokens=2, min_new_tokens=2)
    except Unsupported as error:
        # some prompts of a family, not all, are more than the encoder's stages can do
        if pruner.site().part is Part.VISION and str(error).endswith(OF_PROMPTS):
            return
        raise
    for sample, count in zip(trace.samples, available, strict=True):
        assert sample.available == count
        for stage in sample.stages:
            kept = len(sample.kept[stage.site])
            assert kept <= stage.keep if pruner.dynamic else kept == stage.keep
        over = sample.spent(budget.kind) - budget.tokens(count)
        assert over <= 0.5 + 1e-6
        assert pruner.dynamic or over >= -0.5 - 1e-6


CLIPPED = {
    "cdpruner": {},
    "hero": {},
    "igva": {"weights": "random"},
    "maskclip": {"weights": "none"},
}
"""The methods that ask a CLIP, with settings in which they do."""


@pytest.mark.parametrize("method", CLIPPED)
def test_a_clip_that_is_named_serves_every_family(miniature: Miniature, method: str) -> None:
    """Also those whose encoder is no CLIP's: the pictures are shown to it."""
    pruner = registry.build(method, {**CLIPPED[method], "clip": named_clip()})
    for prompt in ("one image", "padded batch", "video"):
        if prompt != "video" or miniature.video is not None:
            meets_its_budget(miniature, pruner, prompt)
    assert make_ready(family_of(miniature.model), miniature.model, pruner).clip == named_clip()


REASONS = {
    "scales every image to its own resolution": {"resize"},
    "is no CLIP's; name one that is shown the pictures with clip=": {"maskclip"},
}
"""Why a method may be refused, in part, and which: nothing that a port could change."""


def test_nothing_is_refused_that_a_port_could_serve() -> None:
    for place in support.matrix():
        matches = [words for words in REASONS if words in place.reason]
        if place.reason:
            assert len(matches) == 1, place
            assert place.method in REASONS[matches[0]], place
    refused = {place.method for place in support.matrix() if place.reason}
    assert refused == set().union(*REASONS.values())


def resizes(miniature: Miniature, pruner: Pruner) -> None:
    """A smaller image comes out of the processor with as many tokens as the method planned."""
    family, size = family_of(miniature.model), miniature.sizes[0]
    cell = family.token_pixels(miniature.model)
    assert cell is not None
    (before,) = family.layouts(miniature.model, one(miniature))
    width, height = pruner.resize(size, cell, Budget(0.5))
    (after,) = family.layouts(miniature.model, one(miniature, (width, height)))
    assert len(after) == (width // cell) * (height // cell) <= 0.5 * len(before)


def test_the_documentation_shows_the_matrix() -> None:
    page = Path(__file__).parents[1] / "docs" / "models.md"
    assert page.read_text() == support.markdown(), "run `make docs`"
    assert {family_of(build(name).model).name for name in FAMILIES} >= {
        place.family for place in support.matrix()
    }


# ---- what is true of every family, whatever it is ------------------------------------------------


def test_a_model_with_another_vision_encoder_is_refused(
    miniature: Miniature, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Facts about one encoder are no facts about another; families that name theirs say so."""
    family, model = family_of(miniature.model), miniature.model
    inputs = one(miniature)
    monkeypatch.setattr(model.config.vision_config, "model_type", "other_vision_model")
    if getattr(family, "encoders", ()):
        with pytest.raises(Unsupported, match="'other_vision_model' encoder is not known"):
            family.layouts(model, inputs)
    else:
        assert len(family.layouts(model, inputs)) == 1


def test_a_bare_decoder_answers_like_any_family() -> None:
    """That there is no vision encoder is an answer, not an attribute that is missing."""
    bare, decoder = BareDecoder(), build("llava").model.get_decoder()
    assert len(bare.layers(decoder)) == bare.facts(decoder).layers == 6
    assert bare.facts(decoder).vision_blocks is None
    assert not bare.resizes
    assert bare.clip(decoder) is None
    for ask in (bare.vision, bare.blocks, bare.feature_block, bare.placeholders):
        with pytest.raises(Unsupported, match="has no vision encoder"):
            ask(decoder)
    for signal in Signal:
        reason = bare.lacks(signal)
        assert reason is None or "has no vision encoder" in reason
    assert bare.lacks(Signal.CLS_ATTENTION) is not None
    assert bare.lacks(Signal.KEYS) is None


def test_a_bare_decoder_has_no_image_to_shrink() -> None:
    decoder = build("llava").model.get_decoder()
    visual, layout = torch.ones(1, 4, dtype=torch.bool), Layout((Tile(2, 2),))
    session = prune_embeds(decoder, registry.build("resize"), visual=visual, layouts=[layout])
    with pytest.raises(Unsupported, match="this model scales every image"), session:
        pass


MINE = '''"""Mine: LLaVA-1.5 whose projector has one layer."""

from prunebench.models.arithmetic import linear
from prunebench.models.llava import Llava


class Mine(Llava):
    name = "Mine"
    model_types = frozenset({"mine"})
    aliases = {"mine-7b": "somebody/mine-7b"}

    def projector_flops(self, config, tokens):
        return linear(tokens, config.vision_config.hidden_size, config.text_config.hidden_size)
'''


def test_a_new_family_is_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    monkeypatch.setattr(models, "__path__", [*models.__path__, str(tmp_path)])
    models.families.cache_clear()
    try:
        assert models.aliases()["mine-7b"] == "somebody/mine-7b"
        config = type("Config", (), {"model_type": "mine"})()
        assert family_of(type("Model", (), {"config": config})()).name == "Mine"
        assert [family.name for family in models.families()].count("LLaVA-1.5") == 1
    finally:
        models.families.cache_clear()
        sys.modules.pop("prunebench.models.mine", None)


def test_a_bare_decoder_is_no_family_that_is_loaded() -> None:
    assert all(family.model_types for family in models.families())
    with pytest.raises(Unsupported, match="no family for model type 'llama'"):
        family_of(build("llava").model.get_decoder())
