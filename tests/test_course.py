"""Plans that depend on what was seen on the way, and still spend their budget."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import families
import pytest
import torch
from conftest import picture
from oracle import logits
from test_calls import image_last
from test_equivalence import PROMPTS, Draw, dead_columns, run

from prunebench import (
    INPUT,
    Budget,
    BudgetError,
    Course,
    Signal,
    Stage,
    VisualTokens,
    llm,
    prune,
    solve,
)
from prunebench.contract import Breach, walk
from prunebench.engine.stream import EngineError
from prunebench.testing import tokens

CLOSE: dict[str, Any] = {"atol": 5e-4, "rtol": 2e-4}
SITES = (llm(1), llm(2), llm(4))


def staircase(steepness: float, t: float) -> list[float]:
    """Shares alive after two stages, the second of which drops the more the steeper."""
    return [t, t**steepness]


@dataclass(frozen=True)
class Looking(Draw):
    """After its first stage makes the later two as steep as the attention it sees is sharp."""

    needs = frozenset({Signal.LAST_QUERY_ATTENTION})
    courses: list[Course] = field(default_factory=list, compare=False)

    def plan(self, budget: Any, available: int, layers: int) -> tuple[Stage, ...]:
        return solve(budget, SITES, available, layers)

    def steepness(self, tokens: VisualTokens) -> float:
        paid = tokens.last_query_attention.mean(dim=0)
        entropy = float(-(paid * paid.log()).sum()) / math.log(len(tokens) + 1)
        return 1.0 + 4.0 * (1.0 - entropy) + tokens.seed

    def replan(self, tokens: VisualTokens, course: Course) -> tuple[Stage, ...]:
        self.courses.append(course)
        if len(course.ahead) != 2:
            return course.ahead
        return course.solved(partial(staircase, self.steepness(tokens)))


@pytest.mark.parametrize("positions", ["original", "compact"])
@pytest.mark.parametrize("prompt", PROMPTS)
def test_what_is_seen_decides_and_the_budget_is_met(
    model: Any, inputs_of: Any, prompt: str, positions: Any
) -> None:
    inputs = PROMPTS[prompt](inputs_of)
    seeds = [2 * row + 1 for row in range(len(inputs["input_ids"]))]
    pruner, budget = Looking(), Budget(0.6)
    answer, got, trace = run(model, inputs, pruner, budget=budget, positions=positions, seeds=seeds)
    want = logits(model, inputs, answer, dead_columns(model, inputs, trace), positions == "compact")
    torch.testing.assert_close(got, want, **CLOSE)
    for sample in trace.samples:
        assert abs(sample.spent() - budget.tokens(sample.available)) <= 0.5
        # the trace has the plan as it became, which is what was done
        assert [stage.keep for stage in sample.stages] == [
            len(kept) for _, kept in sorted(sample.kept.items())
        ]
    planned = [pruner.plan(budget, sample.available, 6) for sample in trace.samples]
    assert planned != [sample.stages for sample in trace.samples]


def test_a_course_says_where_one_is(model: Any, inputs_of: Any) -> None:
    pruner = Looking()
    run(model, PROMPTS["one image"](inputs_of), pruner, budget=0.6)
    first, second, third = pruner.courses
    assert [len(course.past) for course in pruner.courses] == [0, 1, 2]
    assert (first.available, first.layers, first.alive) == (12, 6, 12)
    assert second.alive == first.ahead[0].keep == second.past[0].keep
    assert third.past[1].site == llm(2)
    assert third.ahead[0].site == llm(4)
    # a whole run on the way costs what its budget says
    assert all(abs(course.spent(course.ahead) - 0.6 * 12) <= 0.5 for course in pruner.courses)


def test_a_callers_plan_stands(model: Any, inputs_of: Any) -> None:
    pruner = Looking()
    plan = (Stage(llm(1), 6), Stage(llm(2), 3))
    _, _, trace = run(model, PROMPTS["one image"](inputs_of), pruner, plan=plan)
    assert not pruner.courses
    assert trace.samples[0].stages == plan


def test_in_several_families() -> None:
    for name in ("llava", "llava_next", "gemma3", "qwen3_vl"):
        family = families.build(name)
        inputs = family.inputs(([picture(*family.sizes[0])], "color of 5"))
        answer, got, trace = run(family.model, inputs, Looking(), budget=0.6)
        want = logits(family.model, inputs, answer, dead_columns(family.model, inputs, trace))
        torch.testing.assert_close(got, want, **CLOSE)
        (sample,) = trace.samples
        assert abs(sample.spent() - 0.6 * sample.available) <= 0.5


def test_a_prompt_that_ends_in_its_image(model: Any, inputs_of: Any) -> None:
    """Its last token, which the method is not shown, counts in the course as in any plan."""
    served, inputs, _ = image_last("qwen2_5_vl", model, inputs_of)
    with prune(served, Looking(), budget=0.6) as trace, torch.no_grad():
        served(**inputs)
    (sample,) = trace.samples
    assert abs(sample.spent() - 0.6 * sample.available) <= 0.5


@pytest.mark.parametrize(
    ("ahead", "message"),
    [
        ([Stage(llm(2), 8), Stage(llm(4), 8)], r"replan spends 8\.\d+; budget 0.5 asks for 6"),
        ([Stage(llm(2), 3), Stage(llm(4), 1)], r"replan spends \d\.?\d*; budget 0.5 asks for 6"),
        ([Stage(llm(3), 5), Stage(llm(4), 1)], "replan moves the stages ahead, which are at llm:2"),
        ([Stage(llm(2), 5)], "replan moves the stages ahead"),
        ([Stage(llm(2), 5), Stage(llm(4), 6)], "counts are whole and never grow"),
        (5, "replan gave 5; it must give a tuple of Stage"),
    ],
)
def test_a_broken_plan_is_named(model: Any, inputs_of: Any, ahead: Any, message: str) -> None:
    @dataclass(frozen=True)
    class Broken(Looking):
        def plan(self, budget: Any, available: int, layers: int) -> tuple[Stage, ...]:
            return solve(budget, [llm(1), llm(2), llm(4)], available, layers)

        def replan(self, tokens: VisualTokens, course: Course) -> tuple[Stage, ...]:
            result: tuple[Stage, ...] = ahead if len(course.ahead) == 2 else course.ahead
            return result

    with pytest.raises(EngineError, match=message):
        run(model, PROMPTS["one image"](inputs_of), Broken(), budget=0.5)
    sample = tokens(rows=3, columns=4, needs=Broken.needs)
    stages = Broken().plan(Budget(0.5), 12, 6)
    with pytest.raises(Breach, match=message):
        walk(Broken(), stages, sample, terms=(Budget(0.5), 6))


def test_a_budget_that_is_out_of_reach_on_the_way_is_refused() -> None:
    course = Course(Budget(0.3), 40, 4, (Stage(llm(1), 30),), (Stage(llm(2), 20), Stage(llm(3), 2)))
    with pytest.raises(BudgetError, match="out of reach"):
        course.solved(partial(staircase, 2.0))
    with pytest.raises(BudgetError, match="there is no budget to meet"):
        Course(None, 40, 4, (), (Stage(INPUT, 2),)).solved(lambda t: [t])
    met = Course(Budget(0.6), 40, 4, (Stage(llm(1), 20),), (Stage(llm(2), 20), Stage(llm(3), 2)))
    # 40 and 20, so that 36 are left for the last two
    assert [stage.keep for stage in met.solved(partial(staircase, 1.0))] == [18, 18]
