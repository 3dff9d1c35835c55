"""Pairwise: methods against each other on the same questions of one task or of several.

Where every question is right or wrong and no two share an image, the test is McNemar's, exact.
Else it is a paired bootstrap that draws images, the seeds of what is drawn at random, and tasks
apart; its standard error gives the p-value on Student's t. Of several tasks each counts alike.
Many pairs tested at once are a family: Holm's correction holds for all of it.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Generic, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from prunebench.study.draws import BATCH
from prunebench.study.statistics import (
    LEVEL,
    NAN,
    RESAMPLES,
    SAME,
    TAIL,
    Array,
    binomial,
)

K = TypeVar("K", bound=Hashable)

Mark = Literal["better", "worse", "no difference shown"]

BETTER: Mark = "better"
WORSE: Mark = "worse"
UNSHOWN: Mark = "no difference shown"
"""What a comparison can say."""

Test = Literal["mcnemar", "bootstrap"]

POWER = 0.8
"""How often a sample must show a difference for it to count as one that it could have shown."""


@dataclass(frozen=True)
class Sheet(Generic[K]):
    """What everybody scored on one task: [n, seeds] each, NaN where there is no answer.

    `clusters` [n] numbers the images: questions of one image are not independent.
    """

    clusters: NDArray[np.intp]
    scores: Mapping[K, Array]


@dataclass(frozen=True)
class Comparison:
    """One method less another, with the 95 % interval and the two-sided p-value of "there is none".

    `n` counts samples and `clusters` what is drawn of them. `wins` and `losses` count the samples
    on which the first scores more and less, mean over seeds. `smallest` is the difference that as
    many samples show four times of five.
    """

    value: float
    low: float
    high: float
    n: int
    clusters: int
    wins: int
    losses: int
    test: Test
    p: float
    smallest: float


def compare(sheets: Sequence[Sheet[K]], pairs: Sequence[tuple[K, K]]) -> list[Comparison | None]:
    """Every pair, over the samples that both answered; None where a task has none of these."""
    rng = np.random.default_rng(0)
    draws = [_Draws(sheet, pairs, rng) for sheet in sheets]
    whole = list(pairs)
    for of_task in draws:
        whole = [pair for pair in whole if of_task.is_whole(*pair)]
    comparisons: list[Comparison | None] = []
    of_whole = dict(zip(whole, _compared(draws, whole), strict=True))
    for one, other in pairs:
        if (one, other) in of_whole:
            comparisons.append(of_whole[one, other])
            continue
        parts = [of_task.part(one, other) for of_task in draws]
        present = [part for part in parts if part is not None]
        comparisons.append(_joined(present) if len(present) == len(parts) else None)
    return comparisons


def holm(values: Sequence[float]) -> list[float]:
    """Holm's correction of the p-values of a family, in their order."""
    order = np.argsort(values, kind="stable")
    factors = np.arange(len(values), 0, -1)
    # a larger p-value is never corrected to less than a smaller one
    corrected = np.maximum.accumulate(np.asarray(values, dtype=float)[order] * factors)
    result = np.empty(len(values))
    result[order] = np.minimum(corrected, 1.0)
    return [float(value) for value in result]


def mark(value: float, p: float, more_is_better: bool = True) -> Mark:
    """What a difference with that corrected p-value shows."""
    if not p < 1 - LEVEL or value == 0:
        return UNSHOWN
    return BETTER if (value > 0) == more_is_better else WORSE


# ---- one task ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Part:
    """A pair on one task: its difference, the same of every draw, and what the test asks.

    `seeds` holds, of either method that has several, the variance of its mean over them and its
    degrees of freedom.
    """

    value: float
    draws: Array
    n: int
    clusters: int
    uneven: int
    wins: int
    losses: int
    right_or_wrong: bool
    seeds: tuple[tuple[float, int], ...]


@dataclass(frozen=True)
class _Method:
    """A method over some of the samples: its mean over seeds of each [n], its mean over drawn
    samples and seeds [draws], and what its scores are.
    """

    means: Array
    draws: Array
    seeds: int
    right_or_wrong: bool
    variance: tuple[tuple[float, int], ...]


Place = tuple[Any, bytes]
"""A method, and the samples over which it is averaged."""


class _Draws(Generic[K]):
    """A task's questions, drawn anew with their images; the same draws for everybody."""

    def __init__(
        self, sheet: Sheet[K], pairs: Sequence[tuple[K, K]], rng: np.random.Generator
    ) -> None:
        self._clusters = sheet.clusters
        self._scores = {name: _distinct(scores) for name, scores in sheet.scores.items()}
        self._answered: dict[Any, NDArray[np.bool_]] = {}
        self._every = np.ones(len(sheet.clusters), dtype=bool)
        for name, scores in self._scores.items():
            answered = np.asarray(~np.isnan(scores).any(axis=1))
            # mostly everybody answers everything: then one mask serves all pairs
            self._answered[name] = self._every if answered.all() else answered
        columns: dict[Place, Array] = {}
        for one, other in pairs:
            mask = self._both(one, other)
            if mask is None:
                continue
            columns.setdefault((None, mask.tobytes()), mask[:, None].astype(float))
            for name in (one, other):
                masked = np.where(mask[:, None], self._scores[name], 0.0)
                columns.setdefault((name, mask.tobytes()), masked)
        self._sums = _resampled(columns, self._clusters, rng)
        self._methods: dict[Place, _Method] = {}
        self._clusters_of: dict[bytes, NDArray[np.intp]] = {}
        self._seeds = {name: _drawn_seeds(one.shape[1], rng) for name, one in self._scores.items()}

    def is_whole(self, one: K, other: K) -> bool:
        """Whether both answered every sample."""
        return self._answered.get(one) is self._answered.get(other) is self._every

    def whole(self, name: K) -> _Method:
        """A method that answered every sample."""
        return self._of(name, self._every)

    @property
    def places(self) -> NDArray[np.intp]:
        """[n] the number of every sample's cluster."""
        return self._places(self._every)

    def part(self, one: K, other: K) -> _Part | None:
        """The pair on this task; None where no sample was answered by both."""
        mask = self._both(one, other)
        if mask is None:
            return None
        first, second = self._of(one, mask), self._of(other, mask)
        gaps = first.means - second.means
        gaps[np.abs(gaps) < SAME] = 0.0
        of_cluster = np.bincount(self._places(mask), weights=gaps)
        alone = len(of_cluster) == len(gaps) and first.seeds == second.seeds == 1
        binary = first.right_or_wrong and second.right_or_wrong
        return _Part(
            value=float(gaps.mean()),
            draws=first.draws - second.draws,
            n=len(gaps),
            clusters=len(of_cluster),
            uneven=int((np.abs(of_cluster) > SAME).sum()),
            wins=int((gaps > 0).sum()),
            losses=int((gaps < 0).sum()),
            right_or_wrong=bool(alone and binary),
            seeds=(*first.variance, *second.variance),
        )

    def _of(self, name: K, mask: NDArray[np.bool_]) -> _Method:
        """One of the methods over these samples."""
        key = (name, mask.tobytes())
        if key not in self._methods:
            scores = self._scores[name][mask]
            self._methods[key] = _Method(
                means=scores.mean(axis=1),
                draws=self._means(name, mask),
                seeds=scores.shape[1],
                right_or_wrong=bool(np.isin(scores, (0.0, 1.0)).all()),
                variance=tuple(_seed_variance(scores)),
            )
        return self._methods[key]

    def _places(self, mask: NDArray[np.bool_]) -> NDArray[np.intp]:
        """[n] the number of every one of these samples' cluster."""
        key = mask.tobytes()
        if key not in self._clusters_of:
            _, places = np.unique(self._clusters[mask], return_inverse=True)
            self._clusters_of[key] = places
        return self._clusters_of[key]

    def _both(self, one: K, other: K) -> NDArray[np.bool_] | None:
        """[n] the samples that both answered; None where there is none."""
        if one not in self._scores or other not in self._scores:
            return None
        own, others = self._answered[one], self._answered[other]
        mask = own if own is others else own & others
        return mask if mask.any() else None

    def _means(self, name: K, mask: NDArray[np.bool_]) -> Array:
        """[draws] the mean of a method over drawn samples and seeds."""
        key = mask.tobytes()
        sizes = self._sums[(None, key)]
        with np.errstate(invalid="ignore"):  # a draw may hold none of the samples; it has no mean
            means = self._sums[(name, key)] / sizes
        return np.asarray((means * self._seeds[name]).sum(axis=1))


def _distinct(scores: Array) -> Array:
    """[n, seeds] of a method that a seed changes, [n, 1] of one that gives the same each time."""
    alike = (scores == scores[:, :1]) | (np.isnan(scores) & np.isnan(scores[:, :1]))
    return scores[:, :1] if alike.all() else scores


def _resampled(
    columns: Mapping[Place, Array], clusters: NDArray[np.intp], rng: np.random.Generator
) -> dict[Place, Array]:
    """[draws, columns] the sums of every table over clusters that are drawn with replacement."""
    if not columns:
        return {}
    _, places = np.unique(clusters, return_inverse=True)
    count = int(places.max()) + 1
    table = np.concatenate(list(columns.values()), axis=1)
    of_cluster = np.zeros((count, table.shape[1]))
    np.add.at(of_cluster, places, table)
    batch = max(1, min(RESAMPLES, BATCH // count))
    parts = []
    for start in range(0, RESAMPLES, batch):
        size = min(batch, RESAMPLES - start)
        picks = rng.integers(0, count, (size, count))
        picks += np.arange(size)[:, None] * count
        # how often every cluster was drawn, so that one product serves everybody
        times = np.bincount(picks.ravel(), minlength=size * count).reshape(size, count)
        parts.append(times @ of_cluster)
    sums = np.concatenate(parts)
    ends = np.cumsum([part.shape[1] for part in columns.values()])
    return dict(zip(columns, np.split(sums, ends[:-1], axis=1), strict=True))


def _drawn_seeds(count: int, rng: np.random.Generator) -> Array:
    """[draws, seeds] the weight of every seed in every draw.

    One fewer is drawn than there are, for the mean of all of them would vary too little (Rao and
    Wu, 1988).
    """
    if count == 1:
        return np.ones((RESAMPLES, 1))
    picks = rng.integers(0, count, (RESAMPLES, count - 1))
    weights = np.zeros((RESAMPLES, count))
    np.add.at(weights, (np.arange(RESAMPLES)[:, None], picks), 1 / (count - 1))
    return weights


def _seed_variance(scores: Array) -> list[tuple[float, int]]:
    """The variance of the mean over seeds of [n, seeds], and its degrees of freedom."""
    count = scores.shape[1]
    if count == 1:
        return []
    return [(float(scores.mean(axis=0).var(ddof=1)) / count, count - 1)]


# ---- many pairs that answered every sample -------------------------------------------------------


@dataclass(frozen=True)
class _Counts:
    """What pairs [pairs] come to on one task, or added over several."""

    value: Array
    uneven: NDArray[np.intp]
    wins: NDArray[np.intp]
    losses: NDArray[np.intp]


def _compared(draws: Sequence[_Draws[K]], pairs: Sequence[tuple[K, K]]) -> list[Comparison]:
    """What `_joined` says of each pair, made of tables of them."""
    comparisons: list[Comparison] = []
    largest = max(RESAMPLES, *(len(of_task.places) for of_task in draws))
    step = max(1, BATCH // largest)
    for start in range(0, len(pairs), step):
        comparisons += _some_compared(draws, pairs[start : start + step])
    return comparisons


def _some_compared(draws: Sequence[_Draws[K]], pairs: Sequence[tuple[K, K]]) -> list[Comparison]:
    """The same of no more pairs than fit in memory."""
    names = list(dict.fromkeys(chain.from_iterable(pairs)))
    place_of = {name: place for place, name in enumerate(names)}
    first = np.array([place_of[one] for one, _ in pairs])
    second = np.array([place_of[other] for _, other in pairs])
    methods = [list(map(of_task.whole, names)) for of_task in draws]
    counts = []
    differences = np.zeros((len(pairs), RESAMPLES))
    for of_task, own in zip(draws, methods, strict=True):
        means = np.stack([method.means for method in own])
        counts.append(_counts(means[first] - means[second], of_task.places))
        numbers = np.stack([method.draws for method in own])
        differences += numbers[first] - numbers[second]
    differences /= len(draws)
    value, uneven, wins, losses = _over_tasks(counts)
    stderr = differences.std(axis=1, ddof=1)
    seeds = _Seeds.of(methods)
    images = sum(int(of_task.places.max()) for of_task in draws)
    n = sum(len(of_task.places) for of_task in draws)
    p, stderr = _students(value, stderr, uneven, images, seeds.of_pairs(first, second))
    alone = images + 1 == n and len(draws) == 1
    exact = [alone and method.seeds == 1 and method.right_or_wrong for method in methods[0]]
    comparisons = []
    for place, (low, high) in enumerate(_ends_of_rows(differences)):
        test: Test = "bootstrap"
        own_p, own_stderr = float(p[place]), float(stderr[place])
        if exact[first[place]] and exact[second[place]]:
            test = "mcnemar"
            own_p, own_stderr = _mcnemar(int(wins[place]), int(losses[place]), n)
        comparisons.append(
            Comparison(
                value=float(value[place]),
                low=low,
                high=high,
                n=n,
                clusters=images + len(draws),
                wins=int(wins[place]),
                losses=int(losses[place]),
                test=test,
                p=own_p,
                smallest=_smallest(own_stderr),
            )
        )
    return comparisons


def _over_tasks(
    counts: Sequence[_Counts],
) -> tuple[Array, NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
    """The mean value over tasks, and what is uneven, won and lost on all of them."""
    value = np.mean(np.stack([one.value for one in counts]), axis=0)
    uneven = np.sum([one.uneven for one in counts], axis=0)
    wins = np.sum([one.wins for one in counts], axis=0)
    losses = np.sum([one.losses for one in counts], axis=0)
    return value, uneven, wins, losses


def _counts(gaps: Array, places: NDArray[np.intp]) -> _Counts:
    """Of gaps [pairs, n] of samples whose clusters have these numbers [n]."""
    gaps[np.abs(gaps) < SAME] = 0.0
    width = int(places.max()) + 1
    of_pair = places + width * np.arange(len(gaps))[:, None]
    sums = np.bincount(of_pair.ravel(), weights=gaps.ravel(), minlength=width * len(gaps))
    uneven = (np.abs(sums.reshape(len(gaps), width)) > SAME).sum(axis=1)
    return _Counts(gaps.mean(axis=1), uneven, (gaps > 0).sum(axis=1), (gaps < 0).sum(axis=1))


@dataclass(frozen=True)
class _Seeds:
    """[methods] the variance of the mean over tasks that comes of seeds, and the sum of the squares
    of its pieces, each over its degrees of freedom.
    """

    variance: Array
    squares: Array

    @classmethod
    def of(cls, methods: Sequence[Sequence[_Method]]) -> _Seeds:
        """Those of methods, task by task."""
        variance, squares = np.zeros(len(methods[0])), np.zeros(len(methods[0]))
        for own in methods:
            for place, method in enumerate(own):
                for piece, freedom in method.variance:
                    piece /= len(methods) ** 2
                    variance[place] += piece
                    squares[place] += piece**2 / freedom
        return cls(variance, squares)

    def of_pairs(self, first: NDArray[np.intp], second: NDArray[np.intp]) -> _Seeds:
        """Those of differences between them."""
        variance = self.variance[first] + self.variance[second]
        return _Seeds(variance, self.squares[first] + self.squares[second])


def _students(
    value: Array, stderr: Array, uneven: NDArray[np.intp], images: int, seeds: _Seeds
) -> tuple[Array, Array]:
    """What `_student` says of every pair [pairs]."""
    from scipy.special import stdtr

    of_images = np.maximum(stderr**2 - seeds.variance, 0.0)
    total = of_images + seeds.variance
    below = seeds.squares + (of_images**2 / images if images else 0.0)
    least = np.where(uneven > 0, 2.0 ** (1.0 - uneven), 1.0)
    with np.errstate(divide="ignore", invalid="ignore"):  # where nothing varies
        freedom = np.where(below > 0, total**2 / below, 1.0)
        p = np.clip(2 * stdtr(freedom, -np.abs(value) / stderr), least, 1.0)
    constant = ~(stderr > SAME)
    p = np.where(constant, least, p)
    unknown = np.where(uneven > 0, constant, stderr == 0)
    return np.where(uneven > 0, p, 1.0), np.where(unknown, NAN, stderr)


def _ends_of_rows(draws: Array) -> list[tuple[float, float]]:
    """What `_ends` says of every row [pairs, draws]."""
    alike = np.ptp(draws, axis=1) < SAME
    lows, highs = (_quantiles(draws, share) for share in (TAIL, 1 - TAIL))
    ends = zip(np.where(alike, NAN, lows), np.where(alike, NAN, highs), strict=True)
    return [(float(low), float(high)) for low, high in ends]


def _quantiles(rows: Array, share: float) -> Array:
    """What `_quantile` gives of every row."""
    place = share * (rows.shape[1] - 1)
    below = int(place)
    rest = place - below
    low, high = np.partition(rows, (below, below + 1), axis=1)[:, below : below + 2].T
    values = high - (high - low) * (1 - rest) if rest >= 0.5 else low + (high - low) * rest
    return np.asarray(values)


# ---- all tasks together --------------------------------------------------------------------------


def _joined(parts: Sequence[_Part]) -> Comparison:
    """The mean over tasks, and its test."""
    value = float(np.mean([part.value for part in parts]))
    draws = np.mean(np.stack([part.draws for part in parts]), axis=0)
    draws = draws[np.isfinite(draws)]
    low, high = _ends(draws)
    wins = sum(part.wins for part in parts)
    losses = sum(part.losses for part in parts)
    n = sum(part.n for part in parts)
    test: Test = "bootstrap"
    if len(parts) == 1 and parts[0].right_or_wrong:
        test = "mcnemar"
        p, stderr = _mcnemar(wins, losses, n)
    else:
        p, stderr = _student(parts, value, draws)
    clusters = sum(part.clusters for part in parts)
    return Comparison(
        value, low, high, n, clusters, wins, losses, test, p, _smallest(stderr)
    )  # fmt: skip


def _ends(draws: Array) -> tuple[float, float]:
    """The percentile interval; NaN where all draws are alike, which do not say how far others
    differ.
    """
    if len(draws) < RESAMPLES / 2 or np.ptp(draws) < SAME:
        return NAN, NAN
    return _quantile(draws, TAIL), _quantile(draws, 1 - TAIL)


def _quantile(values: Array, share: float) -> float:
    """The number below which that share of many values [n] lies: what `numpy.quantile` gives, which
    takes four times as long for so few.
    """
    place = share * (len(values) - 1)
    below = int(place)
    rest = place - below
    low, high = np.partition(values, (below, below + 1))[below : below + 2].tolist()
    # from the nearer of the two, as there
    return float(high - (high - low) * (1 - rest) if rest >= 0.5 else low + (high - low) * rest)


def _mcnemar(wins: int, losses: int, n: int) -> tuple[float, float]:
    """The exact p-value, and the standard error of a difference where there is none.

    Half a question is added to each of the four outcomes, so that a sample on which nobody differed
    still says how large a difference it would have shown (Agresti and Min, 2005).
    """
    p = binomial(wins, wins + losses) if wins + losses else 1.0
    return p, float(np.sqrt(wins + losses + 1) / (n + 2))


def _student(parts: Sequence[_Part], value: float, draws: Array) -> tuple[float, float]:
    """The p-value by the standard error of the draws, and that error.

    Degrees of freedom are Satterthwaite's over images and seeds. Signs of k clusters that differ
    come out alike once in 2^(k - 1) by chance: below that no p-value goes.
    """
    from scipy.special import stdtr

    uneven = sum(part.uneven for part in parts)
    stderr = float(np.std(draws, ddof=1)) if len(draws) > 1 else NAN
    if not uneven:
        return 1.0, stderr or NAN
    least = 2.0 ** (1 - uneven)
    if not stderr > SAME:
        return (min(1.0, least), NAN) if uneven > 1 else (1.0, NAN)
    of_seeds: list[tuple[float, int]] = []
    for part in parts:
        of_seeds += [(variance / len(parts) ** 2, freedom) for variance, freedom in part.seeds]
    of_images = max(stderr**2 - sum(variance for variance, _ in of_seeds), 0.0)
    images = sum(part.clusters - 1 for part in parts)
    pieces = [(of_images, images), *of_seeds]
    total = sum(variance for variance, _ in pieces)
    below = sum(variance**2 / freedom for variance, freedom in pieces if freedom)
    freedom = total**2 / below if below else 1.0
    p = 2 * float(stdtr(freedom, -abs(value) / stderr))
    return min(1.0, max(p, least)), stderr


def _smallest(stderr: float) -> float:
    """The difference that is shown with that power, at 5 % without a correction."""
    from scipy.special import ndtri

    return float((ndtri(1 - TAIL) + ndtri(POWER)) * stderr)
