"""Parts: what every sample adds to a number of its task, and from that the number's spread.

Most tasks take the mean of their samples' scores, but not all give the scores: some have them
counted by their aggregation, in pairs, or as a mean of means. Here the aggregation is asked of each
sample, or of each group of samples, alone. Where that adds up to the number again, it is what they
count; where not, the samples are drawn anew, and where that cannot be, there is no interval.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np

from prunebench.benchmarks import Benchmark
from prunebench.benchmarks.scoring import Aggregate, Scoring
from prunebench.border.interruption import interrupts
from prunebench.border.text import message, one_line
from prunebench.study.statistics import (
    CELL_RESAMPLES,
    Spread,
    bootstrap,
    clustered_interval,
    f1_interval,
    same,
    stratified_interval,
    wilson,
)

NONE: Spread = (None, None, None)

COUNTING = ("precision", "recall", "f1")
"""Metrics in which not all samples count, by a word of their names."""

FAILURES = CELL_RESAMPLES // 20
"""Draws that may fail; where more do, those that did not are no fair ones."""


FEW = 32
"""Samples on which an aggregation is tried first."""


@dataclass(frozen=True)
class Parts:
    """`scores` is what each sample adds, so that their mean is the number, None where that is not
    known; `note` says why there is no spread.
    """

    interval: Spread = NONE
    scores: Sequence[float] | None = None
    note: str = ""


def parts_of(
    benchmark: Benchmark,
    metric: str,
    value: float,
    values: Sequence[Any],
    numbers: Sequence[float | None],
    images: Sequence[str] | None = None,
) -> Parts:
    """What the samples add to `value`, which the task's aggregation made of `values`; `numbers` are
    the samples' own scores, where they have any. `images` name what the samples show, where some
    show the same: these are drawn together, as those are that the task scores together.
    """
    scoring = benchmark.scoring
    names = [scoring.group(one) for one in values]
    groups = [name for name in names if name is not None]
    grouped = groups if len(groups) == len(values) else None
    clusters = images if grouped is None else grouped
    own = [number for number in numbers if number is not None]
    word = _counting(metric)
    # where a sample's own score is whether it is right, whatever it counts in
    shared = bool(word) and scoring.reviewed.positive is not None
    whole = len(own) == len(values) and not shared
    if whole and same(sum(own) / len(own), value):
        return Parts(clustered_interval(own, clusters, scoring.reviewed.bounds), own)
    unable = scoring.repeatable(metric)
    if unable:
        return Parts(note=unable)
    with scoring.repeated(metric) as aggregate:
        ways = [[str(place) for place in range(len(values))], grouped]
        fitting = _first_fitting(scoring, aggregate, value, values, ways, clusters)
        if word and value in (0, 1):
            # zeros add up to zero whatever is counted, and all that is drawn anew is zero as well
            scores = None if fitting is None else fitting.scores
            return replace(_of_hits(scoring, word, value, values, clusters), scores=scores)
        return fitting or _drawn(aggregate, value, values, grouped, images)


def _first_fitting(
    scoring: Scoring,
    aggregate: Aggregate,
    value: float,
    values: Sequence[Any],
    ways: Sequence[Sequence[str] | None],
    clusters: Sequence[str] | None,
) -> Parts | None:
    """The parts by the first of the `ways` of grouping samples that adds up to the number; the
    samples of one of the `clusters` are drawn together.
    """
    for names in ways:
        if names is not None:
            fitting = _counted(scoring, aggregate, value, values, names, clusters)
            if fitting is not None:
                return fitting
    return None


def _counted(
    scoring: Scoring,
    aggregate: Aggregate,
    value: float,
    values: Sequence[Any],
    names: Sequence[str],
    groups: Sequence[str] | None,
) -> Parts | None:
    """What the aggregation counts of each group in `names` alone, where that adds up to its number;
    `groups` are those in which the samples are drawn.
    """
    # most that do not add up show it on a few, which saves asking of thousands
    few = _first(names, FEW)
    if few < len(values):
        try:
            part = aggregate(values[:few])
        except (Exception, SystemExit) as error:
            _pass_on(error)
            return None
        shares = _alone(aggregate, values[:few], names[:few])
        of_few = None if groups is None else groups[:few]
        if part is None or shares is None:
            return None
        if _fitting(scoring, part, values[:few], shares, of_few) is None:
            return None
    shares = _alone(aggregate, values, names)
    return None if shares is None else _fitting(scoring, value, values, shares, groups)


def _first(names: Sequence[str], count: int) -> int:
    """How many values from the first on make whole groups; at least `count`, where they can."""
    last = {name: place for place, name in enumerate(names)}
    end = 0
    for place, name in enumerate(names):
        end = max(end, last[name])
        if place == end and place + 1 >= count:
            return place + 1
    return len(names)


def _counting(metric: str) -> str:
    """Which of precision, recall and F1 a metric is by its name; empty for others."""
    words = metric.lower().replace("-", "_").split("_")
    return next((word for word in COUNTING if word in words), "")


def _of_hits(
    scoring: Scoring,
    word: str,
    value: float,
    values: Sequence[Any],
    clusters: Sequence[str] | None,
) -> Parts:
    """The spread of a precision, recall or F1 of 0 or 1, by Wilson, of the samples that count in
    it: those said to be positive, those meant to be, or either. Those that are drawn together, by
    `clusters`, count once.
    """
    positive = scoring.reviewed.positive
    if positive is None:
        return Parts(
            note=f"samples drawn anew would all have {value:g}, and which of them count in "
            f"{word} is not known"
        )
    said_key, meant_key, answer = positive
    yes = [(one[said_key] == answer, one[meant_key] == answer) for one in values]
    counting = set()
    names = clusters or [str(place) for place in range(len(values))]
    for name, (is_said, is_meant) in zip(names, yes, strict=True):
        counts_in = {"precision": is_said, "recall": is_meant, "f1": is_said or is_meant}
        if counts_in[word]:
            counting.add(name)
    count = len(counting)
    if not count:
        return Parts(note=f"no answer counts in {word}, which is 0 for that")
    interval = f1_interval if word == "f1" else wilson
    ends = interval(count if value == 1 else 0, count)
    return Parts((0.0, ends.low, ends.high))


def _alone(
    aggregate: Aggregate, values: Sequence[Any], names: Sequence[str]
) -> list[tuple[float, int]] | None:
    """For every sample the number of its group alone, and how many samples that has; None where a
    group alone has none.
    """
    members: dict[str, list[Any]] = {}
    for name, value in zip(names, values, strict=True):
        members.setdefault(name, []).append(value)
    own: dict[str, float] = {}
    for name, group in members.items():
        try:
            number = aggregate(group)
        except (Exception, SystemExit) as error:
            _pass_on(error)
            return None
        if number is None or number != number:
            return None
        own[name] = number
    return [(own[name], len(members[name])) for name in names]


def _fitting(
    scoring: Scoring,
    value: float,
    values: Sequence[Any],
    shares: Sequence[tuple[float, int]],
    groups: Sequence[str] | None,
) -> Parts | None:
    """The way of adding up that gives the number: a mean, a sum, or either over strata; None where
    none does.
    """
    numbers = np.array([number for number, _ in shares])
    # a sample stands for its part of a group
    weights = np.array([1 / size for _, size in shares])
    n = len(shares)
    bounds = scoring.reviewed.bounds
    if bounds is None and numbers.min() >= 0 and numbers.max() <= 1:
        bounds = 0.0, 1.0
    for scale in (1 / weights.sum(), 1.0):
        scores = numbers * weights * scale * n
        if same(float(scores.mean()), value):
            ends = bounds if scale != 1.0 else None
            interval = clustered_interval(scores.tolist(), groups, ends, weights.tolist())
            return Parts(interval, scores.tolist())
    for keys in scoring.strata():
        names = [scoring.stratum(one, keys) for one in values]
        if None in names or len(set(names)) < 2:
            continue
        totals: dict[str | None, float] = {}
        for name, weight in zip(names, weights, strict=True):
            totals[name] = totals.get(name, 0.0) + weight
        sizes = np.array([totals[name] for name in names])
        for scale in (1 / len(totals), 1.0):
            scores = numbers * weights / sizes * scale * n
            if same(float(scores.mean()), value):
                ends = None if bounds is None else (bounds[0] * scale, bounds[1] * scale)
                interval = stratified_interval(
                    scores.tolist(), groups, names, ends, weights.tolist()
                )
                return Parts(interval, scores.tolist())
    return None


def _drawn(
    aggregate: Aggregate,
    value: float,
    values: Sequence[Any],
    groups: Sequence[str] | None,
    images: Sequence[str] | None,
) -> Parts:
    """The spread over samples, or over images with theirs, drawn anew, where the aggregation can be
    asked of them.
    """
    if groups is not None and len(set(groups)) < len(groups):
        return Parts(
            note="its samples are scored in groups, and its number is no mean over groups, "
            "so they cannot be drawn anew"
        )
    if len(values) > 1 and _ignores_repeats(aggregate, value, values):
        return Parts(
            note="its aggregation counts a sample that is drawn twice once, so samples cannot be "
            "drawn anew"
        )
    faults: list[str] = []

    def attempted(draw: Sequence[Any]) -> float | None:
        if len(faults) > FAILURES:
            return None
        try:
            return aggregate(draw)
        except (Exception, SystemExit) as error:
            _pass_on(error)
            faults.append(one_line(f"{type(error).__name__}: {message(error)}", 120))
            return None

    bundles: dict[str, list[Any]] = {}
    for name, one in zip(images or map(str, range(len(values))), values, strict=True):
        bundles.setdefault(name, []).append(one)

    def of_bundles(draw: Sequence[list[Any]]) -> float | None:
        return attempted(list(chain.from_iterable(draw)))

    interval = bootstrap(list(bundles.values()), of_bundles)
    if len(faults) > FAILURES:
        return Parts(note=f"its aggregation fails on samples drawn anew: {faults[0]}")
    if interval[0] is None and len(values) > 1:
        return Parts(note="samples drawn anew all have the same number, or most of them none")
    return Parts(interval)


def _ignores_repeats(aggregate: Aggregate, value: float, values: Sequence[Any]) -> bool:
    """Whether an aggregation gives the same number, whichever samples are there twice."""
    half = len(values) // 2
    halves = (values[:half], values[half:], values[::2], values[1::2])
    for part in halves:
        try:
            repeated = aggregate([*values, *part])
        except (Exception, SystemExit) as error:
            _pass_on(error)
            return False  # the draws will show it
        if repeated is None or abs(repeated - value) > 1e-12:
            return False
    # where every part alone has that number, repeating one can make no difference
    return any(_differs(aggregate, part, value) for part in halves)


def _differs(aggregate: Aggregate, part: Sequence[Any], value: float) -> bool:
    try:
        number = aggregate(part)
    except (Exception, SystemExit) as error:
        _pass_on(error)
        return False
    return number is not None and abs(number - value) > 1e-12


def _pass_on(error: BaseException) -> None:
    """Raise again what is no doing of the task's."""
    if isinstance(error, MemoryError) or interrupts(error):
        raise error
