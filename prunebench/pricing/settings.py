"""Settings: a model's configuration as plain values, for arithmetic that needs no transformers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class Settings:
    """What stands in a configuration, as attributes; its parts are settings, too."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        for name, value in values.items():
            setattr(self, name, Settings(value) if isinstance(value, Mapping) else value)

    def get_text_config(self) -> Any:
        """The language model's part, by the name that transformers gives this."""
        return getattr(self, "text_config", self)
