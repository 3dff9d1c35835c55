"""Errors of loading: whatever goes wrong becomes one line that says the way out; nothing else is
asked or told.
"""

from __future__ import annotations

import errno
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from prunebench.border import hub
from prunebench.border.text import message, one_line

_FULL = (errno.ENOSPC, errno.EDQUOT)
_OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "out of memory")


class LoadError(ValueError):
    """A model that cannot be found, fetched or read."""


@contextmanager
def explained(
    what: str, source: str, elsewhere: str, raised: type[ValueError] = LoadError
) -> Iterator[None]:
    """Whatever goes wrong in the block as an error of one line about `what`; `elsewhere` is the way
    out where the hub is none.

    Errors of prunebench itself say enough and pass, but a LoadError does not know what it is about
    and is told. With another class than LoadError, a lack of memory passes, too: it is a status of
    its own where it is not the model itself that finds no room.
    """
    about = one_line(what, 70)
    try:
        yield
    except LoadError as error:
        raise raised(one_line(f"{about}: {error}")) from error.__cause__
    except Exception as error:
        if type(error).__module__.startswith("prunebench."):
            raise
        if raised is not LoadError and any(map(_out_of_memory, hub.causes(error))):
            raise
        raise raised(one_line(f"{about}: {_reason(error, source, elsewhere)}")) from error


@contextmanager
def unattended() -> Iterator[None]:
    """transformers neither asks nor tells at the terminal in this block.

    It asks whether foreign code may run, for parts of a processor whatever it was told, and takes
    what is piped in for an answer. It writes tables of keys as they stand in a file; the errors
    raised here name them.
    """
    from transformers import dynamic_module_utils
    from transformers.utils import logging

    asking: Any = dynamic_module_utils
    telling: Any = logging
    verbosity, seconds = telling.get_verbosity(), asking.TIME_OUT_REMOTE_CODE
    telling.set_verbosity_error()
    asking.TIME_OUT_REMOTE_CODE = 0  # no time to answer means no
    try:
        yield
    finally:
        telling.set_verbosity(verbosity)
        asking.TIME_OUT_REMOTE_CODE = seconds


def _reason(error: Exception, source: str, elsewhere: str) -> str:
    """What went wrong and the way out. Causes are looked through: libraries wrap what the system
    said.
    """
    chain = list(hub.causes(error))
    text = message(error)
    detail = one_line(text, 110)
    if any(_out_of_memory(link) for link in chain):
        return (
            f"not enough memory to load it ({detail}); "
            "take a smaller model, another dtype or another device"
        )
    if any(isinstance(link, OSError) and link.errno in _FULL for link in chain):
        return (
            f"the disk is full ({detail}); "
            "free some space, or set HF_HOME to a folder on another disk"
        )
    if any(isinstance(link, PermissionError) for link in chain):
        return (
            f"a file may not be read or written ({detail}); "
            "change its permissions, or set HF_HOME to a folder of yours"
        )
    if "trust_remote_code" in text or "requires you to execute custom code" in text:
        return (
            "its files ask to run code of their own, which is not done. "
            "Where you have read that code and trust it, allow it with trust_remote_code=true"
        )
    # what the connection itself raises is no OSError
    unfetched = isinstance(error, OSError) or hub.is_passing(error)
    if unfetched and not Path(source).is_dir():
        refusal = hub.refusal(error, "model", source)
        if refusal is not None:
            return f"{one_line(source, 60)} {refusal}"
        return (
            f"{one_line(source, 60)} could not be fetched and is not in the local cache "
            f"({one_line(detail, 55)}). {elsewhere}"
        )
    if isinstance(error, pickle.UnpicklingError):
        return (
            "its weights are a broken file, or a pickle of more than tensors, which is not read; "
            "save them as safetensors"
        )
    return f"it cannot be loaded: {_kind(error)}{one_line(text, 160)}"


def _kind(error: Exception) -> str:
    """The name of an error's class with a colon, empty where its text says as much without it."""
    name = type(error).__name__
    if isinstance(error, OSError | ValueError | ImportError) or message(error) == name:
        return ""
    return f"{name}: "


def _out_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    # torch's allocator on the CPU raises a plain RuntimeError, known by its words alone
    text = message(error).lower()
    return isinstance(error, RuntimeError) and any(words in text for words in _OUT_OF_MEMORY)
