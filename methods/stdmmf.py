"""STDMMF (2023): what stands out in a frame and what moves gate each other; the tokens that show it
stay.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from prunebench import ScorePruner, Signal, Unsupported, VisualTokens, pooled, register

SURROUND = 3
"""How many octaves coarser than its centre a surround is: Itti, Koch and Niebur (1998) take 3 and
4.
"""

STILL = {"difference": 0.05, "flow": 0.005}
"""What no video must exceed to count as still: noise of a twentieth of a colour, a displacement of
a 200th of the frame.
"""


@register(
    paper="https://arxiv.org/abs/2310.09016",
    reconstruction=True,
    variant="nothing is learned, and the map ranks tokens; "
    "the paper trains a detector that prunes nothing",
)
@dataclass(frozen=True)
class STDMMF(ScorePruner):
    """Rank by a saliency map of the image, or of the video: neither the question nor the model is
    asked.

    STDMMF-Net finds salient objects in panoramic video with a spatial and a temporal stream. The
    paper's are the two streams, the weighing of levels (ILW) and the attention between the streams
    (BMA); formulas and code were not to be had, and those here are placeholders. On every level of
    a pyramid of octaves:

    - R is the distance of a pixel's colour, in Itti's opponent channels, to that of its surround
      three octaves coarser;
    - O is how much moves, 0 in a still image, so that R alone ranks there;
    - both are shares of their largest value in the video;
    - BMA: (R s(O) + R + O s(R) + O) / 2 with s(X) = sigmoid((X - mean X) / std X);
    - ILW: the levels are averaged by the softmax of their means;
    - ILA, which needs learned features, is left out.

    Settings:

    - `levels`: octaves of the pyramid;
    - `side`: pixels of a frame's longer side on the first level;
    - `motion`: "difference" is the smaller of the changes towards two other frames, the nearest
      (double differencing), which marks where a thing is and not where it was. "flow" is DIS
      optical flow beside the frame's median flow, which follows a moving camera; it needs OpenCV.
    """

    needs = frozenset({Signal.PICTURES})
    levels: int = 4
    side: int = 256
    motion: str = "difference"

    def __post_init__(self) -> None:
        if self.motion not in STILL:
            raise ValueError(f"motion is {self.motion!r}; it is {' or '.join(map(repr, STILL))}")
        if self.motion == "flow" and not find_spec("cv2"):
            raise ValueError(
                "motion is 'flow', which needs OpenCV: pip install opencv-python-headless"
            )
        if self.levels < 1 or self.side < 16:
            raise ValueError(
                f"levels is {self.levels} and side {self.side}; they start at 1 and 16"
            )

    def score(self, tokens: VisualTokens) -> Tensor:
        """[N] the average of the saliency map over what each token shows."""
        for tile in tokens.tiles:
            has_patches = tile.rows * tile.columns > 0
            if has_patches and tile.region is None:
                raise Unsupported(
                    "stdmmf looks at the image, "
                    f"and where in it this model's tokens lie ({tile.kind}) is unknown"
                )
        maps = [self.saliency(picture) for picture in tokens.pictures]
        return pooled(tokens.layout, maps)[tokens.index]

    def saliency(self, video: Tensor) -> Tensor:
        """[F, h, w] how much every pixel of `video` [F, H, W, 3] stands out, at the resolution it
        is looked at.
        """
        frames = shrunk(video, self.side)
        moving = flow(frames) if self.motion == "flow" else difference(frames)
        space, time = [], []  # R and O, [F, h, w] a level
        for octave in range(self.levels):
            level = _halved(opponent(frames), octave)
            space.append(contrast(level))
            time.append(_resized(moving, level.shape[-2:], "area"))
        most_space = max(_largest(space), 1e-9)
        most_time = max(_largest(time), STILL[self.motion])
        fused = []
        for stands_out, moves in zip(space, time, strict=True):
            fused.append(gated(stands_out / most_space, moves / most_time))
        means = [level.mean(dim=(1, 2)) for level in fused]
        weights = torch.stack(means).softmax(dim=0)  # [levels, F]
        saliency = torch.zeros(len(video), *frames.shape[-2:])
        for weight, level in zip(weights, fused, strict=True):
            whole = _resized(level, frames.shape[-2:], "bilinear")
            saliency = saliency + weight[:, None, None] * whole
        return saliency


def shrunk(video: Tensor, side: int) -> Tensor:
    """[F, 3, h, w] in 0..1, the longer side at most `side`."""
    height, width = video.shape[1:3]
    scale = min(1.0, side / max(height, width))
    rows = max(1, round(height * scale))
    columns = max(1, round(width * scale))
    frames = []
    for frame in video.cpu():  # one at a time, for a film is large
        colours = frame.movedim(-1, 0)[None]
        small = interpolate(colours, (rows, columns), mode="bilinear", antialias=True)
        frames.append(small)
    return torch.cat(frames).float() / 255


def opponent(frames: Tensor) -> Tensor:
    """[F, 3, h, w] intensity, red against green, blue against yellow."""
    red, green, blue = frames.unbind(dim=1)
    intensity = (red + green + blue) / 3
    yellow = (red + green) / 2
    return torch.stack([intensity, red - green, blue - yellow], dim=1)


def contrast(colours: Tensor) -> Tensor:
    """[F, h, w] distance of every colour to that around it."""
    coarse = _halved(colours, SURROUND)
    around = interpolate(coarse, colours.shape[-2:], mode="bilinear")
    return _length(colours - around)


def difference(frames: Tensor) -> Tensor:
    """[F, h, w] change of colour since both of the nearest two frames, so far as there are two
    others.
    """
    colours = opponent(frames)
    count, here = len(frames), torch.arange(len(frames))
    # the first and the last frame look at two on their one side
    # of two frames both neighbours are the other one, of one the frame itself
    before = torch.where(here > 0, here - 1, min(2, count - 1))
    after = torch.where(here < count - 1, here + 1, max(0, count - 3))
    since_before = _length(colours - colours[before])
    until_after = _length(colours - colours[after])
    return torch.minimum(since_before, until_after)


def flow(frames: Tensor) -> Tensor:
    """[F, h, w] how far every pixel moves to the next frame (in the last: from the one before), in
    shares of the longer side.
    """
    if len(frames) == 1:
        return frames.new_zeros(1, *frames.shape[-2:])
    cv2: Any = import_module("cv2")  # its own types lack what it makes at run time
    # OpenCV finds flow between images of bytes alone
    grey = (frames.mean(dim=1) * 255).round().byte().numpy()
    finder = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    distances = []
    for number, frame in enumerate(grey):
        is_last = number + 1 == len(grey)
        other = grey[number - 1] if is_last else grey[number + 1]
        moved = torch.from_numpy(finder.calc(frame, other, None))  # [h, w, 2] pixels
        # most pixels are background, whose motion is the camera's
        camera = moved.flatten(0, 1).median(dim=0).values
        pixels = (moved - camera).norm(dim=-1)
        distances.append(pixels / max(frame.shape))
    return torch.stack(distances)


def gated(space: Tensor, time: Tensor) -> Tensor:
    """[F, h, w] two streams, each raised where the other is above its average."""
    return (space * _gate(time) + space + time * _gate(space) + time) / 2


def _gate(values: Tensor) -> Tensor:
    """s(X): above a half where X is above its average."""
    deviation = values.std(correction=0).clamp(min=1e-6)
    return ((values - values.mean()) / deviation).sigmoid()


def _largest(levels: Sequence[Tensor]) -> float:
    """The largest value on any level."""
    return max(float(level.max()) for level in levels)


def _resized(maps: Tensor, size: Sequence[int], mode: str) -> Tensor:
    """[F, h, w] maps at another size."""
    return interpolate(maps[:, None], tuple(size), mode=mode)[:, 0]


def _length(vectors: Tensor) -> Tensor:
    """[F, h, w] of [F, 3, h, w]; norm(dim=1) takes sixty times as long."""
    return vectors.square().sum(dim=1).sqrt()


def _halved(frames: Tensor, times: int) -> Tensor:
    """The frames so many octaves down; a side is never shorter than a pixel."""
    height, width = frames.shape[-2:]
    rows = max(1, height >> times)
    columns = max(1, width >> times)
    return interpolate(frames, (rows, columns), mode="area")
