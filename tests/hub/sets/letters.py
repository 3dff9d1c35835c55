"""Questions answered by a letter: MMBench, ScienceQA, AI2D, SEED-Bench, MMMU and others."""

from __future__ import annotations

from datasets import Image, List, Value

from hub.scenes import COLOURS, LETTERS, colour, picture
from hub.sets import Row, Split

TEXT, NUMBER, IMAGE = Value("string"), Value("int64"), Image()
SCIENCE = ("task", "grade", "subject", "topic", "category", "skill", "lecture", "solution")
SUBJECTS = ("Accounting", "Art", "Math")
ABILITIES = (
    ("coarse perception", "image emotion"),
    ("math", "geometry"),
    ("math", "statistical reasoning"),
)


def options() -> list[str]:
    """What there is to choose from."""
    return list(COLOURS)


def letter(number: int, count: int = 4) -> str:
    """The right one of so many."""
    return LETTERS[number % count]


def mmbench(number: int) -> Row:
    """Every third has three options, the last of four is the text "nan"."""
    short = number % 3 == 0 and letter(number) != "D"
    choices = dict(zip(LETTERS, options(), strict=True))
    return {
        "index": 241 + number,
        "question": "Which color is it?",
        "hint": "nan" if number % 2 else "Look.",
        "answer": letter(number),
        **choices,
        "D": "nan" if short else choices["D"],
        "category": "color",
        "image": picture(40 + number),
        "source": "x",
        "L2-category": "finegrained_perception",
        "comment": "nan",
        "split": "dev",
    }


def scienceqa(number: int) -> Row:
    """Two to four options, a hint with every other."""
    return {
        "image": picture(50 + number),
        "question": "Which is it?",
        "choices": options()[: 2 + number % 3],
        "answer": number % 2,
        "hint": "A hint." if number % 2 else "",
        **dict.fromkeys(SCIENCE, ""),
    }


def ai2d(number: int) -> Row:
    """The answer is the option's number."""
    return {
        "question": "Which one?",
        "options": options(),
        "answer": str(number % 4),
        "image": picture(70 + number),
    }


def seedbench(number: int) -> Row:
    """Every fourth is about four pictures of a film."""
    film = number % 4 == 3
    count = 4 if film else 1
    return {
        "answer": letter(number),
        **{f"choice_{name}": text for name, text in zip("abcd", options(), strict=True)},
        "data_id": str(number),
        "data_type": "video" if film else "image",
        "question": "Which color?",
        "question_id": str(101669 + number),
        "question_type_id": 1,
        "image": [picture(120 + number + place) for place in range(count)],
        "segment": [],
    }


def mmmu(number: int) -> Row:
    """Every third is about two images, every fourth has no options."""
    two, is_open = number % 3 == 1, number % 4 == 3
    images = {f"image_{place}": None for place in range(1, 8)}
    row = {
        "id": f"validation_{SUBJECTS[number % 3]}_{number + 1}",
        "question": "Which is in <image 1>" + (" and in <image 2>?" if two else "?"),
        "options": "[]" if is_open else str(options()),
        "explanation": "",
        **images,
        "image_1": picture(130 + number),
        "img_type": "['Diagrams']",
        "answer": colour(number) if is_open else letter(number),
        "topic_difficulty": "Easy",
        "question_type": "open" if is_open else "multiple-choice",
        "subfield": "x",
    }
    return {**row, "image_2": picture(131 + number)} if two else row


def mmstar(number: int) -> Row:
    """The options stand in the question."""
    category, part = ABILITIES[number % 3]
    return {
        "index": number,
        "question": "Which color?\nOptions: A: red, B: green, C: blue, D: yellow",
        "image": picture(150 + number),
        "answer": letter(number),
        "category": category,
        "l2_category": part,
        "meta_info": {"source": "x", "split": "val", "image_path": "x"},
    }


def realworldqa(number: int) -> Row:
    """The question says how to answer."""
    asks = "Please answer directly with only the letter of the correct option and nothing else."
    return {
        "image": picture(140 + number),
        "question": f"Which color?\n\nA. red\nB. green\nC. blue\n{asks}",
        "answer": letter(number, 3),
    }


def _texts(*names: str) -> dict[str, Value]:
    return dict.fromkeys(names, TEXT)


SPLITS = [
    Split(
        "lmms-lab-encoder/MMBench",
        "en",
        "dev",
        {
            "index": NUMBER,
            **_texts("question", "hint", "answer", *LETTERS, "category"),
            "image": IMAGE,
            **_texts("source", "L2-category", "comment", "split"),
        },
        mmbench,
    ),
    Split(
        "lmms-lab-encoder/ScienceQA",
        "ScienceQA-IMG",
        "test",
        {
            "image": IMAGE,
            "question": TEXT,
            "choices": List(TEXT),
            "answer": Value("int8"),
            **_texts("hint", *SCIENCE),
        },
        scienceqa,
    ),
    Split(
        "lmms-lab-encoder/ai2d",
        "",
        "test",
        {"question": TEXT, "options": List(TEXT), "answer": TEXT, "image": IMAGE},
        ai2d,
    ),
    Split(
        "lmms-lab-encoder/SEED-Bench",
        "",
        "test",
        {
            **_texts("answer", *(f"choice_{name}" for name in "abcd"), "data_id", "data_type"),
            **_texts("question", "question_id"),
            "question_type_id": Value("int16"),
            "image": List(IMAGE),
            "segment": List(NUMBER),
        },
        seedbench,
    ),
    Split(
        "lmms-lab-encoder/MMMU",
        "",
        "validation",
        {
            **_texts("id", "question", "options", "explanation"),
            **{f"image_{place}": IMAGE for place in range(1, 8)},
            **_texts("img_type", "answer", "topic_difficulty", "question_type", "subfield"),
        },
        mmmu,
    ),
    Split(
        "Lin-Chen/MMStar",
        "",
        "val",
        {
            "index": NUMBER,
            "question": TEXT,
            "image": IMAGE,
            **_texts("answer", "category", "l2_category"),
            "meta_info": _texts("source", "split", "image_path"),
        },
        mmstar,
    ),
    Split(
        "lmms-lab-encoder/RealWorldQA",
        "",
        "test",
        {"image": IMAGE, "question": TEXT, "answer": TEXT},
        realworldqa,
    ),
]
