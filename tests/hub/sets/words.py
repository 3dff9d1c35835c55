"""Questions answered by a word: GQA, POPE, MME, VizWiz, TextVQA, DocVQA, ChartQA, OCRBench."""

from __future__ import annotations

from datasets import Image, List, Value

from hub.scenes import SHAPES, colour, picture
from hub.sets import Row, Split

TEXT, NUMBER, IMAGE = Value("string"), Value("int64"), Image()
TEXTS = List(TEXT)
QUESTIONS = (
    "Is there a square?",
    "What color is the circle?",
    "Is the square left of the circle?",
    "Which letter is there?",
)
MME_KINDS = ("existence", "color", "code_reasoning", "count")
OCR_KINDS = {
    "IIIT5K": "Regular Text Recognition",
    "STVQA": "Scene Text-centric VQA",
    "HME100k": "Handwritten Mathematical Expression Recognition",
}


def gqa(number: int) -> Row:
    """A question; two ask about one image."""
    return {
        "id": f"20{number}",
        "imageId": f"n{number // 2}",
        "question": QUESTIONS[number % 4],
        "answer": ("yes", colour(number), "no", "a")[number % 4],
        "fullAnswer": "It is.",
        "isBalanced": True,
        "semanticStr": "select",
    }


def gqa_image(number: int) -> Row:
    """An image that the questions name."""
    return {"id": f"n{number}", "image": picture(number)}


def pope(number: int) -> Row:
    """Whether something is there; ids repeat, as in public."""
    return {
        "id": str(number),
        "question_id": str(number % 3),
        "question": f"Is there a {SHAPES[number % 2]} in the image?",
        "answer": ("yes", "no")[number // 2 % 2],
        "image_source": f"COCO_{number}",
        "image": picture(10 + number),
        "category": "random",
    }


def mme(number: int) -> Row:
    """Two questions an image, whose score is theirs together."""
    kind = MME_KINDS[number // 2 % len(MME_KINDS)]
    return {
        "question_id": f"{kind}/{number // 2:04}.png",
        "image": picture(30 + number // 2),
        "question": f"Is there a {SHAPES[number % 2]}? Please answer yes or no.",
        "answer": ("Yes", "No")[number % 2],
        "category": kind,
    }


def vizwiz(number: int) -> Row:
    """Ten people's answers."""
    return {
        "question_id": f"VizWiz_val_{number:08}",
        "image": picture(60 + number),
        "question": "What is this?",
        "answers": [colour(number)] * 5 + ["unanswerable"] * 5,
        "category": "other",
    }


def textvqa(number: int) -> Row:
    """Ten people's answers to what is written."""
    return {
        "image_id": f"i{number}",
        "question_id": 34602 + number,
        "question": "what number is written?",
        "question_tokens": ["what", "number", "is", "written"],
        "image": picture(20 + number, str(number)),
        "image_width": 160,
        "image_height": 120,
        "flickr_original_url": "",
        "flickr_300k_url": "",
        "answers": [str(number)] * 8 + ["unanswerable", colour(number)],
        "image_classes": [],
        "set_name": "val",
        "ocr_tokens": [str(number)],
    }


def docvqa(number: int) -> Row:
    """A number on a page."""
    return {
        "questionId": str(49153 + number),
        "question": "What is the number?",
        "question_types": ["form"],
        "image": picture(90 + number),
        "docId": number,
        "ucsf_document_id": "x",
        "ucsf_document_page_no": "1",
        "answers": [str(number)],
        "data_split": "val",
    }


def infovqa(number: int) -> Row:
    """A color in a chart."""
    return {
        "questionId": str(number),
        "question": "Which color?",
        "answers": [colour(number)],
        "answer_type": [],
        "image": picture(100 + number),
        "image_url": "",
        "operation/reasoning": [],
        "ocr": "",
        "data_split": "val",
    }


def chartqa(number: int) -> Row:
    """Asked by people and by a program, in turn."""
    return {
        "type": ("human_test", "augmented_test")[number % 2],
        "question": "How many bars are there?",
        "answer": str(number),
        "image": picture(80 + number),
    }


def ocrbench(number: int) -> Row:
    """What is written; every third a formula."""
    source = list(OCR_KINDS)[number % 3]
    return {
        "dataset": source,
        "question": "what is written in the image?",
        "question_type": OCR_KINDS[source],
        "answer": [str(number)],
        "image": picture(110 + number, str(number)),
    }


def _texts(*names: str) -> dict[str, Value]:
    return dict.fromkeys(names, TEXT)


CHARTQA = {**_texts("type", "question", "answer"), "image": IMAGE}

SPLITS = [
    Split(
        "lmms-lab-encoder/GQA",
        "testdev_balanced_instructions",
        "testdev",
        {
            **_texts("id", "imageId", "question", "answer", "fullAnswer", "semanticStr"),
            "isBalanced": Value("bool"),
        },
        gqa,
    ),
    Split(
        "lmms-lab-encoder/GQA",
        "testdev_balanced_images",
        "testdev",
        {"id": TEXT, "image": IMAGE},
        gqa_image,
    ),
    Split(
        "lmms-lab-encoder/POPE",
        "",
        "test",
        {
            **_texts("id", "question_id", "question", "answer", "image_source", "category"),
            "image": IMAGE,
        },
        pope,
    ),
    Split(
        "lmms-lab-encoder/MME",
        "",
        "test",
        {**_texts("question_id", "question", "answer", "category"), "image": IMAGE},
        mme,
    ),
    Split(
        "lmms-lab-encoder/VizWiz-VQA",
        "",
        "val",
        {**_texts("question_id", "question", "category"), "answers": TEXTS, "image": IMAGE},
        vizwiz,
    ),
    Split(
        "lmms-lab-encoder/textvqa",
        "",
        "validation",
        {
            **_texts("image_id", "question", "flickr_original_url", "flickr_300k_url", "set_name"),
            **dict.fromkeys(("question_tokens", "answers", "image_classes", "ocr_tokens"), TEXTS),
            **dict.fromkeys(("question_id", "image_width", "image_height"), Value("int32")),
            "image": IMAGE,
        },
        textvqa,
    ),
    Split(
        "lmms-lab-encoder/DocVQA",
        "DocVQA",
        "validation",
        {
            **_texts("questionId", "question", "ucsf_document_id", "ucsf_document_page_no"),
            **dict.fromkeys(("question_types", "answers"), TEXTS),
            "image": IMAGE,
            "docId": NUMBER,
            "data_split": TEXT,
        },
        docvqa,
    ),
    Split(
        "lmms-lab-encoder/DocVQA",
        "InfographicVQA",
        "validation",
        {
            **_texts("questionId", "question", "image_url", "ocr", "data_split"),
            **dict.fromkeys(("answers", "answer_type", "operation/reasoning"), TEXTS),
            "image": IMAGE,
        },
        infovqa,
    ),
    Split(
        "lmms-lab-encoder/ChartQA",
        "",
        "test",
        CHARTQA,
        chartqa,
    ),
    Split("lmms-lab-encoder/LMMs-Eval-Lite", "chartqa", "lite", CHARTQA, chartqa),
    Split(
        "echo840/OCRBench",
        "",
        "test",
        {**_texts("dataset", "question", "question_type"), "answer": TEXTS, "image": IMAGE},
        ocrbench,
    ),
]
