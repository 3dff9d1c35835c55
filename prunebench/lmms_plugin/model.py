"""The model as lmms-eval sees it: it takes requests, and answers them as a sweep does."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NoReturn, Self

import torch
from lmms_eval import utils
from lmms_eval.api.model import lmms

from prunebench.border.text import message, one_line
from prunebench.lmms_plugin.answering import Answering, Answers, Unanswered
from prunebench.lmms_plugin.arguments import asking_of
from prunebench.run.backend import setup_of
from prunebench.run.transformers_backend import TransformersBackend


class PrunedModel(lmms):  # type: ignore[misc]  # lmms-eval is untyped
    """A model with a pruning method in it; the arguments are those of `--model_args`, with
    `batch_size` and `device`.

    Raises GridError, LoadError or Unsupported in one line.
    """

    is_simple = False

    def __init__(self, **arguments: Any) -> None:
        super().__init__()
        asking = asking_of(arguments)
        setup = setup_of(asking.grid, asking.grid.models[0])
        self.device = torch.device(_place(setup.device, arguments.get("device")))
        backend = TransformersBackend.load(replace(setup, device=str(self.device)))
        self._answering: Answering | None = Answering(backend, asking)

    @classmethod
    def create_from_arg_string(
        cls, arg_string: str, additional_config: Mapping[str, Any] | None = None
    ) -> Self:
        """The model of a command line; what cannot be served ends the program in one line."""
        try:
            arguments: dict[str, Any] = utils.simple_parse_args_string(arg_string)
        except ValueError:
            _end(f"--model_args is {one_line(arg_string, 80)!r}; write name=value,name=value")
        more = additional_config or {}
        arguments |= {name: value for name, value in more.items() if value is not None}
        try:
            return cls(**arguments)
        except ValueError as error:  # ours are meant for the user, any other is a bug
            if not type(error).__module__.startswith("prunebench."):
                raise
            _end(message(error))

    def generate_until(self, requests: Sequence[Any]) -> Sequence[str]:
        """The answers to the requests, in their order; each is made when it is first looked at.

        One that cannot be had ends the program in one line.
        """
        if self._answering is None:
            raise RuntimeError("the model was cleaned up; make it anew")
        texts = self._answering.texts(requests, silent=self.rank != 0)
        return Answers(texts, len(requests), _refused)

    def loglikelihood(self, requests: Sequence[Any]) -> NoReturn:
        """Refused: only free answers are asked for."""
        _end("a task that compares likelihoods cannot be asked, only one with free answers")

    def generate_until_multi_round(self, requests: Sequence[Any]) -> NoReturn:
        """Refused: an answer is one turn."""
        _end("a task of several rounds cannot be asked, only one of a single round")

    def clean(self) -> None:
        """Give the model's memory back, for lmms-eval may load a judge now."""
        self._answering = None
        super().clean()


def _place(kind: str, device: Any) -> str:
    """The device itself: the one that was named, or of several processes each its own."""
    if device is not None and ":" in str(device):
        return str(device)
    several = int(os.environ.get("WORLD_SIZE", 1)) > 1
    return f"{kind}:{os.environ.get('LOCAL_RANK', 0)}" if several and kind == "cuda" else kind


def _refused(error: Unanswered) -> NoReturn:
    _end(str(error))


def _end(why: str) -> NoReturn:
    """End the program: of any other error lmms-eval prints a traceback, and then ends as if all had
    gone well.
    """
    raise SystemExit(f"prunebench: error: {why}")
