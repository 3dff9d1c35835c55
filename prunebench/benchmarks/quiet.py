"""Quiet: lmms-eval and datasets write logs and progress bars to the terminal; here they do not."""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Let nothing through that the block's libraries print, log or warn of."""
    os.environ.setdefault("TQDM_DISABLE", "1")
    import datasets
    from datasets.utils import logging as datasets_logging

    hush("lmms_eval")
    datasets.disable_progress_bars()
    # their handlers hold the terminal itself, so that sending stderr elsewhere does not reach them
    for logger in (datasets_logging.get_logger(), logging.getLogger("lmms-eval")):
        # a level that is set anew, be it the same, costs every logger of the process its cache
        if logger.level != logging.ERROR:
            logger.setLevel(logging.ERROR)
    with warnings.catch_warnings(), open(os.devnull, "w") as sink, contextlib.redirect_stdout(sink):
        warnings.simplefilter("ignore")
        with contextlib.redirect_stderr(sink):
            yield


def hush(module: str) -> None:
    """Let nothing through any more that a module, or one inside it, logs by loguru."""
    from loguru import logger

    logger.disable(module)
