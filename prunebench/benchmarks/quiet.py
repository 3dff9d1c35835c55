"""Quiet: lmms-eval and datasets write logs and progress bars to the terminal; here they do not."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Let nothing through that the block's libraries print, log or warn of."""
    os.environ.setdefault("TQDM_DISABLE", "1")
    import datasets
    from loguru import logger

    logger.disable("lmms_eval")
    datasets.disable_progress_bars()
    with warnings.catch_warnings(), open(os.devnull, "w") as sink, contextlib.redirect_stdout(sink):
        warnings.simplefilter("ignore")
        with contextlib.redirect_stderr(sink):
            yield
