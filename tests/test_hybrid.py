"""Decoders whose layers partly keep a state in place of keys and values, in the order that public
checkpoints have: what is dropped before such a layer never enters its state.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import families
import pytest
import torch
from conftest import counted, picture
from families import Miniature, qwen3_5_vl
from oracle import logits
from test_equivalence import PLANS, Draw, dead_columns, run

from prunebench import (
    INPUT,
    Budget,
    Pruner,
    Reads,
    Signal,
    Site,
    Stage,
    Unsupported,
    llm,
    prune,
    registry,
)
from prunebench.engine.counter import counter
from prunebench.measure.flops import decode, head
from prunebench.models import family_of
from prunebench.testing.samples import facts

L, F = qwen3_5_vl.LINEAR, qwen3_5_vl.FULL
ORDERS = {"states first": [L, L, L, F, L, F], "attention first": [F, L, F, L, L, L]}


@pytest.fixture(
    scope="module",
    params=["states first", pytest.param("attention first", marks=pytest.mark.slow)],
)
def hybrid(request: pytest.FixtureRequest) -> Miniature:
    monkey = pytest.MonkeyPatch()
    monkey.setitem(qwen3_5_vl.TEXT, "layer_types", ORDERS[request.param])
    try:
        return families.build("qwen3_5_vl")
    finally:
        monkey.undo()


def batch(hybrid: Miniature) -> dict[str, Any]:
    """Two prompts of different length, the second with two images."""
    return hybrid.inputs(
        ([picture(128, 96)], "color of 5"),
        ([picture(90, 170, 1), picture(64, 160, 2)], "digit on red square"),
    )


@pytest.mark.parametrize("positions", ["original", "compact"])
@pytest.mark.parametrize("plan", PLANS)
def test_dropping_equals_never_having_been_there(
    hybrid: Miniature, plan: str, positions: Any
) -> None:
    inputs, model = batch(hybrid), hybrid.model
    tokens, got, trace = run(model, inputs, Draw(), plan=PLANS[plan], positions=positions)
    dead = dead_columns(model, inputs, trace)
    want = logits(model, inputs, tokens, dead, positions == "compact")
    torch.testing.assert_close(got, want, atol=5e-4, rtol=2e-4)


def test_a_state_takes_as_much_however_many_tokens_are_left(hybrid: Miniature) -> None:
    """What pruning saves of the cache are keys and values of the layers that keep such."""
    inputs = hybrid.inputs(([picture(128, 96)], "color of 5"))
    kept = {}
    for keep in (12, 4):
        with prune(hybrid.model, Draw(), plan=(Stage(INPUT, keep),)) as trace:
            hybrid.model.generate(**inputs, max_new_tokens=1)
        kept[keep] = trace.samples[0].kv_bytes
    config = hybrid.model.config.text_config
    position = 2 * config.num_key_value_heads * config.head_dim * 4
    attending = config.layer_types.count(F)
    assert kept[12] - kept[4] == 8 * position * attending
    channels = 2 * 2 * 12 + 4 * 10
    states = 4 * (channels * config.linear_conv_kernel_dim + 4 * 12 * 10)
    text = inputs["input_ids"].shape[1] - 12
    assert kept[4] == (text + 4) * position * attending + (6 - attending) * states


@dataclass(frozen=True)
class Attentive(Draw):
    """Reads a signal of the attention of the layer before or behind its site."""

    signal: Signal = Signal.KEYS
    place: Site = INPUT

    def site(self) -> Site:
        return self.place

    @property
    def reads(self) -> Reads:
        return Reads(frozenset({self.signal}))


@pytest.mark.parametrize(
    ("signal", "site", "reason"),
    [
        (Signal.LAST_QUERY_ATTENTION, llm(2), "llm:2, and layer 1 keeps .* is llm:(1|4)$"),
        (Signal.NEXT_QUERY_ATTENTION, llm(1), "llm:1, and layer 1 keeps .* is llm:(2|3)$"),
        (Signal.KEYS, llm(5), "llm:5, and layer 4 keeps .* is llm:(3|4)$"),
    ],
)
def test_attention_that_there_is_not_is_refused(
    hybrid: Miniature, signal: Signal, site: Site, reason: str
) -> None:
    inputs = hybrid.inputs(([picture(128, 96)], "color of 5"))
    with (
        pytest.raises(Unsupported, match=f"{signal} at {reason}"),
        prune(hybrid.model, Attentive(signal, site), plan=(Stage(site, 4),)),
    ):
        hybrid.model.generate(**inputs, max_new_tokens=1)


def refused(hybrid: Miniature, pruner: Pruner) -> str:
    """What the method is told when it reads a prompt."""
    inputs = hybrid.inputs(([picture(128, 96)], "color of 5"))
    with pytest.raises(Unsupported) as error, prune(hybrid.model, pruner, 0.9):
        hybrid.model.generate(**inputs, max_new_tokens=1)
    return str(error.value)


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("fastv", {}),
        ("pyramiddrop", {"layers": (0.25, 0.75)}),
        ("ptp", {"attention": "received"}),
        ("glimpseprune", {"weights": "random"}),
    ],
)
def test_a_default_takes_the_nearest_layer_that_attends(
    hybrid: Miniature, method: str, settings: dict[str, Any]
) -> None:
    """Its attention is the model's own, and the answer that of the same sites named outright."""
    inputs, model = hybrid.inputs(([picture(128, 96)], "color of 5")), hybrid.model
    attending = [n for n, kind in enumerate(model.config.text_config.layer_types) if kind == F]
    if method == "pyramiddrop" and attending == [0, 2]:
        reason = r"of layers 3\.\.5 none attends; those that do are \[0, 2\]"
        with pytest.raises(Unsupported, match=reason), prune(model, registry.build(method), 0.9):
            pass
        return
    with prune(model, registry.build(method, settings), 0.9) as trace:
        model.generate(**inputs, max_new_tokens=2, min_new_tokens=2)
    back = 0 if method == "pyramiddrop" else 1
    sites = [site.layer for site in trace.samples[0].kept]
    assert sites
    assert all(site - back in attending for site in sites)


def test_a_layer_that_is_named_is_not_moved(hybrid: Miniature) -> None:
    layers = [n for n in range(1, 6) if n - 1 in family_of(hybrid.model).stateful(hybrid.model)]
    wrong = max(layers)
    attending = [n for n in range(6) if n not in family_of(hybrid.model).stateful(hybrid.model)]
    pruner = registry.build("fastv", {"layer": wrong})
    reason = refused(hybrid, pruner)
    assert f"fastv reads last_query_attention at llm:{wrong}, and layer {wrong - 1} keeps" in reason
    assert f"which layers {attending} do; the nearest site" in reason


@pytest.mark.parametrize(
    ("layers", "sites"), [(24, {"fastv": [4], "pyramiddrop": [7, 11, 19]}), (32, {"fastv": [4]})]
)
def test_where_methods_prune_in_public_models(layers: int, sites: dict[str, list[int]]) -> None:
    """Every fourth layer of Qwen3.5 attends."""
    stateful = frozenset(number for number in range(layers) if number % 4 != 3)
    model = replace(facts(layers=layers), stateful=stateful)
    for method, numbers in sites.items():
        stages = registry.build(method).prepared(model).plan(Budget(0.75), 400, layers)
        assert [stage.site.layer for stage in stages] == numbers


def test_where_all_layers_attend_nothing_moves() -> None:
    for method in ("fastv", "pyramiddrop", "ptp"):
        pruner = registry.build(method)
        assert pruner.prepared(facts(layers=3)) == pruner


def test_decode_equals_torchs_counter(hybrid: Miniature) -> None:
    """But for the update of a state, which transformers does element by element."""
    model, inputs = hybrid.model, hybrid.inputs(([picture(128, 96)], "color of 5"))
    with torch.inference_mode(), prune(model, Draw(), plan=PLANS["llm:2"]) as trace:
        with counter() as all_steps:
            model.generate(**inputs, do_sample=False, max_new_tokens=5, min_new_tokens=5)
        with counter() as prefill:
            model.generate(**inputs, do_sample=False, max_new_tokens=1)
    sample, config = trace.samples[0], model.config.text_config
    lengths = [cached + sample.text for cached in sample.cached]
    layer = family_of(model).layer_flops
    expected = decode(config, lengths, 4, layer) + head(config, positions=4)
    updates = 4 * config.layer_types.count(L) * 3 * 4 * 2 * 12 * 10
    assert counted(all_steps) - counted(prefill) == expected - updates
