"""The command `best`: which method at which budget keeps within a loss, as a study shows it."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prunebench.border.bounds import Bound
from prunebench.border.text import clean, one_line
from prunebench.cli.completion import add_options
from prunebench.cli.ending import FAILED, say
from prunebench.cli.parser import Commands, add_command
from prunebench.run.keys import Key, key, keys_of

if TYPE_CHECKING:
    from prunebench.report.best import Answer, Candidate

MANY = 10**12
"""More questions than any study has."""

SHOWN = 12
"""Lines of a table, the cheapest first, unless all are asked for."""


@dataclass
class Best:
    """What is looked for in a study."""

    loss: float = key(
        0.01,
        "How much may be lost, as a share of full marks: 0.01 is one point of 100.",
        "loss=0.02",
        Bound(least=0.0001, most=0.9999),
    )
    metric: str = key(
        "total_ratio", "The column of the leaderboard that is to be small.", "metric=flops_ratio"
    )
    level: float = key(
        0.95,
        "How sure it has to be, one-sided.",
        "level=0.9",
        Bound(least=0.5, most=0.9999),
    )
    correct: str = key(
        "holm",
        "How p-values are corrected for the many that are compared.",
        "correct=none",
        Bound(choices=("holm", "none")),
    )
    model: str | None = key(None, "One model of the study.", "model=tiny-qwen2.5-vl")
    task: str | None = key(None, "One task of the study, in place of all.", "task=pope")
    every: bool = key(False, "Show every method and budget.", "every=true")


def add_commands(commands: Commands) -> None:
    """Add it to the parser."""
    parser = add_command(
        commands,
        "best",
        best,
        "Say which method at which budget loses no more than a margin, and how sure that is.",
        examples=(
            "prunebench best results/tiny-qwen2.5-vl loss=0.01 metric=total_ratio",
            "prunebench best results/tiny-qwen2.5-vl loss=0.02 metric=tokens_kv_share",
        ),
        keys=best_keys,
    )
    parser.add_argument("study", type=Path, metavar="STUDY", help="the study's folder")
    add_options(parser, best_keys, "options")


def best_keys() -> Sequence[Key]:
    """The keys of the question."""
    return keys_of(Best)


def best(arguments: argparse.Namespace) -> int:
    """Print an answer for every model of the study; 1 where cells could not be read."""
    from prunebench.report.best import Query
    from prunebench.report.best import best as find
    from prunebench.run import options
    from prunebench.run.keys import check_values

    question = options.filled(Best, arguments.options)
    check_values(question)
    query = Query(
        question.loss,
        question.metric,
        question.level,
        question.correct,
        question.model,
        question.task,
    )
    warnings: list[str] = []
    for answer in find(arguments.study, query, warnings.append):
        for text in lines(answer, query, every=question.every):
            print(clean(text))
    for warning in dict.fromkeys(warnings):
        say(f"note: {one_line(warning, 1000)}")
    return FAILED if warnings else 0


def lines(answer: Answer, query: Any, every: bool = False) -> Iterator[str]:
    """What there is to say of one model."""
    count = len(answer.candidates)
    tests = sum(not candidate.control for candidate in answer.candidates)
    yield f"{answer.model}, {', '.join(answer.tasks)}: loss at most {query.loss:g} of full marks"
    yield verdict(answer, query)
    undecided = answer.undecided
    if answer.best is not None and undecided:
        cheapest = undecided[0]
        yield (
            f"cheaper, but not enough questions to say: {_name(cheapest)} at {cheapest.cost:.3g}, "
            f"{_would_take(cheapest)}"
        )
    cheapest_first = answer.candidates if every else answer.candidates[:SHOWN]
    heads = " ".join(f"{name:>8}" for name in ("loss", "at most", "p", "answers"))
    yield f"{'method':<28} {query.metric:>16} {heads}  says"
    for candidate in cheapest_first:
        yield _row(candidate)
    if len(cheapest_first) < count:
        yield f"and {count - len(cheapest_first)} more, which cost more: every=true"
    family = f"Holm over {tests} comparisons" if query.correct == "holm" else "not corrected"
    yield f"one-sided at {query.level:g}; p of losing more than the margin, {family}"
    yield from (f"left out: {text}" for text in answer.left_out)


def verdict(answer: Answer, query: Any) -> str:
    """The answer in one line."""
    best = answer.best
    if best is not None:
        return (
            f"{_name(best)}: {query.metric} {best.cost:.3g}{_interval(best)}, loses "
            f"{best.loss.value:.4f}, at most {best.loss.bound:.4f} (p {best.p:.2g}, "
            f"{best.loss.n:,} answers)"
        )
    undecided = answer.undecided
    if undecided:
        nearest = min(undecided, key=lambda candidate: candidate.questions or MANY)
        return (
            f"not enough questions to say: none keeps within the margin for sure; nearest is "
            f"{_name(nearest)} at {nearest.cost:.3g}, {_would_take(nearest)}"
        )
    if not answer.candidates:
        return "nothing to choose from; another metric may have been measured, such as flops_ratio"
    return "none: as measured, every method at every budget loses more than that"


def _would_take(candidate: Candidate) -> str:
    """How many questions would decide it."""
    questions, count = candidate.questions, candidate.loss.n
    if questions is None:
        return f"which loses just the margin on {count:,} answers, so that no number would say"
    return f"which would take about {questions:,} answers; there are {count:,}"


def _row(candidate: Candidate) -> str:
    loss = candidate.loss
    name = _name(candidate) + (" (control)" if candidate.control else "")
    says = str(candidate.verdict)
    if candidate.verdict.name == "UNDECIDED" and candidate.questions is not None:
        says += f" ({candidate.questions:,} would)"
    return (
        f"{name:<28} {candidate.cost:>16.3f} {loss.value:>8.4f} {loss.bound:>8.4f} "
        f"{candidate.p:>8.2g} {loss.n:>8,}  {says}"
    )


def _name(candidate: Candidate) -> str:
    return f"{candidate.method} {candidate.budget}"


def _interval(candidate: Candidate) -> str:
    if candidate.low is None or candidate.high is None:
        return ""
    return f" [{candidate.low:.3g}, {candidate.high:.3g}]"
