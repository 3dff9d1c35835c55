"""Contrasts: paired comparisons of per-sample scores, one or many at once.

Samples are compared with themselves: method and reference answer the same questions, and the
bootstrap draws questions. Where several tasks are pooled, each counts alike: questions are drawn
within their task, and the number is the mean over tasks. Every draw is seeded, so the same scores
give the same interval.

What is drawn depends on nothing but how many samples there are, so one product of matrices serves
all contrasts of as many. Of many at once the ends differ from those of one alone by the rounding of
sums in another order, if at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd

from prunebench.study import draws, statistics
from prunebench.study.statistics import LEVEL, NAN, RESAMPLES, ROUNDING, SAME, Array, Interval

FLIPS = 9999
"""Random sign patterns of the sign-flip test, where not all of them can be tried."""

TOGETHER = 128
"""Contrasts in one product; more take memory, and save nothing."""

LARGEST = 2_000_000
"""Means of all draws of all tasks in one product."""

LONG = 64
"""Weights of a sign-flip test from which on its signs are kept as bits."""

Pair = tuple[Array, Array]
"""Scores of a method and of its reference, [n] and [n], on the same samples in the same order."""


class GroupedPair(NamedTuple):
    """The same for samples that are drawn in groups: [groups] the sums of their scores, and how
    many samples each has.
    """

    method: Array
    reference: Array
    sizes: Array

    @property
    def samples(self) -> int:
        """How many samples it is of."""
        return int(self.sizes.sum())


Pairs = Sequence[Pair | GroupedPair]
"""Scores of a method and of what it is compared with, a pair a task."""

Ends = tuple[float, float]

Number = Callable[[Sequence[Array]], Array]
"""From the drawn means of every task [draws, contrasts, columns] to a number [draws, contrasts]."""


class SampleMismatch(ValueError):
    """Two cells that were scored on different samples, and so cannot be compared."""


@dataclass(frozen=True)
class Difference(Interval):
    """A paired difference, with the two-sided p-value of "there is none"."""

    p: float

    @property
    def sure(self) -> bool:
        """Whether it is not zero at 95 %: by the test, which is right for few samples too, and by
        the interval where there is one.
        """
        return self.p < 1 - LEVEL and not self.low <= 0 <= self.high


# ---- pairs ---------------------------------------------------------------------------------------


def common(
    method: pd.Series[float], reference: pd.Series[float], total: int | None = None
) -> pd.Index[str]:
    """The ids of the samples that both answered; NaN is no answer.

    Raises SampleMismatch where the two were asked different things: together they have more samples
    than the task's `total`, which without that number is what the larger of the two has.
    """
    check_same(method.index, reference.index, total)
    # sorted, for seeded draws are of places: the same samples give the same interval
    return method.dropna().index.intersection(reference.dropna().index).sort_values()


def check_same(method: pd.Index[str], reference: pd.Index[str], total: int | None) -> None:
    """Raises SampleMismatch as `common` does."""
    if method is reference:
        return
    together = method.union(reference)
    if len(together) > (total or max(len(method), len(reference))):
        odd = method.symmetric_difference(reference)
        raise SampleMismatch(
            f"scored on different samples: {len(odd)} stand in only one of the two, "
            f"such as {odd[0]!r}"
        )


def join(method: pd.Series[float], reference: pd.Series[float], total: int | None = None) -> Pair:
    """Scores of the samples that both answered; raises SampleMismatch as `common` does."""
    both = common(method, reference, total)
    scores = method.loc[both].to_numpy(dtype=float)
    reference_scores = reference.loc[both].to_numpy(dtype=float)
    return scores, reference_scores


def count(pair: Pair | GroupedPair) -> int:
    """How many samples a pair is of."""
    return pair.samples if isinstance(pair, GroupedPair) else len(pair[0])


def paired_differences(pair: Pair | GroupedPair) -> Array:
    """[n] method less reference, of every sample, or of every group what it adds: their plain mean
    is the paired difference.
    """
    gaps = pair[0] - pair[1]
    sizes = pair.sizes if isinstance(pair, GroupedPair) else np.ones(len(gaps))
    mean = gaps.sum() / sizes.sum()
    return np.asarray(mean + (gaps - sizes * mean) * (len(gaps) / sizes.sum()), dtype=float)


# ---- contrasts -----------------------------------------------------------------------------------


def difference(pairs: Pairs, seed: int = 0) -> Difference:
    """Method minus reference: the mean over tasks of the mean paired difference; one pair of arrays
    a task.
    """
    return differences([pairs], seed)[0]


def differences(many: Sequence[Pairs], seed: int = 0) -> list[Difference]:
    """What `difference` says of each."""
    ends = _ends([list(map(_gaps, pairs)) for pairs in many], _mean_gap, seed)
    tests = _flip_tests(list(map(_weights, many)), seed)
    results = []
    for pairs, (low, high), p in zip(many, ends, tests, strict=True):
        value = float(np.mean([(pair[0] - pair[1]).sum() / count(pair) for pair in pairs]))
        results.append(Difference(value, low, high, sum(map(count, pairs)), p))
    return results


def relative(pairs: Pairs, seed: int = 0) -> Interval:
    """Method over reference: the mean over tasks of the ratio of mean scores; NaN where the
    reference scores zero.
    """
    return relatives([pairs], seed)[0]


def relatives(many: Sequence[Pairs], seed: int = 0) -> list[Interval]:
    """What `relative` says of each."""
    results = [Interval(NAN, NAN, NAN, sum(map(count, pairs))) for pairs in many]
    places = [place for place, pairs in enumerate(many) if _has_ratio(pairs)]
    both = [list(map(_scores, many[place])) for place in places]
    for place, (low, high) in zip(places, _ends(both, _mean_ratio, seed), strict=True):
        value = float(np.mean([pair[0].mean() / pair[1].mean() for pair in many[place]]))
        results[place] = Interval(value, low, high, results[place].n)
    return results


def _gaps(pair: Pair | GroupedPair) -> Array:
    """[n, 1] method less reference; of groups [n, 2], with how many samples each has."""
    sizes = (pair.sizes,) if isinstance(pair, GroupedPair) else ()
    return np.column_stack((pair[0] - pair[1], *sizes))


def _has_ratio(pairs: Pairs) -> bool:
    """Whether the reference scores anything in every task."""
    return all(pair[1].mean() != 0 for pair in pairs)


def _scores(pair: Pair | GroupedPair) -> Array:
    """[n, 2] method and reference."""
    return np.column_stack(pair[:2])


def _weights(pairs: Pairs) -> Array:
    """[n] what each sample or group adds to the mean over tasks, those that add nothing left out:
    that is the same under either sign.
    """
    weights = np.concatenate([(pair[0] - pair[1]) / count(pair) for pair in pairs])
    return np.asarray(weights[weights != 0])


def _mean_gap(means: Sequence[Array]) -> Array:
    return _over_tasks([_of_drawn(mean) for mean in means])


def _of_drawn(means: Array) -> Array:
    """[draws, contrasts] the mean over samples; over the samples of groups, where how many these
    have stands beside.
    """
    return means[:, :, 0] if means.shape[2] == 1 else means[:, :, 0] / means[:, :, 1]


def _mean_ratio(means: Sequence[Array]) -> Array:
    # draws in which the reference solves nothing have no ratio
    with np.errstate(divide="ignore", invalid="ignore"):
        return _over_tasks([mean[:, :, 0] / mean[:, :, 1] for mean in means])


def _over_tasks(parts: Sequence[Array]) -> Array:
    """The mean of tables, which need not lie side by side for it."""
    total = parts[0].copy()
    for part in parts[1:]:
        total += part
    total /= len(parts)
    return total


# ---- the bootstrap -------------------------------------------------------------------------------


def _ends(many: Sequence[Sequence[Array]], number: Number, seed: int) -> list[Ends]:
    """The percentile interval of a number of parts [n, columns], a part a task, for each of many.
    NaN where a task has fewer than two samples.
    """
    ends = [(NAN, NAN)] * len(many)
    by_shape: dict[tuple[tuple[int, ...], ...], list[int]] = {}
    for place, parts in enumerate(many):
        if min(map(len, parts)) >= 2:
            by_shape.setdefault(tuple(part.shape for part in parts), []).append(place)
    for shapes, places in by_shape.items():
        most = LARGEST // (RESAMPLES * sum(columns for _, columns in shapes))
        for members in _chunks(places, min(TOGETHER, max(1, most))):
            values = _drawn([many[place] for place in members], number, seed)
            for place, own in zip(members, _percentiles(values), strict=True):
                ends[place] = own
    return ends


def _drawn(many: Sequence[Sequence[Array]], number: Number, seed: int) -> Array:
    """[draws, contrasts] the number of every draw, of parts of the same shapes."""
    tables = [np.concatenate(of_task, axis=1) for of_task in zip(*many, strict=True)]
    numbers = []
    for means in draws.drawn_means(tables, seed, RESAMPLES):
        of_each = [mean.reshape(len(mean), len(many), -1) for mean in means]
        numbers.append(number(of_each))
    return np.concatenate(numbers)


def _percentiles(values: Array) -> list[Ends]:
    """What `statistics.drawn_ends` gives every column, over the draws that have a value."""
    present = np.isfinite(values)
    if not present.all():
        pairs = zip(values.T, present.T, strict=True)
        return [statistics.drawn_ends(column[mask]) for column, mask in pairs]
    low, high = np.quantile(values, [statistics.TAIL, (1 + LEVEL) / 2], axis=0)
    is_one = np.isclose(values.min(axis=0), values.max(axis=0), rtol=SAME, atol=SAME)
    low[is_one] = high[is_one] = NAN
    return list(zip(low.tolist(), high.tolist(), strict=True))


def _chunks(places: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    for start in range(0, len(places), size):
        yield places[start : start + size]


# ---- the sign-flip test --------------------------------------------------------------------------


def _flip_tests(many: Sequence[Array], seed: int) -> list[float]:
    """Two-sided p-values of weights [n] whose signs might as well be others: exact where all have
    one size (McNemar's exact test).
    """
    p_values = [1.0] * len(many)
    by_count: dict[int, list[int]] = {}
    for place, weights in enumerate(many):
        if not len(weights):
            continue
        sizes = np.abs(weights)
        # as `numpy.allclose` has it, which takes longer than the test
        if (np.abs(sizes - sizes[0]) <= 1e-8 + 1e-5 * sizes[0]).all():
            p_values[place] = statistics.binomial(int((weights > 0).sum()), len(weights))
        else:
            by_count.setdefault(len(weights), []).append(place)
    for places in by_count.values():
        for members in _chunks(places, TOGETHER):
            tests = _flip_test(np.stack([many[place] for place in members]), seed)
            for place, p in zip(members, tests, strict=True):
                p_values[place] = p
    return p_values


def _flip_test(weights: Array, seed: int) -> list[float]:
    """The p-values of tests [tests, weights]."""
    if weights.shape[1] > LONG:
        sums, exact = draws.flipped_long(weights.T, FLIPS, seed), False
    else:
        sums, exact = draws.flipped(weights.T, FLIPS, seed)
    observed = weights.sum(axis=1)
    # sums that are the same but for rounding are the same, those that are nothing as well
    slack = ROUNDING * np.abs(weights).sum(axis=1)
    below = (sums <= observed + slack).sum(axis=0)
    above = (sums >= observed - slack).sum(axis=0)
    # of patterns that were drawn, the one that was seen is one more
    more = 0 if exact else 1
    p = 2 * (np.minimum(below, above) + more) / (len(sums) + more)
    return [float(value) for value in np.minimum(1.0, p)]
