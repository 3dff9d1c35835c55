"""Clip: a CLIP beside the model, which is shown the crops that the model's own vision encoder is
shown, or the pictures themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prunebench.border import weights
from prunebench.border.text import one_line
from prunebench.identity import weights_digest
from prunebench.models import checkpoint
from prunebench.models.base import Unsupported
from prunebench.models.errors import LoadError, explained, unattended
from prunebench.testbed import TOWERS

ELSEWHERE = "Give a folder, or a hub id that can be fetched: clip=..."


@dataclass(frozen=True, eq=False)
class Embeddings:
    """What CLIP makes of texts: `pooled` [M, P] and, where asked, of all `tokens` [M, L, P].

    `cut` texts were longer than CLIP reads and were cut off.
    """

    pooled: Tensor
    tokens: Tensor | None
    cut: int


@dataclass(frozen=True, eq=False)
class Clip:
    """A stock CLIPModel with its tokenizer, by the name it was asked for."""

    name: str
    model: Any
    tokenizer: Any
    source: str

    @cached_property
    def images(self) -> Any:
        """Its image processor; raises Unsupported where it has none."""
        from transformers import AutoImageProcessor

        with explained(f"CLIP {self.name}", self.source, ELSEWHERE, Unsupported), unattended():
            return AutoImageProcessor.from_pretrained(self.source, trust_remote_code=False)

    @cached_property
    def digest_of_images(self) -> str:
        """A hash of how it turns images into what it sees."""
        return sha256(self.images.to_json_string().encode()).hexdigest()

    @cached_property
    def digest(self) -> str:
        """A hash of its weights and of how it cuts texts into tokens."""
        words = self.tokenizer.backend_tokenizer.to_str()
        return sha256(f"{weights_digest(self.model)} {words}".encode()).hexdigest()

    def rows(self, crops: Tensor) -> Tensor:
        """[C * (1 + patches), P] what CLIP makes of [C, 3, H, W] crops that are normalised already.

        These are the CLS token and the patches of every crop, one crop behind the other, behind
        CLIP's final norm and projection.
        """
        tower = self.model.vision_model
        size = self.model.config.vision_config.image_size
        if crops.dim() != 4 or crops.shape[-2:] != (size, size):
            raise Unsupported(
                f"CLIP {self.name} takes crops of {size} px; "
                f"the model's encoder was given {list(crops.shape)}"
            )
        projection = self.model.visual_projection
        hidden = tower(pixel_values=crops.to(projection.weight)).last_hidden_state
        # stock CLIP norms and projects its CLS token alone; methods compare patches with texts too
        rows: Tensor = projection(tower.post_layernorm(hidden)).flatten(0, 1)
        return rows

    def pixels(self, pictures: Sequence[Tensor]) -> Tensor:
        """[C, 3, S, S] of pictures [H, W, 3] uint8, as CLIP takes them.

        Each is scaled to the square as a whole, for the middle that CLIP's processor cuts out would
        leave tokens at the edges unseen.
        """
        side = self.model.config.vision_config.image_size
        square = {"height": side, "width": side}
        images = [picture.cpu().numpy() for picture in pictures]
        options = {"do_resize": True, "size": square, "do_center_crop": False}
        ready: Tensor = self.images(
            images, **options, input_data_format="channels_last", return_tensors="pt"
        )["pixel_values"]
        return ready.to(self.model.device)

    def texts(self, texts: tuple[str, ...], whole: bool = False) -> Embeddings:
        """The embeddings of M texts; where they are to be `whole`, all are padded to the length
        that CLIP reads, and the padding, too, is embedded.
        """
        limit = self.model.config.text_config.max_position_embeddings
        padding = "max_length" if whole else True
        tokens = self.tokenizer(
            list(texts), padding=padding, truncation=True, max_length=limit, return_tensors="pt"
        )
        uncut = self.tokenizer(list(texts), padding=False, truncation=False)["input_ids"]
        states = self.model.text_model(**tokens.to(self.model.device))
        projection = self.model.text_projection
        return Embeddings(
            projection(states.pooler_output),
            # stock CLIP projects one token alone, the one that stands for its text
            projection(states.last_hidden_state) if whole else None,
            sum(len(ids) > limit for ids in uncut),
        )


def load_clip(name: str, device: torch.device, dtype: torch.dtype) -> Clip:
    """A miniature of the testbed, a hub id or a folder; raises Unsupported where it cannot be had,
    or is not whole.

    A folder is read again when its files change. No code of its own runs.
    """
    source = str(TOWERS.get(name, name))
    with explained(f"CLIP {name}", source, ELSEWHERE, Unsupported):
        files = weights.stamp(Path(source)) if Path(source).is_dir() else ()
        return _read(name, source, device, dtype, files)


# `_stamp` is there for the cache's key alone: files that changed are read again
@lru_cache(maxsize=2)
def _read(
    name: str, source: str, device: torch.device, dtype: torch.dtype, _stamp: weights.Stamp
) -> Clip:
    from transformers import AutoTokenizer, CLIPConfig, CLIPModel

    with unattended():
        values, _ = CLIPConfig.get_config_dict(source)
        checkpoint.check_config(values)
        if values.get("model_type") != "clip":
            kind = one_line(str(values.get("model_type")), 60)
            raise LoadError(f"its config.json describes no CLIP but a {kind!r}")
        stored = checkpoint.header(Path(source))
        with torch.device("meta"):
            empty = CLIPModel(CLIPConfig.from_pretrained(source))
        checkpoint.check_size(empty, stored, False, dtype, device.type)
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        options: dict[str, Any] = {
            "output_loading_info": True,
            # so that the report names them, and check_loaded says which
            "ignore_mismatched_sizes": True,
            "trust_remote_code": False,
        }
        loaded: Any = CLIPModel.from_pretrained(source, dtype=dtype, **options)
        model, report = loaded
        checkpoint.check_loaded(model, report)
    return Clip(name, model.to(device).eval().requires_grad_(False), tokenizer, source)
