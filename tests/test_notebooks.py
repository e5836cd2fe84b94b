"""What every committed notebook keeps to; that it runs is nbmake's to say."""

from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
MAX_CELL_LINES = 25
MAX_BYTES = 1_500_000
IMAGES = {"image/png", "image/jpeg", "image/webp", "image/svg+xml"}

every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)


def code_cells(path):
    """Yield (position, cell) of each code cell that holds code."""
    for position, cell in enumerate(nbformat.read(path, as_version=4).cells):
        if cell.cell_type == "code" and cell.source.strip():
            yield position, cell


def has_image(cell):
    return any(IMAGES & set(output.get("data", {})) for output in cell.outputs)


def test_there_are_notebooks():
    assert NOTEBOOKS, "notebooks/ is empty: the book has no chapters"


@every_notebook
def test_format_and_size(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    size = path.stat().st_size
    assert size <= MAX_BYTES, f"{size / 1e6:.2f} MB; frames as WebP, fewer of them"


@every_notebook
def test_cells_are_short(path):
    lengths = {
        position: sum(bool(line.strip()) for line in cell.source.splitlines())
        for position, cell in code_cells(path)
    }
    too_long = {p: n for p, n in lengths.items() if n > MAX_CELL_LINES}
    assert not too_long, f"cells (position: lines) over {MAX_CELL_LINES}: {too_long}"


@every_notebook
def test_was_executed_from_top_to_bottom(path):
    counts = [
        cell.execution_count
        for _, cell in code_cells(path)
        if "skip-execution" not in cell.metadata.get("tags", [])
    ]
    assert counts == sorted(c for c in counts if c), f"execution counts {counts}"
    assert len(set(counts)) == len(counts)


@every_notebook
def test_outputs_hold_no_errors_or_warnings(path):
    bad = [
        (position, output.get("ename") or output.text[:200])
        for position, cell in code_cells(path)
        for output in cell.outputs
        if output.output_type == "error" or output.get("name") == "stderr"
    ]
    assert not bad


@every_notebook
def test_figures_have_alt_text_and_caption(path):
    """MyST-NB reads both from `mystnb` in the cell's metadata, nowhere else."""
    missing = []
    for position, cell in code_cells(path):
        mystnb = cell.metadata.get("mystnb", {})
        if has_image(cell) and not (
            mystnb.get("image", {}).get("alt")
            and mystnb.get("figure", {}).get("caption")
        ):
            missing.append(position)
    assert not missing, f"cells with a figure, without alt text or caption: {missing}"


@every_notebook
def test_outputs_name_no_folder_of_this_machine(path):
    text = path.read_text()
    assert str(ROOT) not in text
    assert str(Path.home()) + "/" not in text
