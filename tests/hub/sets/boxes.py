"""Questions about boxes: RefCOCO, RefCOCO+ and RefCOCOg."""

from __future__ import annotations

from datasets import Image, List, Value

from hub.scenes import SHAPES, colour, picture
from hub.sets import Row, Split

TEXT = Value("string")
COLUMNS = {
    "question_id": TEXT,
    "image": Image(),
    "question": TEXT,
    "answer": List(TEXT),
    "segmentation": List(Value("float32")),
    "bbox": List(Value("float32")),
    "iscrowd": Value("int8"),
    "file_name": TEXT,
}
PLACES = {
    "RefCOCO": ("val", "test", "testA", "testB"),
    "RefCOCOplus": ("val", "testA", "testB"),
    "RefCOCOg": ("val", "test"),
}


def region(number: int) -> Row:
    """A part of an image with what two people call it; a box is x, y, width and height."""
    x, y = 4.0 + number, 6.0
    return {
        "question_id": str(200 + number),
        "image": picture(160 + number),
        "question": "Please carefully observe the area circled in the image.",
        "answer": [f"the {colour(number)} {SHAPES[number % 2]}", f"{colour(number)} one"],
        "segmentation": [x, y, x + 30, y, x + 30, y + 20, x, y + 20],
        "bbox": [x, y, 30.0, 20.0],
        "iscrowd": 0,
        "file_name": f"COCO_train2014_{number:012}_0.jpg",
    }


SPLITS = []
for name, splits in PLACES.items():
    for split in splits:
        SPLITS.append(Split(f"lmms-lab-encoder/{name}", "", split, COLUMNS, region))
