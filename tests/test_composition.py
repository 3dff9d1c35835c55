"""Methods that work together in one pass, and add-ons on a method."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import families
import pytest
import torch
from conftest import picture
from oracle import logits
from test_equivalence import PROMPTS, Draw, dead_columns, run
from test_tower import hidden
from torch import Tensor

import prunebench
from prunebench import (
    INPUT,
    Budget,
    BudgetError,
    Course,
    Keep,
    Pruner,
    Reads,
    ScorePruner,
    Signal,
    Site,
    Stage,
    Unsupported,
    VisualTokens,
    llm,
    prune,
    solve,
    vision,
)
from prunebench.budget import alive, cached, spent
from prunebench.cli import main
from prunebench.composition import Composite, members
from prunebench.identity import code_digest, identity
from prunebench.registry import RegistryError, build, name_of, settings
from prunebench.run import grid as grids
from prunebench.run.keys import GridError
from prunebench.testing import check_pruner

CLOSE: dict[str, Any] = {"atol": 5e-4, "rtol": 2e-4}

PAIRS = ["fastervlm+pyramiddrop", "divprune+fastv", "fastv+pyramiddrop", "random+fastv"]


def cost(budget: Budget, stages: tuple[Stage, ...], available: int, layers: int) -> float:
    return spent(budget.kind, alive(stages, available, layers), cached(stages, available, layers))


# ---- one budget ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["mean", "kv"])
@pytest.mark.parametrize("name", PAIRS)
def test_two_methods_spend_one_budget(name: str, kind: Any) -> None:
    met = 0
    for available in (64, 577, 2880):
        for layers in (28, 32):
            for share in (0.9, 0.5, 0.25, 0.12):
                budget = Budget(share, kind)
                try:
                    stages = build(name).plan(budget, available, layers)
                except BudgetError:
                    continue
                assert abs(cost(budget, stages, available, layers) - share * available) <= 0.5
                assert [s.site for s in stages] == sorted(s.site for s in stages)
                counts = [stage.keep for stage in stages]
                assert counts == sorted(counts, reverse=True)
                met += 1
    assert met >= 12


def test_both_get_the_same_share() -> None:
    """With the first at the input that is the square root of the budget's."""
    stages = build("divprune+fastv").plan(Budget(0.25), 576, 32)
    assert [(str(stage.site), stage.keep) for stage in stages] == [("input", 288), ("llm:2", 134)]
    # FastV alone makes of 288 tokens as many where it may spend half of them
    assert build("fastv").plan(Budget(0.5), 288, 32)[0].keep == 134
    everything = build("divprune+fastv").plan(Budget(1.0), 576, 32)
    assert [stage.keep for stage in everything] == [576, 576]


def test_an_input_budget_is_the_first_methods() -> None:
    stages = build("fastervlm+pyramiddrop").plan(Budget(0.5, "input"), 64, 32)
    assert [stage.keep for stage in stages] == [32, 16, 8, 4]
    with pytest.raises(BudgetError, match="out of reach"):
        build("fastv+pyramiddrop").plan(Budget(0.5, "input"), 64, 32)


def test_without_a_budget_both_run_as_their_papers_do() -> None:
    stages = build("fastv+pyramiddrop").plan(None, 576, 32)
    assert [stage.keep for stage in stages] == [288, 144, 72, 36]
    with pytest.raises(BudgetError, match="Draw has no budget of its own"):
        Composite(Draw(), build("fastv")).plan(None, 576, 32)


def test_what_is_out_of_reach_is_refused() -> None:
    message = "budget 0.05 is out of reach of fastervlm\\+pyramiddrop: budget .* is out of reach at"
    with pytest.raises(BudgetError, match=message):
        build("fastervlm+pyramiddrop").plan(Budget(0.05), 576, 32)
    stages = build("fastervlm+pyramiddrop").plan(Budget(0.05, nearest=True), 576, 32)
    assert stages[-1].keep == 1


# ---- in a model ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Early(Draw):
    """A draw at the input, which notes what it is shown and closes gaps up."""

    default_positions = "compact"
    needs = frozenset({Signal.RECEIVED_ATTENTION})
    views: list[VisualTokens] = field(default_factory=list, compare=False)

    def prune(self, tokens: VisualTokens, stage: Stage) -> Keep:
        self.views.append(tokens)
        tokens.memo["note"] = "early"
        return super().prune(tokens, stage)


@dataclass(frozen=True)
class Late(Early):
    """The same before two layers, on other signals, with the ids as they are."""

    default_positions: ClassVar[Any] = "original"
    needs = frozenset({Signal.LAST_QUERY_ATTENTION})

    def site(self) -> Site:
        return llm(2)

    def plan(self, budget: Any, available: int, layers: int) -> tuple[Stage, ...]:
        return solve(budget, [llm(2), llm(4)], available, layers)

    def prune(self, tokens: VisualTokens, stage: Stage) -> Keep:
        assert tokens.memo.get("note", "late") == "late"
        keep = super().prune(tokens, stage)
        tokens.memo["note"] = "late"
        return keep


@pytest.mark.parametrize("positions", ["original", "compact"])
@pytest.mark.parametrize("prompt", PROMPTS)
def test_both_drop_as_the_oracle_hides(
    model: Any, inputs_of: Any, prompt: str, positions: Any
) -> None:
    inputs = PROMPTS[prompt](inputs_of)
    pruner = Composite(Early(), Late())
    answer, got, trace = run(model, inputs, pruner, budget=0.4, positions=positions)
    dead = dead_columns(model, inputs, trace)
    want = logits(model, inputs, answer, dead, positions == "compact")
    torch.testing.assert_close(got, want, **CLOSE)
    for sample in trace.samples:
        assert list(sample.kept) == [INPUT, llm(2), llm(4)]
        assert abs(sample.spent() - 0.4 * sample.available) <= 0.5


def test_each_sees_what_it_reads_where_it_works(model: Any, inputs_of: Any) -> None:
    early, late = Early(), Late()
    run(model, PROMPTS["one image"](inputs_of), Composite(early, late), budget=0.4)
    assert [set(view.signals) for view in early.views] == [{Signal.RECEIVED_ATTENTION}]
    assert [set(view.signals) for view in late.views] == [{Signal.LAST_QUERY_ATTENTION}] * 2


def test_each_treats_position_ids_as_its_paper_does(model: Any, inputs_of: Any) -> None:
    """Closed up at the input, and as they are there in the layers."""
    inputs = PROMPTS["one image"](inputs_of)
    pruner = Composite(Early(), Late())
    _, _, trace = run(model, inputs, pruner, budget=0.4)
    first, second, _ = trace.positions
    alone = run(model, inputs, Early(), plan=trace.samples[0].stages[:1])[2].positions[0]
    assert torch.equal(first, alone)
    kept = trace.samples[0].kept
    # of the ids that the input left, those of the survivors
    start = int((inputs["input_ids"][0] == model.config.image_token_id).nonzero()[0])
    columns = start + torch.searchsorted(kept[INPUT], kept[llm(2)])
    behind = start + len(kept[INPUT])
    every = torch.cat([torch.arange(start), columns, torch.arange(behind, first.shape[-1])])
    # the decoder itself has a fourth row, of the text's positions
    assert torch.equal(second, first[-3:, :, every])


def test_what_is_closed_up_at_the_input_stays_so() -> None:
    """Where ids run along one axis every dropped token leaves a gap."""
    family = families.build("llava")
    inputs = family.inputs(([picture(*family.sizes[0])], "color of 5"))
    answer, got, trace = run(family.model, inputs, Composite(Early(), Late()), budget=0.4)
    dead = dead_columns(family.model, inputs, trace)
    want = logits(family.model, inputs, answer, dead, [dead[0]] * len(dead))
    torch.testing.assert_close(got, want, **CLOSE)
    for compact in (False, True):
        assert (logits(family.model, inputs, answer, dead, compact) - got).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["llava", "llava_next", "internvl", "qwen3_vl", "gemma3"])
def test_in_several_families(name: str) -> None:
    family = families.build(name)
    inputs = family.inputs(([picture(*family.sizes[0])], "color of 5"))
    pruner = build("divprune+fastv")
    options = {"budget": 0.5, "positions": "original"}
    answer, got, trace = run(family.model, inputs, pruner, **options)
    dead = dead_columns(family.model, inputs, trace)
    torch.testing.assert_close(got, logits(family.model, inputs, answer, dead), **CLOSE)
    (sample,) = trace.samples
    assert abs(sample.spent() - 0.5 * sample.available) <= 0.5


@dataclass(frozen=True)
class Inside(Draw):
    """A draw inside the vision encoder."""

    def site(self) -> Site:
        return vision(1)


@pytest.mark.parametrize("name", ["qwen2_5_vl", "llava", "internvl"])
def test_the_first_may_work_inside_the_encoder(name: str) -> None:
    family = families.build(name)
    inputs = family.inputs(([picture(*family.sizes[0])], "color of 5"))
    pruner = Composite(Inside(), Late())
    answer, got, trace = run(family.model, inputs, pruner, budget=0.4, positions="original")
    assert list(trace.samples[0].kept) == [vision(1), llm(2), llm(4)]
    assert abs(trace.samples[0].spent() - 0.4 * trace.samples[0].available) <= 0.5
    want = hidden(family, inputs, answer, trace)
    torch.testing.assert_close(got, want, **CLOSE)


def test_a_name_is_enough(model: Any, inputs_of: Any) -> None:
    inputs = PROMPTS["one image"](inputs_of)
    with prune(model, "divprune+fastv", budget=0.5) as trace, torch.no_grad():
        model(**inputs)
    assert list(trace.samples[0].kept) == [INPUT, llm(2)]


def test_stages_that_do_not_go_forward_are_refused(model: Any) -> None:
    message = "fastv prunes at llm:2, which does not lie behind pyramiddrop's llm:4"
    with pytest.raises(Unsupported, match=message), prune(model, "pyramiddrop+fastv", budget=0.5):
        pass
    message = "fastervlm prunes at input, which does not lie behind divprune's input"
    with pytest.raises(Unsupported, match=message), prune(model, "divprune+fastervlm", budget=0.5):
        pass


@dataclass(frozen=True)
class Looking(Late):
    """Keeps fewer at its last stage the later, and more at the one before, once it has begun."""

    def replan(self, tokens: VisualTokens, course: Course) -> tuple[Stage, ...]:
        if len(course.ahead) == 1:
            return course.ahead
        return course.solved(lambda t: [t, t**4])


@pytest.mark.parametrize("order", ["second", "first"])
def test_either_may_plan_anew(model: Any, inputs_of: Any, order: str) -> None:
    inputs = PROMPTS["padded batch"](inputs_of)

    @dataclass(frozen=True)
    class Last(Late):
        needs = frozenset({Signal.NEXT_QUERY_ATTENTION})

        def plan(self, budget: Any, available: int, layers: int) -> tuple[Stage, ...]:
            return solve(budget, [llm(5)], available, layers)

    pruner = Composite(Early(), Looking()) if order == "second" else Composite(Looking(), Last())
    budget = 0.4 if order == "second" else 0.75
    answer, got, trace = run(model, inputs, pruner, budget=budget, positions="original")
    dead = dead_columns(model, inputs, trace)
    torch.testing.assert_close(got, logits(model, inputs, answer, dead), **CLOSE)
    for sample in trace.samples:
        assert abs(sample.spent() - budget * sample.available) <= 0.5
        planned = pruner.plan(Budget(budget), sample.available, 6)
        assert [s.keep for s in sample.stages] != [s.keep for s in planned]


# ---- names, settings, identity -------------------------------------------------------------------


def test_settings_are_named_with_their_method() -> None:
    pruner = build(
        "fastervlm+pyramiddrop", {"pyramiddrop.layers": [2, 4], "fastervlm.attention": "cls"}
    )
    assert name_of(pruner) == "fastervlm+pyramiddrop"
    assert settings(pruner) == {
        "fastervlm.attention": "cls",
        "pyramiddrop.layers": (2, 4),
        "pyramiddrop.ratios": None,
    }
    assert [name_of(part) for part in members(pruner)] == ["fastervlm", "pyramiddrop"]
    # what `settings` gives, `build` takes
    assert settings(build(name_of(pruner), settings(pruner))) == settings(pruner)


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("fastv+pyramiddrup", {}, "unknown method 'pyramiddrup'; did you mean 'pyramiddrop'"),
        ("fastv+", {}, "unknown method ''"),
        ("fastv+fastv", {}, "names a method twice"),
        ("divprune+fastv+pyramiddrop", {}, "3 methods are joined; one budget is shared by two"),
        (
            "divprune+fastv",
            {"layer": 3},
            r"unknown setting divprune\+fastv.layer; write divprune.S",
        ),
        ("divprune+fastv", {"fastv.leyer": 3}, "unknown setting fastv.leyer; did you mean 'layer'"),
        ("divprune+fastv", {"fastv.layer": "x"}, "fastv.layer is 'x', but it takes int"),
        ("resize+fastv", {}, "Resize shrinks the image before any token exists"),
        ("restore", {}, "an add-on wraps the method that is named before it"),
        ("fastv+restore", {}, "it merges at input, and its base prunes at llm:2"),
        ("divprune+restore", {"restore.share": 2.0}, r"share is 2.0; it lies in \(0, 1\]"),
    ],
)
def test_what_cannot_be_built_is_named(name: str, values: dict[str, Any], message: str) -> None:
    with pytest.raises(RegistryError, match=message):
        build(name, values)


def test_methods_that_read_differently_are_refused() -> None:
    @dataclass(frozen=True)
    class InBlock(ScorePruner):
        block: int

        @property
        def reads(self) -> Reads:
            signal = Signal.RECEIVED_ATTENTION
            return Reads(frozenset({signal}), blocks={signal: (self.block,)})

        def site(self) -> Site:
            return llm(1 + self.block)

        def score(self, tokens: VisualTokens) -> Tensor:
            return tokens.received_attention.mean(dim=(0, 1))

    with pytest.raises(ValueError, match="received_attention cannot be read in blocks"):
        Composite(InBlock(0), InBlock(1))


def test_identity_is_that_of_all_parts() -> None:
    def both(name: str, **values: Any) -> tuple[str, str]:
        pruner = build(name, {key.replace("_of_", "."): value for key, value in values.items()})
        pruner.plan(Budget(0.5), 64, 28)
        return identity(pruner), code_digest(pruner)

    plain = both("divprune+fastv")
    assert plain == both("divprune+fastv")
    assert plain[0] != both("divprune+fastv", fastv_of_layer=3)[0]
    assert plain[1] == both("divprune+fastv", fastv_of_layer=3)[1]
    others = [both("random+fastv"), both("divprune+pyramiddrop"), both("divprune+restore")]
    assert len({plain, *others}) == 4
    assert len({plain[1], *(code for _, code in others)}) == 4


# ---- grids and the command line ------------------------------------------------------------------


def test_a_grid_takes_them() -> None:
    grid = grids.load(
        overrides=["methods=fastv,divprune+fastv,divprune+restore", "divprune+fastv.fastv.layer=3"]
    )
    by_label = {variant.label: variant for variant in grid.variants()}
    variant = by_label["divprune+fastv"]
    assert variant.name == "divprune+fastv"
    assert variant.settings() == {"fastv.layer": 3}
    assert by_label["fastv"].settings() == {"layer": 2}
    # what stands in a study's folder makes the same question
    again = grids.build({**grid.question()})
    assert again.question() == grid.question()
    assert grids.differences(grid, again) == []
    assert {v.label for v in again.variants()} == set(by_label)


def test_a_grid_takes_them_as_mappings() -> None:
    entry = {"name": "fastervlm+pyramiddrop", "label": "both", "pyramiddrop.layers": [2, 4]}
    (variant,) = grids.build({"methods": [entry], "controls": False}).variants()
    assert (variant.label, variant.settings()["pyramiddrop.layers"]) == ("both", [2, 4])
    with pytest.raises(GridError, match="unknown method 'b'"):
        grids.build({"methods": ["fastv+b"]})
    with pytest.raises(GridError, match=r"unknown setting fastv\.leyer"):
        grids.build({"methods": [{"name": "divprune+fastv", "fastv.leyer": 3}]}).variants()


def test_list_shows_add_ons(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "methods", "--json"]) == 0
    out = capsys.readouterr().out
    assert '"name": "+restore"' in out
    assert "share=0.5" in out


@pytest.mark.parametrize("name", ["divprune+fastv", "divprune+restore", "fastervlm+pyramiddrop"])
def test_the_conformance_checks_pass(name: str) -> None:
    failed = [check for check in check_pruner(build(name)) if not check.ok]
    assert not failed, failed


def test_check_takes_a_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "random+fastv"]) == 0
    assert "FAIL" not in capsys.readouterr().out
    assert main(["check", "random+fastw"]) != 0
    assert "unknown method 'fastw'" in capsys.readouterr().err


# ---- RESTORE -------------------------------------------------------------------------------------


@pytest.mark.parametrize("positions", ["original", "compact"])
@pytest.mark.parametrize("prompt", PROMPTS)
def test_restore_keeps_what_it_may(model: Any, inputs_of: Any, prompt: str, positions: Any) -> None:
    inputs = PROMPTS[prompt](inputs_of)
    _, got, trace = run(model, inputs, build("divprune+restore"), budget=0.5, positions=positions)
    assert bool(torch.isfinite(got).all())
    for sample in trace.samples:
        assert sample.spent() == round(0.5 * sample.available)


@pytest.mark.parametrize("name", families.names())
def test_restore_works_in_every_family(name: str) -> None:
    family = families.build(name)
    images = [picture(*size, number) for number, size in enumerate(family.sizes[:2])]
    inputs = family.inputs((images, "color of 5"))
    _, got, trace = run(family.model, inputs, build("random+restore"), budget=0.5)
    assert bool(torch.isfinite(got).all())
    assert trace.samples[0].entering == [round(0.5 * trace.samples[0].available)] * 6


def test_restore_merges_what_is_alike() -> None:
    """Six tokens along two directions: the base keeps one, and each direction has a row."""
    features = torch.zeros(6, 16)
    features[:3, 0], features[3:, 1] = 1.0, 1.0
    features[:, 2] = torch.tensor([0.0, 0.1, 0.2, 0.0, 0.1, 0.2])
    sample = prunebench.testing.tokens(rows=1, columns=6, dim=16)
    sample = prunebench.VisualTokens(features, sample.layout, sample.index)

    @dataclass(frozen=True)
    class First(Pruner):
        def prune(self, tokens: VisualTokens, stage: Stage) -> Keep:
            return Keep(torch.arange(stage.keep))

    from prunebench.methods.addons.restore import Restore

    pruner = Restore(base=First(), share=0.34)
    keep = pruner.prune(sample, Stage(INPUT, 3))
    assert keep.index[0] == 0
    assert keep.places is not None
    assert keep.bias is not None
    assert keep.features is not None
    # the kept one, tokens 1 and 2 at the lower of their places, and 3 to 5 at the middle one
    assert keep.places.tolist() == [0, 1, 4]
    assert keep.bias[1].exp().round().tolist() == [1, 2, 3]
    torch.testing.assert_close(keep.bias[0].exp(), torch.full((3,), 2.0))
    torch.testing.assert_close(keep.features[2], features[3:].mean(0))
    assert keep.order == "given"


def test_restore_asks_no_more_of_a_base_than_to_choose() -> None:
    @dataclass(frozen=True)
    class Weighing(Pruner):
        def prune(self, tokens: VisualTokens, stage: Stage) -> Keep:
            return Keep(torch.arange(stage.keep), bias=torch.zeros(stage.keep))

    from prunebench.methods.addons.restore import Restore

    with pytest.raises(ValueError, match="restore gives biases and places itself"):
        Restore(base=Weighing()).prune(prunebench.testing.tokens(), Stage(INPUT, 4))


@pytest.mark.parametrize("count", [1, 2, 3, 11, 12])
def test_restore_gives_exactly_so_many_rows(count: int) -> None:
    sample = prunebench.testing.tokens(rows=3, columns=4, tiles=2)
    keep = build("divprune+restore").prune(sample, Stage(INPUT, count))
    assert len(keep.index.unique()) == count
    assert keep.features is not None
    assert keep.features.shape == (count, sample.features.shape[1])
