"""ResPrune: the update against three other ways to compute it, and which words of a question are
asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from torch import Tensor

from prunebench import INPUT, Layout, Signal, Stage, Tile, VisualTokens, registry
from prunebench.testing import check_pruner, tokens
from prunebench.testing.samples import cast

TAGGER = pytest.mark.skipif(find_spec("HanTa") is None, reason="HanTa is not installed")


def order(sample: VisualTokens, keep: int, **settings: Any) -> list[int]:
    return registry.build("resprune", settings).prune(sample, Stage(INPUT, keep)).index.tolist()


def sample(
    features: Any,
    *,
    text: Any = None,
    pieces: tuple[str, ...] = (),
    question: str | None = None,
    newlines: bool = False,
) -> VisualTokens:
    rows = torch.as_tensor(features, dtype=torch.float32)
    layout = Layout((Tile(1, len(rows) - newlines, newlines=newlines),))
    signals = {
        Signal.TEXT_FEATURES: torch.as_tensor(text if text is not None else []),
        Signal.TEXT_PIECES: pieces,
    }
    return VisualTokens(rows, layout, torch.arange(len(rows)), question=question, signals=signals)


# ---- the greedy selection ------------------------------------------------------------------------


def by_projector(vectors: Tensor, weights: Tensor, count: int) -> list[int]:
    """The residuals against an orthonormal basis of the chosen ones, made anew in every round."""
    chosen: list[int] = []
    for _ in range(count):
        basis = torch.linalg.qr(vectors[chosen].T).Q
        residual = vectors - vectors @ basis @ basis.T
        score = residual.square().sum(1) * weights
        score[chosen] = -torch.inf
        chosen.append(int(score.argmax()))
    return chosen


def by_gram_schmidt(vectors: Tensor, weights: Tensor, count: int) -> list[int]:
    """Every residual loses its component along the residual just chosen."""
    residual, chosen = vectors.clone(), list[int]()
    for _ in range(count):
        score = residual.square().sum(1) * weights
        score[chosen] = -torch.inf
        chosen.append(int(score.argmax()))
        unit = torch.nn.functional.normalize(residual[chosen[-1]], dim=0)
        residual = residual - (residual @ unit)[:, None] * unit
    return chosen


def by_determinant(vectors: Tensor, weights: Tensor, count: int) -> list[int]:
    """Greedy maximum a posteriori of the determinantal point process with kernel diag(q) V V'
    diag(q), q^2 = weights.
    """
    scaled = vectors * weights.sqrt()[:, None]
    kernel, chosen = scaled @ scaled.T, list[int]()
    for _ in range(count):
        options = [i for i in range(len(vectors)) if i not in chosen]
        blocks = torch.stack([kernel[[*chosen, i]][:, [*chosen, i]] for i in options])
        chosen.append(options[int(torch.linalg.slogdet(blocks).logabsdet.argmax())])
    return chosen


@pytest.mark.parametrize("other", [by_projector, by_gram_schmidt, by_determinant])
def test_equals_other_ways_to_compute_it(other: Callable[[Tensor, Tensor, int], list[int]]) -> None:
    draw = torch.Generator().manual_seed(0)
    vectors, words = torch.randn(120, 48, generator=draw), torch.randn(3, 48, generator=draw)
    image = sample(vectors, text=words, pieces=("a", "b", "c"), question="a b c")
    cosine = torch.nn.functional.cosine_similarity(vectors[:, None], words[None], dim=-1).amax(1)
    relevance = (cosine - cosine.min()) / (cosine.max() - cosine.min()) * 0.95 + 0.05
    assert order(image, 30, nouns="all") == other(vectors.double(), relevance.double() ** 0.5, 30)
    assert order(image, 30, nouns="none") == other(vectors.double(), torch.ones(120).double(), 30)


def test_takes_what_is_left_unexplained() -> None:
    # the longest; then the one across it, though three are longer; then what remains of the third
    # direction
    features = [[9.0, 0, 0], [8, 1, 0], [0, 4, 0], [8, 0, 0.5], [7, 0, 2]]
    assert order(sample(features), 3, nouns="none") == [0, 2, 4]


def test_bfloat16_is_computed_in_float32() -> None:
    image = cast(tokens(rows=16, columns=16, dim=64, seed=3), torch.bfloat16)
    assert order(image, 48, nouns="none") == by_projector(
        image.features.double(), torch.ones(256).double(), 48
    )


def test_what_is_spanned_comes_last_by_its_first_energy() -> None:
    # two directions span everything
    features = [[3.0, 0], [0, 2], [1, 0], [0, 1.5], [2, 2]]
    assert order(sample(features), 5, nouns="none") == [0, 1, 4, 3, 2]
    assert sorted(order(tokens(rows=5, columns=8, dim=6), 40, nouns="none")) == list(range(40))


def test_newlines_come_last() -> None:
    assert order(sample([[1.0, 0], [0, 1], [0, 90]], newlines=True), 3, nouns="none") == [0, 1, 2]


def test_space_changes_the_vectors() -> None:
    features = torch.tensor([[10.0, 0], [11, 0], [9, 0], [10, 1]])
    assert order(sample(features), 2, nouns="none") == [1, 3]
    assert order(sample(features), 2, nouns="none", space="unit") == [0, 3]
    far = torch.tensor([[10.0, 0], [11, 0], [10, 1], [2, 0]])
    assert order(sample(far), 1, nouns="none") == [1]
    assert order(sample(far), 1, nouns="none", space="centred") == [3]


# ---- relevance -----------------------------------------------------------------------------------

AXES = torch.eye(4)


def asked(question: str | None, pieces: tuple[str, ...], **settings: Any) -> list[int]:
    """Which rows of the text a token is compared with: axis i of the tokens is row i of the text
    alone.
    """
    rows = torch.eye(len(pieces))
    image = sample(rows, text=rows, pieces=pieces, question=question)
    relevance = registry.build("resprune", settings).relevance(image.features, image)  # type: ignore[attr-defined]
    return [] if bool((relevance == 1).all()) else (relevance == 1).nonzero()[:, 0].tolist()


def test_relevance_weighs_residuals() -> None:
    text = [[0.0, 0, 1, 0], [1, 0, 0, 0]]
    image = sample(
        AXES * torch.tensor([1.0, 1.1, 1.0, 0.9])[:, None],
        text=text,
        pieces=("dog", "is"),
        question="is dog",
    )
    assert order(image, 2, nouns="none") == [1, 0]
    assert order(image, 2, nouns="content") == [2, 1]
    assert order(image, 2, nouns="content", alpha=0.0) == [1, 0]
    assert order(image, 2, nouns="all")[:2] == [0, 2]


def test_the_closest_word_counts_and_floor_is_the_least() -> None:
    features = torch.tensor([[1.0, 0], [0, 1], [1, 1], [-1, 0]])
    image = sample(features, text=[[2.0, 0], [0, 5]], pieces=("cat", "dog"), question="cat dog")
    method: Any = registry.build("resprune", {"nouns": "all", "floor": 0.1})
    relevance = method.relevance(features, image)
    torch.testing.assert_close(relevance, torch.tensor([1.0, 1.0, 0.1 + 0.9 * 0.5**0.5, 0.1]))


PROMPT = (
    "<|im_start|>",
    "dog",
    "s",
    ":",
    "What",
    " is",
    " the",
    " dia",
    "mond",
    " doing",
    "?",
    "<|im_end|>",
    "ASSISTANT",
    ":",
)


def test_words_are_found_in_their_pieces() -> None:
    question = "What is the diamond doing?"
    assert asked(question, PROMPT, nouns="content") == [7, 8]
    assert asked(question, PROMPT, nouns="all") == [4, 5, 6, 7, 8, 9]


def test_the_last_occurrence_counts() -> None:
    assert asked("dog", ("a", "dog", "or", "dog", "?"), nouns="content") == [3]


def test_unknown_words_leave_the_others() -> None:
    assert asked("the zyx dog, please", ("the", "<|unk|>", "dog", "please"), nouns="content") == [
        2,
        3,
    ]
    assert asked("zyx", ("<|unk|>", "is"), nouns="content") == []


def test_without_a_question_the_prompt_is_read() -> None:
    assert asked(None, ("<|start|>", "what", "is", "that", "dog"), nouns="content") == [4]


def test_no_words_no_preference() -> None:
    assert asked("what is it", ("what", "is", "it"), nouns="content") == []
    assert asked("", ("dog",), nouns="content") == []


@TAGGER
def test_the_tagger_finds_nouns() -> None:
    pieces = ("Is", "the", "tall", "woman", "'s", "dog", "running", "in", "New", "York", "?")
    assert asked("Is the tall woman's dog running in New York?", pieces, nouns="tagger") == [
        3,
        5,
        8,
        9,
    ]


@TAGGER
def test_without_nouns_content_words_do() -> None:
    assert asked("is it red", ("is", "it", "red"), nouns="tagger") == [2]


def test_auto_says_what_it_became() -> None:
    found = registry.settings(registry.build("resprune"))["nouns"]
    assert found == ("tagger" if find_spec("HanTa") else "content")


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"nouns": "verbs"}, "verbs"), ({"space": "log"}, "log"), ({"floor": 0.0}, "floor")],
)
def test_refuses_what_it_does_not_know(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(registry.RegistryError, match=message):
        registry.build("resprune", settings)


@pytest.mark.parametrize("settings", [{"nouns": "content"}, {"nouns": "none", "space": "centred"}])
def test_conforms(settings: dict[str, Any]) -> None:
    assert [
        check for check in check_pruner(registry.build("resprune", settings)) if not check.ok
    ] == []
