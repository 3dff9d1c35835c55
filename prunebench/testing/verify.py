"""Verify: run pruners on vectors from official code, through their public interface, and compare
what they answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from prunebench import registry
from prunebench.contract import Step, walk
from prunebench.pruner import Pruner
from prunebench.sites import Part
from prunebench.testing.case import Case
from prunebench.testing.translators import Translator, load_translator, vectors_folder
from prunebench.testing.vectors import Vector, VerifyError, files_of

ENGINE = "engine "
"""What the names of answers begin with that were given inside a language model."""


@dataclass(frozen=True)
class Comparison:
    """One expected tensor of one file beside what the pruner gave.

    `difference` counts the indices that differ or is the largest absolute difference; text where
    there was nothing to compare. `field` is the tensor's name, "engine " before it where the real
    engine ran; or "file", "translator" or "run" where that failed. `parts` are the parts of the
    model in which the vector's stages lie.
    """

    method: str
    file: str
    field: str
    agree: bool
    difference: float | str
    parts: tuple[Part, ...] = ()


@dataclass(frozen=True)
class Subject:
    """A method with the files of vectors it is compared with; `translator` is None where nobody
    wrote one.
    """

    name: str
    method: type[Pruner]
    translator: Translator | None
    files: tuple[Path, ...]


def verify(
    folder: Path | None = None,
    methods: Sequence[str] | None = None,
    translators: Path | None = None,
) -> list[Comparison]:
    """Compare every vector of `folder` whose method is registered, or those of `methods` alone.

    A method may be a file (./mine.py): its stem names its vectors and its translator. Both folders
    are the checkout's own, tests/golden and tests/vectors, where they are not named. Raises
    VerifyError where there are no such folders, where `folder` has no vectors or none of a method
    asked for, and for a translator that cannot be imported; RegistryError for an unknown method.
    """
    folder = vectors_folder() if folder is None else folder
    for place in (folder, translators):
        if place is not None and not place.is_dir():
            raise VerifyError(f"no folder {place}")
    names = methods or [*registry.names(), *registry.addons()]
    subjects = [_subject(name, folder, translators) for name in names]
    without = [subject.name for subject in subjects if not subject.files]
    # of all methods some have no vectors; of those asked for every one must
    if without and (methods or len(without) == len(subjects)):
        listed = ", ".join(without)
        raise VerifyError(f"{folder} has no vectors METHOD-i.safetensors for {listed}")
    comparisons: list[Comparison] = []
    for subject in subjects:
        for path in subject.files:
            comparisons += _compare(subject, path)
    return comparisons


def summary(comparisons: Sequence[Comparison]) -> dict[str, tuple[int, int]]:
    """Per method, how many of its files agree in everything, and how many there are."""
    files: dict[str, dict[str, bool]] = {}
    for comparison in comparisons:
        of_method = files.setdefault(comparison.method, {})
        agrees_so_far = of_method.get(comparison.file, True)
        of_method[comparison.file] = agrees_so_far and comparison.agree
    counts: dict[str, tuple[int, int]] = {}
    for method, agrees in files.items():
        counts[method] = sum(agrees.values()), len(agrees)
    return counts


def parts_shown(comparisons: Sequence[Comparison]) -> dict[str, list[Part]]:
    """Per method, the parts of the model in which its files show it, those that agree."""
    wrong = {(one.method, one.file) for one in comparisons if not one.agree}
    by_method: dict[str, set[Part]] = {}
    for one in comparisons:
        parts = by_method.setdefault(one.method, set())
        if (one.method, one.file) not in wrong:
            parts.update(one.parts)
    return {method: sorted(parts) for method, parts in by_method.items()}


def _subject(name: str, folder: Path, translators: Path | None) -> Subject:
    method, stem = registry.get(name), Path(name).stem
    translator = load_translator(stem, translators)
    sets = (stem,) if translator is None else translator.sets
    files: list[Path] = []
    for vectors in sets:
        files += files_of(folder, vectors)
    return Subject(stem, method, translator, tuple(files))


def _compare(subject: Subject, path: Path) -> Iterator[Comparison]:
    parts: tuple[Part, ...] = ()

    def row(field: str, agree: bool, difference: float | str) -> Comparison:
        return Comparison(subject.name, path.name, field, agree, difference, parts)

    if subject.translator is None:
        yield row("translator", False, f"there is no {subject.name}.py that translates its vectors")
        return
    try:
        vector = Vector.read(path)
    except VerifyError as error:
        yield row("file", False, str(error))
        return
    try:
        cases = subject.translator.cases(subject.method, vector)
        parts = _parts(cases)
        answers = _answers(cases, vector)
        for name, answer in answers.items():
            agree, difference = _difference(vector, name.removeprefix(ENGINE), answer)
            yield row(name, agree, difference)
    except Exception as error:  # a pruner may raise anything; the row says so
        yield row("run", False, f"{type(error).__name__}: {error}")


def _parts(cases: Sequence[Case]) -> tuple[Part, ...]:
    """The parts of the model in which the cases' stages lie, in their order."""
    parts: set[Part] = set()
    for case in cases:
        parts.update(stage.site.part for stage in case.stages)
    return tuple(sorted(parts))


def _answers(cases: Sequence[Case], vector: Vector) -> dict[str, Tensor]:
    """What the pruner gives for those expected tensors that its public interface can show."""
    expected = vector.expected()
    answers: dict[str, Tensor] = {}
    for case in cases:
        for name, answer in _answers_of(case).items():
            full_name = name + case.suffix
            if full_name.removeprefix(ENGINE) in expected:
                answers[full_name] = answer
    if not answers:
        raise VerifyError(f"none of {', '.join(expected)} can be compared")
    return answers


def _answers_of(case: Case) -> dict[str, Tensor]:
    """Everything a pruner gives, outside a model and inside the vector's own."""
    answers = dict(case.renamed(_alone(case))) if case.alone else {}
    if case.decoder is not None:
        inside = case.decoder.answers(case.pruner, case.stages, case.tokens.layout)
        inside |= case.prompt(inside["keep"])
        for name, answer in case.renamed(inside).items():
            answers[ENGINE + name] = answer
    return answers


def _alone(case: Case) -> dict[str, Tensor]:
    """What the pruner answers stage by stage, those of the last also under their bare names."""
    steps = walk(case.pruner, case.stages, case.tokens, case.observe)
    answers: dict[str, Tensor] = {}
    for number, step in enumerate(steps):
        for name, answer in _step_answers(case.pruner, step).items():
            answers[f"stage{number}.{name}"] = answer
    last = _step_answers(case.pruner, steps[-1])
    answers |= last
    answers |= case.prompt(last["keep"])
    return {**answers, **case.arranged(answers)}


def _step_answers(pruner: Pruner, step: Step) -> dict[str, Tensor]:
    """One stage's answers by the names that vectors have for them."""
    tile = step.tokens.layout.tile[step.order]
    kinds = [tile.kind for tile in step.tokens.tiles]
    answers = {
        "keep": step.order.sort().values,
        "order": step.order,
        # minlength: the last tiles may keep nothing
        "kept_per_tile": torch.bincount(tile, minlength=len(kinds)),
    }
    if "thumbnail" in kinds:
        of_thumbnail = tile == kinds.index("thumbnail")
        answers["keep_thumbnail"] = step.order[of_thumbnail].sort().values
    if step.merged is not None:
        answers["merged_features"] = step.merged
    return answers | pruner.explain(step.tokens, step.stage)


def _difference(vector: Vector, name: str, answer: Tensor) -> tuple[bool, float | str]:
    """Whether an answer agrees with the vector's, and how far it is off."""
    target = vector.target(name, answer)
    if answer.shape != target.shape:
        own, due = list(answer.shape), list(target.shape)
        return False, f"shape {own} instead of {due}"
    if not target.is_floating_point():
        wrong = int((answer != target).sum())
        return wrong == 0, float(wrong)
    largest = float((answer.float() - target).abs().max())
    return largest <= vector.tolerance(name), largest
