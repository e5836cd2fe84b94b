"""What every committed notebook keeps to; that it runs is nbmake's to say.

Solutions run there too, because they are cells.
"""

import ast
import asyncio
import re
import runpy
import time
from functools import cache
from itertools import pairwise
from pathlib import Path

import nbformat
import pytest
import zmq.asyncio

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
MAX_CELL_LINES = 25
MAX_METHOD_LINES = 50  # of the one cell that holds all of DIVER, tagged whole-method
MAX_BYTES = 1_500_000
MIN_WORDS = {"chapter": 1_200, "appendix": 1_200, "interlude": 400}
MIN_EXERCISES = {"chapter": 3, "appendix": 2, "interlude": 3}
HIDDEN = {"hide-input", "hide-cell", "remove-input", "remove-cell"}
WIDGET = "application/vnd.jupyter.widget-view+json"
GLOSSARY = (ROOT / "book" / "glossary.md").read_text("utf-8")
CAPTION = "**Figure.** "
FOLDED = "jp-MarkdownHeadingCollapsed"  # by JupyterLab, with all that stands below
IMAGES = {"image/png", "image/jpeg", "image/webp", "image/svg+xml"}

ANSWER = "<details><summary><b>Answer</b>"
METHOD = [p for p in NOTEBOOKS if re.match("0[1-6]|appendix_a", p.stem)]

every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
every_chapter_of_the_method = pytest.mark.parametrize(
    "path", METHOD, ids=lambda p: p.stem
)


@cache
def read(path):
    """Return a notebook, read and validated once: no test changes it."""
    return nbformat.read(path, as_version=4)


def code_cells(path):
    """Yield (position, cell) of each code cell that holds code."""
    for position, cell in enumerate(read(path).cells):
        if cell.cell_type == "code" and cell.source.strip():
            yield position, cell


def markdown(path):
    """Return all prose of a notebook."""
    cells = read(path).cells
    return "\n\n".join(c.source for c in cells if c.cell_type == "markdown")


def kind(path):
    """Return "chapter", "appendix" or "interlude": 06, appendix_a, 06b."""
    first = path.stem.split("_")[0]
    if first[-1] == "b":
        return "interlude"
    return "chapter" if first.isdigit() else first


def tags(cell):
    return set(cell.metadata.get("tags", []))


def words(text):
    """Count the words of prose: no code, mathematics, directives or addresses."""
    text = re.sub(r"(?s)\$\$.*?\$\$", " ", "\n".join(prose_lines(text)))
    text = re.sub(r"\]\([^)]*\)|<[^>]*>", " ", text)
    text = re.sub(r"\$[^$]*\$|`[^`]*`", " word ", text)
    return len(re.findall(r"[A-Za-z][A-Za-z'’-]*", text))


def prose_lines(text):
    """Yield the lines outside of code."""
    code = False
    for line in text.splitlines():
        if line.lstrip(" >").startswith("```"):
            code = not code
        elif not code:
            yield line


def has_image(cell):
    return any(IMAGES & set(output.get("data", {})) for output in cell.outputs)


def test_there_are_notebooks():
    assert NOTEBOOKS, "notebooks/ is empty: the book has no chapters"


@every_notebook
def test_format_and_size(path):
    notebook = read(path)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    size = path.stat().st_size
    assert size <= MAX_BYTES, f"{size / 1e6:.2f} MB; frames as WebP, fewer of them"


def imports(cell):
    nodes = ast.parse(re.sub(r"(?m)^( *)[%!].*", r"\1pass", cell.source)).body
    return [n for n in nodes if isinstance(n, ast.Import | ast.ImportFrom)]


@every_notebook
def test_cells_are_short(path):
    lengths = {
        position: sum(bool(line.strip()) for line in cell.source.splitlines())
        - sum(name.end_lineno - name.lineno for name in imports(cell))  # count as one
        for position, cell in code_cells(path)
    }
    whole = {p for p, cell in code_cells(path) if "whole-method" in tags(cell)}
    assert all(lengths[p] <= MAX_METHOD_LINES for p in whole)
    too_long = {
        p: n for p, n in lengths.items() if n > MAX_CELL_LINES and p not in whole
    }
    assert not too_long, f"cells (position: lines) over {MAX_CELL_LINES}: {too_long}"


def test_one_cell_of_the_book_is_longer():
    tagged = [
        path.stem
        for path in NOTEBOOKS
        for _, cell in code_cells(path)
        if "whole-method" in tags(cell)
    ]
    assert tagged == ["06_semantic_fusion"]


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
    """The text in `mystnb` of the metadata, where alone MyST-NB reads it.

    The caption in the next cell, where every medium shows it.
    """
    cells = read(path).cells
    missing = []
    for position, cell in code_cells(path):
        described = cell.metadata.get("mystnb", {}).get("image", {}).get("alt")
        if has_image(cell) and not (described and is_caption(cells[position + 1])):
            missing.append(position)
    assert not missing, f"cells with a figure, without alt text or caption: {missing}"


@every_notebook
def test_stored_pictures_carry_the_alternative_text_of_their_cell(path):
    """Or run scripts/tidy_outputs.py: nbviewer looks for it there."""
    for position, cell in code_cells(path):
        for output in cell.outputs:
            for kind in IMAGES & set(output.get("data", {})):
                stored = output.metadata.get(kind, {}).get("alt")
                assert stored == cell.metadata.mystnb.image.alt, position


def is_caption(cell):
    return cell.cell_type == "markdown" and cell.source.startswith(CAPTION)


@every_notebook
def test_a_caption_stands_under_a_figure(path):
    cells = read(path).cells
    for above, cell in pairwise(cells):
        if is_caption(cell):
            assert above.cell_type == "code", cell.source
            assert "\n\n" not in cell.source, "a caption is a cell of its own"


@every_notebook
def test_outputs_name_no_folder_of_this_machine(path):
    text = path.read_text()
    assert str(ROOT) not in text
    assert str(Path.home()) + "/" not in text


# ---------------------------------------------------------------- prose


def test_words_are_those_that_are_read():
    text = """One [two](words.md#x) and [three](far/away.md).

### Four

```python
not code
```

<details><summary>Five</summary>

Six $x + y$ seven.

$$
\\begin{equation*}
a + b
\\end{equation*}
$$

> Eight `nine.ten`.
"""
    # One two and three Four Five Six X seven Eight X; an X is read as a word
    assert words(text) == 11


@every_notebook
def test_is_mostly_prose(path):
    count = words(markdown(path))
    least = MIN_WORDS[kind(path)]
    assert count >= least, f"{count} words of prose, expected {least} or more"


@every_notebook
def test_a_sentence_stands_before_every_cell(path):
    """A hidden cell needs none: the reader meets it only by asking for it."""
    cells = read(path).cells
    bare = [
        position
        for position, cell in code_cells(path)
        if not HIDDEN & tags(cell) and not introduced(prose_before(cells, position))
    ]
    assert not bare, f"code cells without a sentence before them: {bare}"


def introduced(text):
    return words(text) >= 3 and not text.startswith(CAPTION)


def prose_before(cells, position):
    """Return the text right above a cell; a hidden cell in between doesn't count."""
    above = cells[:position]
    while above and above[-1].cell_type == "code" and HIDDEN & tags(above[-1]):
        above = above[:-1]
    return above[-1].source if above and above[-1].cell_type == "markdown" else ""


@every_notebook
def test_terms_are_in_the_glossary(path):
    known = {slug(title) for title in re.findall(r"(?m)^## (.*)$", GLOSSARY)}
    used = re.findall(r"\]\(\.\./book/glossary\.md#([^)]*)\)", markdown(path))
    assert used, "no term is linked to the glossary"
    assert set(used) <= known


def slug(title):
    """Return the anchor that GitHub, JupyterLab and the built book give a title."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def test_terms_are_in_order():
    terms = re.findall(r"(?m)^## (.*)$", GLOSSARY)
    assert len(terms) > 40
    assert terms == sorted(terms, key=str.lower)


@every_notebook
def test_links_to_files_lead_somewhere(path):
    links = re.findall(r"\]\(([^)\s]+)\)", markdown(path))
    links = (link for link in links if not re.match(r"[a-z]+:|#", link))
    dead = [link for link in links if not (path.parent / link.split("#")[0]).exists()]
    assert not dead, f"links to files that are not there: {dead}"


# ---------------------------------------------------------------- cells


@every_notebook
def test_checks_its_code_against_the_package(path):
    """In a cell tagged drift-check that was run: so book and package stay one."""
    checks = [cell for _, cell in code_cells(path) if "drift-check" in tags(cell)]
    assert checks, "no cell is tagged drift-check"
    for cell in checks:
        assert asserts(cell.source), f"this drift-check checks nothing: {cell.source}"
        assert cell.execution_count, f"this drift-check was not run: {cell.source}"


def asserts(code):
    """Tell whether code holds an assert, or a call named assert_..."""
    return any(
        isinstance(node, ast.Assert)
        or (isinstance(node, ast.Attribute) and node.attr.startswith("assert_"))
        or (isinstance(node, ast.Name) and node.id.startswith("assert_"))
        for node in ast.walk(ast.parse(code))
    )


@every_notebook
def test_no_widget_is_stored(path):
    """Without its kernel it is a broken icon; its text says to run the cell."""
    notebook = read(path)
    assert "widgets" not in notebook.metadata
    for position, cell in code_cells(path):
        for data in (output.get("data", {}) for output in cell.outputs):
            assert WIDGET not in data, position
            if cell.source.splitlines()[-1].startswith("explore_"):
                assert data["text/plain"].startswith("Run this cell"), position
                assert "remove-output" in tags(cell), position


def sections(path, level):
    """Yield (title, its cell, the cells below) for the headings of a level."""
    found = []
    for cell in read(path).cells:
        heading = cell.cell_type == "markdown" and re.match(r"(#+) (.*)", cell.source)
        if heading and len(heading[1]) <= level:
            found.append((len(heading[1]), heading[2], cell, []))
        elif found:
            found[-1][-1].append(cell)
    yield from (rest for depth, *rest in found if depth == level)


@every_notebook
def test_exercises_have_solutions_that_run(path):
    """They are numbered, and each holds one solution with code."""
    numbers = []
    for title, cell, below in sections(path, 3):
        if "Exercise " not in title:
            continue
        numbers.append(int(re.match(r"Exercise (\d+): ", title)[1]))
        solutions = [c for c in [cell, *below] if "#### Solution" in c.source]
        assert len(solutions) == 1, title
        assert any(c.cell_type == "code" for c in below), f"{title}: no code"
    assert numbers == [*range(1, len(numbers) + 1)]
    assert len(numbers) >= MIN_EXERCISES[kind(path)]
    every = re.findall(r"(?m)^#+ Exercise \d", markdown(path))
    assert len(every) == len(numbers), "an exercise begins a cell"


@every_notebook
def test_solutions_stay_folded_when_everything_is_run(path):
    """Folding an output doesn't last in JupyterLab, folding a heading does."""
    for title, cell, below in sections(path, 4):
        if title == "Solution":
            assert cell.source.strip() == "#### Solution", "alone in its cell"
            assert cell.metadata.get(FOLDED) is True
            assert not any(HIDDEN & tags(c) for c in below), "folded once is enough"


@every_chapter_of_the_method
def test_exercises_are_of_three_kinds(path):
    """Named in the title: something to predict, to measure, and to write."""
    titles = [title for title, *_ in sections(path, 3) if "Exercise " in title]
    kinds = [title.rpartition(" (")[2] for title in titles]
    assert set(kinds) == {"predict)", "measure)", "write)"}


@every_chapter_of_the_method
def test_what_is_to_be_predicted_is_folded(path):
    """The result opens when its cell is run, in HTML by a click; so does the answer."""
    cells = read(path).cells
    asked = [k for k, c in enumerate(cells) if "**Predict before you run:" in c.source]
    assert asked
    for k, end in pairwise([*asked, len(cells)]):
        below = cells[k + 1 : end]
        answers = [j for j, c in enumerate(below) if c.source.startswith(ANSWER)]
        assert len(answers) == 1, cells[k].source
        results = [c for c in below[: answers[0]] if c.get("outputs")]
        assert results, cells[k].source
        for cell in results:
            assert {"hide-output", "hide-cell"} & tags(cell), cell.source
            assert cell.metadata.get("jupyter", {}).get("outputs_hidden"), cell.source


def test_a_reply_that_came_before_a_send_is_seen(monkeypatch):
    """nbmake's client, busy while a reply arrives, and then sending: it must wake up.

    Once it does so without notebooks/conftest.py, that file can go.
    """
    from jupyter_client.channels import AsyncZMQSocketChannel, ZMQSocketChannel
    from jupyter_client.session import Session

    monkeypatch.setattr(AsyncZMQSocketChannel, "send", ZMQSocketChannel.send)
    runpy.run_path(str(ROOT / "notebooks" / "conftest.py"))
    session = Session(key=b"")

    async def wait_for_reply():
        context = zmq.asyncio.Context()
        client, kernel = context.socket(zmq.DEALER), zmq.Context().socket(zmq.DEALER)
        port = kernel.bind_to_random_port("tcp://127.0.0.1")
        client.connect(f"tcp://127.0.0.1:{port}")
        channel = AsyncZMQSocketChannel(client, session)
        channel.send(session.msg("execute_request"))
        kernel.recv_multipart()
        waiting = asyncio.ensure_future(client.poll(None))
        await asyncio.sleep(0.1)
        kernel.send_multipart([b"reply"])
        time.sleep(0.2)  # busy: the reply arrives
        channel.send(session.msg("comm_msg"))
        done, _ = await asyncio.wait([waiting], timeout=1)
        context.destroy(linger=0)
        kernel.close(linger=0)
        return bool(done)

    assert asyncio.run(wait_for_reply())


@every_notebook
def test_what_the_page_folds_is_folded_in_jupyterlab(path):
    """Tags mean nothing to JupyterLab: it reads `jupyter` in a cell's metadata."""
    for position, cell in code_cells(path):
        look = cell.metadata.get("jupyter", {})
        if HIDDEN & tags(cell):
            assert look.get("source_hidden"), position
        if {"hide-cell", "remove-cell"} & tags(cell):
            assert look.get("outputs_hidden"), position
        if look.get("source_hidden"):
            assert cell.source.startswith("# "), f"{position}: says what it holds"


def test_cited_works_are_in_the_bibliography():
    """Author-year links, which read well on both faces, name works that it lists."""
    listed = (ROOT / "book" / "bibliography.md").read_text("utf-8")
    known = set(re.findall(r"(?m)^- \*\*(.+? \d{4})\.\*\*", listed))
    cited = set()
    for path in NOTEBOOKS:
        cited |= set(re.findall(r"\[([^\]\n]+ \d{4})\]\(", markdown(path)))
    assert len(cited) > 30
    assert cited <= known, cited - known


def test_the_quick_start_quotes_its_own_table():
    """What it says is about so many percent stands in the output above."""
    cells = read(ROOT / "notebooks/01_quick_start.ipynb").cells
    (position,) = [i for i, c in enumerate(cells) if c.source.startswith("summarise(")]
    table = cells[position].outputs[0]["data"]["text/plain"]
    shown = {round(float(mean)) for mean in re.findall(r"([\d.]+) ±", table)}
    quoted = {int(n) for n in re.findall(r"about (\d+) %", cells[position + 1].source)}
    assert quoted and quoted <= shown


def test_no_claim_of_a_verdict_from_the_quick_start():
    """Two trainings give none, so the column is not shown."""
    text = (ROOT / "notebooks" / "01_quick_start.ipynb").read_text("utf-8")
    assert "too few seeds" not in text
