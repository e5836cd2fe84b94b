"""Make stored outputs fit for readers without a kernel.

Run: python scripts/tidy_outputs.py NOTEBOOK ...

Live widgets go, which without a kernel are broken icons: what remains of such an output
is its text, which asks the reader to run the cell. And a picture gets the alternative
text of its cell, where nbviewer and nbconvert look for it. The built book and
JupyterLab (with book/_lab) read the cell's own.
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


def with_alternative_texts(notebook: dict) -> dict:
    """Write each cell's alternative text to the pictures that it shows; return it."""
    for cell in notebook["cells"]:
        text = cell["metadata"].get("mystnb", {}).get("image", {}).get("alt")
        for output in cell.get("outputs", []):
            for kind in output.get("data", {}):
                if text and kind.startswith("image/"):
                    output["metadata"].setdefault(kind, {})["alt"] = text
    return notebook


if __name__ == "__main__":
    for name in sys.argv[1:]:
        notebook = json.loads(Path(name).read_text("utf-8"))
        tidy = with_alternative_texts(without_widgets(notebook))
        text = json.dumps(tidy, indent=1, ensure_ascii=False)
        Path(name).write_text(text + "\n", "utf-8")
