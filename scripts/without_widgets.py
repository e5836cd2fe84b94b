"""Take live widgets out of stored notebooks: without a kernel they are broken icons.

Run: python scripts/without_widgets.py NOTEBOOK ...

What remains of such an output is its text, which asks the reader to run the cell.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

WIDGET = "application/vnd.jupyter.widget-view+json"


def without_widgets(notebook: dict) -> dict:
    """Remove the widgets from a notebook's outputs, and their state; return it."""
    notebook["metadata"].pop("widgets", None)
    for cell in notebook["cells"]:
        for output in cell.get("outputs", []):
            output.get("data", {}).pop(WIDGET, None)
    return notebook


if __name__ == "__main__":
    for name in sys.argv[1:]:
        notebook = without_widgets(json.loads(Path(name).read_text("utf-8")))
        text = json.dumps(notebook, indent=1, ensure_ascii=False)
        Path(name).write_text(text + "\n", "utf-8")
