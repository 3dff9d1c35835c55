"""Write what follows from the configurations of public models into prunebench/pricing/public.json.

The parameters of each part are counted on transformers' own classes, built without memory. Run it
after adding a model by hand: its `source`, `images` and `config`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from prunebench.pricing.counting import counted, stock_model

FILE = Path(__file__).parents[1] / "prunebench" / "pricing" / "public.json"


def main() -> None:
    """Count every model anew and write the file."""
    models = json.loads(FILE.read_text(encoding="utf-8"))
    for record in models.values():
        record["parameters"] = counted(stock_model(record["config"]))
    FILE.write_text(written(models), encoding="utf-8")


def written(models: dict[str, Any]) -> str:
    """The file's text: a line a field, and a line a part of the configuration."""
    blocks = []
    for name, record in models.items():
        fields = [f"  {json.dumps(key)}: {_value(value)}" for key, value in record.items()]
        blocks.append(f"{json.dumps(name)}: {{\n" + ",\n".join(fields) + "\n }")
    return "{\n " + ",\n ".join(blocks) + "\n}\n"


def _value(value: Any) -> str:
    if not isinstance(value, dict) or not any(isinstance(part, dict) for part in value.values()):
        return json.dumps(value)
    lines = [f"   {json.dumps(key)}: {json.dumps(part)}" for key, part in value.items()]
    return "{\n" + ",\n".join(lines) + "\n  }"


if __name__ == "__main__":
    main()
