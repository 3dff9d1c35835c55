"""Images: what a file shows is what models see, and what cannot be shown is refused in a line
before it is decoded.
"""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile

from prunebench import cli
from prunebench.benchmarks import Benchmark, MediaError, load_task
from prunebench.border import images
from prunebench.border.images import ImageError

RAMP = np.linspace(0, 1, 64 * 48).reshape(48, 64)
NOISE = np.random.default_rng(0).integers(0, 256, (48, 64, 4), dtype=np.uint8)
COLOURS = Image.fromarray(NOISE[:, :, :3])


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def header(width: int, height: int) -> bytes:
    """A PNG of any size in a hundred bytes."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    shape = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", shape)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ((RAMP * 65535).astype(np.uint16), "PNG"),
        ((RAMP * 65535).astype(np.uint16), "TIFF"),
        ((RAMP * 65535).astype(np.int32), "TIFF"),
        ((RAMP * 65535).astype(np.float32), "TIFF"),
        ((RAMP * 255).astype(np.float32), "TIFF"),
        (RAMP.astype(np.float32), "TIFF"),
    ],
)
def test_what_has_more_than_eight_bits_is_scaled_not_clipped(values: Any, kind: str) -> None:
    shown = np.asarray(images.load(encoded(Image.fromarray(values), kind)), dtype=float)
    assert shown.shape == (48, 64, 3)
    assert np.abs(shown - RAMP[:, :, None] * 255).max() <= 1


def test_white_is_what_a_tiff_says_it_is() -> None:
    twelve = Image.fromarray((RAMP * 4095).astype(np.uint16))
    twelve.tag_v2 = {258: (12,)}  # type: ignore[attr-defined]  # as Pillow reads 12 bits; it writes none
    assert np.asarray(images.eight_bit(twelve)).max() == 255
    negative = Image.fromarray((RAMP * 65535).astype(np.uint16))
    negative.tag_v2 = {258: (16,), 262: 0}  # type: ignore[attr-defined]
    assert np.asarray(images.eight_bit(negative))[0, 0] == 255


@pytest.mark.parametrize("values", [[-5, 3], [0, float("nan")], [0, float("inf")], [0, 3e9]])
def test_values_of_which_none_is_black_or_white_are_refused(values: list[float]) -> None:
    with pytest.raises(ImageError, match="save it with 8 bits"):
        images.load(Image.fromarray(np.array([values], dtype=np.float32)))


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "palette with transparency"]
)
@pytest.mark.filterwarnings("ignore")
def test_ordinary_images_have_the_pixels_that_lmms_eval_gives_to_models(mode: str) -> None:
    if mode.startswith("palette"):
        content = encoded(COLOURS.quantize(16), transparency=bytes(range(16)))
    else:
        image = Image.fromarray(NOISE) if mode == "RGBA" else COLOURS.convert(mode)
        content = encoded(image, "TIFF" if mode in ("CMYK", "YCbCr") else "PNG")
    picture = Image.open(io.BytesIO(content)).convert("RGB")
    assert np.array_equal(np.asarray(images.load(content)), np.asarray(picture))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "JPEG"])
def test_images_are_upright(orientation: int, kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    corner = Image.new("RGB", (64, 48))
    corner.paste("white", (0, 0, 32, 16))
    shown = images.load(encoded(corner, kind, exif=exif))
    assert shown.size == ((64, 48) if orientation < 5 else (48, 64))
    # where the stored picture's top left corner is seen: the eight orientations of the EXIF
    # standard
    right, bottom = orientation in (2, 3, 6, 7), orientation in (3, 4, 7, 8)
    place = (shown.width - 5 if right else 4, shown.height - 5 if bottom else 4)
    opposite = (shown.width - 1 - place[0], shown.height - 1 - place[1])
    assert min(shown.getpixel(place)) > 200  # type: ignore[arg-type]
    assert max(shown.getpixel(opposite)) < 50  # type: ignore[arg-type]


def test_the_first_frame_stands_for_a_moving_image() -> None:
    first, second = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")
    moving = encoded(first, "GIF", save_all=True, append_images=[second])
    assert images.load(moving).getpixel((0, 0)) == (255, 0, 0)


def test_the_limit_is_checked_before_anything_is_decoded() -> None:
    with pytest.raises(
        ImageError,
        match=r"13000 x 13000 = 169,000,000 pixels.*at most 100,000,000.*max_image_pixels",
    ):
        images.load(header(13000, 13000))
    with pytest.raises(ImageError, match="at most 3,071 are decoded"):
        images.load(COLOURS, max_pixels=64 * 48 - 1)
    assert images.load(COLOURS, max_pixels=64 * 48).size == (64, 48)
    with pytest.raises(ImageError, match="truncated"):  # no limit, and so it was decoded
        images.load(header(13000, 13000), max_pixels=None)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (header(1, 1_000_000), "1 x 1000000; one side may be at most 200 times the other"),
        (Image.new("RGB", (0, 5)), "no pixels"),
        (b"", "no image that Pillow can read"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "no image that Pillow can read"),
        (encoded(COLOURS, "EPS"), "no image that Pillow can read"),  # would start Ghostscript
        (encoded(COLOURS)[:900], "cannot be read"),
        (encoded(COLOURS, "JPEG")[:900], "truncated"),
        ({"bytes": None, "path": None}, "NoneType is no image"),
        (np.zeros((4, 4, 3)), "ndarray is no image"),
        ("missing.png", "No such file"),
        (".", "is a folder"),
        ("/dev/zero", "is a device or pipe"),
        ("pipe", "is a device or pipe"),
        ("a\0b", "null byte"),
        ("a" * 400, "File name too long"),
        ("\x1b[31m[red]\udcff.png", r"\x1b[31m[red]\udcff.png cannot be read"),
    ],
    ids=str.split(
        "narrow empty-size empty svg eps half-png half-jpeg no-row array gone folder device "
        "pipe nul long escapes"
    ),
)
def test_what_is_no_image_is_refused_in_one_line(
    source: Any, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    with pytest.raises(ImageError) as told:
        images.load(source)
    text = str(told.value)
    assert reason in text
    assert len(text) <= 300
    assert text.isprintable()


def test_reading_an_image_leaves_the_settings_of_pillow_alone() -> None:
    before = ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS
    ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS = True, 7
    try:
        assert images.load(encoded(COLOURS)).size == (64, 48)
        with pytest.raises(ImageError):
            images.load(encoded(COLOURS)[:900])
        assert (ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS) == (True, 7)
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS = before


# ---- tasks ---------------------------------------------------------------------------------------

UTILS = """
import io
from PIL import Image


def visual(doc):
    kind = doc["question"]
    if kind == "as it is":
        return [doc["image"]]
    if kind == "inner":
        return [part["picture"].convert("RGB") for part in doc["parts"]]
    if kind == "opens it itself":
        return [Image.open(io.BytesIO(doc["raw"])).convert("RGB")]
    return [doc["image"].convert("RGB")]
"""

TASK = """
task: mine
dataset_path: parquet
dataset_kwargs: {data_files: {test: data.parquet}, trust_remote_code: true}
output_type: generate_until
test_split: test
doc_to_visual: !function utils.visual
doc_to_text: question
doc_to_target: question
generation_kwargs: {max_new_tokens: 4}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""


def task(folder: Path, rows: list[dict[str, Any]], **options: Any) -> Benchmark:
    """A task with an image column, images inside a list, image files as plain bytes, and masks."""
    from datasets import Dataset, Features, List, Value
    from datasets import Image as Picture

    (folder / "utils.py").write_text(UTILS)
    (folder / "mine.yaml").write_text(TASK)
    features = Features(
        {
            "question": Value("string"),
            "image": Picture(),
            "parts": List({"picture": Picture()}),
            "raw": Value("binary"),
            "mask": Picture(),
        }
    )
    plain: dict[str, Any] = {
        "image": {"bytes": encoded(COLOURS), "path": None},
        "parts": [],
        "raw": b"",
        "mask": None,
    }
    data = [{**plain, **row} for row in rows]
    Dataset.from_list(data, features=features).to_parquet(folder / "data.parquet")
    return load_task(str(folder / "mine.yaml"), **options)


def same(one: Image.Image, other: Image.Image) -> bool:
    """Whether two pictures have the same pixels."""
    return np.array_equal(np.asarray(one), np.asarray(other))


def shown(benchmark: Benchmark, number: int) -> Image.Image:
    [image] = [
        part["url"]
        for part in benchmark.messages(benchmark.requests[number])[0]["content"]
        if part["type"] == "image"
    ]
    return image  # type: ignore[no-any-return]


def test_tasks_show_what_files_show(tmp_path: Path) -> None:
    deep = encoded(Image.fromarray((RAMP * 65535).astype(np.uint16)))
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encoded(COLOURS, exif=exif)
    numbers = encoded(Image.fromarray(np.array([[0, 300], [2, 1]], dtype=np.uint16)))
    benchmark = task(
        tmp_path,
        [
            {"question": "plain"},
            {"question": "deep", "image": {"bytes": deep, "path": None}},
            {"question": "turned", "image": {"bytes": turned, "path": None}},
            {"question": "inner", "parts": [{"picture": {"bytes": deep, "path": None}}]},
            {"question": "masked", "mask": {"bytes": numbers, "path": None}},
            {
                "question": "as it is",
                "image": {"bytes": encoded(Image.fromarray(NOISE)), "path": None},
            },
        ],
    )
    assert same(shown(benchmark, 0), COLOURS)
    assert np.abs(np.asarray(shown(benchmark, 1), dtype=float)[:, :, 0] - RAMP * 255).max() <= 1
    assert shown(benchmark, 2).size == (48, 64)
    assert same(shown(benchmark, 1), shown(benchmark, 3))
    assert benchmark.masks(benchmark.requests[4]).tolist() == [[0, 300], [2, 1]]
    assert same(shown(benchmark, 5), COLOURS)


def test_a_task_s_image_above_the_limit_is_refused_however_it_is_opened(tmp_path: Path) -> None:
    large = header(400, 300)
    benchmark = task(
        tmp_path,
        [
            {"question": "plain"},
            {"question": "column", "image": {"bytes": large, "path": None}},
            {"question": "inner", "parts": [{"picture": {"bytes": large, "path": None}}]},
            {"question": "opens it itself", "raw": large},
        ],
        max_image_pixels=64 * 48,
    )
    assert shown(benchmark, 0).size == (64, 48)
    for number in (1, 2, 3):
        with pytest.raises(MediaError, match="pixels") as told:
            benchmark.messages(benchmark.requests[number])
        assert len(str(told.value)) <= 300
    assert benchmark.fingerprint != load_task(str(tmp_path / "mine.yaml")).fingerprint


# ---- show ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (header(13000, 13000), "169,000,000 pixels"),
        (encoded(COLOURS.resize((4000, 1))), "one side may be at most 200 times the other"),
        (encoded(COLOURS)[:900], "cannot be read"),
    ],
    ids=["too large", "too thin", "truncated"],
)
def test_show_says_in_one_line_what_is_wrong_with_an_image(
    content: bytes, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "odd.png").write_bytes(content)
    options = [
        "model=tiny-llava-next",
        "method=random",
        f"image={tmp_path / 'odd.png'}",
        f"out={tmp_path / 'out.png'}",
    ]
    assert cli.main(["show", "question=what is it?", *options]) == 2
    [line] = capsys.readouterr().err.strip().splitlines()
    assert reason in line
    assert len(line) <= 330
