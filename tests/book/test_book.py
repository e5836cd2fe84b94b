"""The book's pages: complete, linked, and with numbers that are where they say."""

import ast
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import draw_findings
import pandas as pd
import pytest
import yaml
from bookkit.studies import stored_comparisons
from PIL import Image

from diver_lite.judge.compare import blocks, summarise

pytest.importorskip("sphinx", reason="the tools of the book are not installed")

ROOT = Path(__file__).parents[2]
BOOK = ROOT / "book"
RESULTS = ROOT / "results"
PAGES = sorted(BOOK.glob("*.md"))
CHAPTERS = [
    "01_quick_start",
    "02_distilled_data",
    "03_diffusion_prior",
    "04_semantic_inheritance",
    "05_semantic_guidance",
    "06_semantic_fusion",
    "06b_two_priors",
    "07_cross_architecture",
    "08_ablations",
    "09_colour_images",
    "10_bring_your_own",
    "11_what_we_know",
    "appendix_a_colour_prior",
    "appendix_b_imagenet_and_gpu",
]
NOT_OURS = ("ModuleNotFoundError", "jupyter_client.")  # messages of other programs

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)


def module(path):
    """Import a file that belongs to no package."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


measured = module(ROOT / "scripts" / "write_numbers.py")
docstrings = module(BOOK / "_ext" / "plain_docstrings.py")


def sections(text, level):
    """Map the titles of one level to what stands below them."""
    parts = re.split(rf"(?m)^{'#' * level} (.+)$", text)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


# ---------------------------------------------------------------- the whole


def test_the_contents_list_every_chapter_and_page():
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text("utf-8"))
    listed = [toc["root"]]
    listed += [entry["file"] for part in toc["parts"] for entry in part["chapters"]]
    there = [f"notebooks/{p.stem}" for p in (ROOT / "notebooks").glob("*.ipynb")]
    there += [f"book/{page.stem}" for page in PAGES] + ["CONTRIBUTING"]
    assert sorted(listed) == sorted(there)
    chapters = [entry for entry in listed if entry.startswith("notebooks/")]
    assert chapters == [f"notebooks/{name}" for name in CHAPTERS]
    numbers = [int(name[:2]) for name in CHAPTERS if re.match(r"\d+_", name)]
    assert numbers == [*range(1, len(numbers) + 1)]


def test_titles_in_the_contents_carry_the_number_of_the_file():
    """A chapter's number, an appendix's letter, and a dot alone for an interlude."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text("utf-8"))
    for entry in (entry for part in toc["parts"] for entry in part["chapters"]):
        folder, _, name = entry["file"].partition("/")
        if folder == "notebooks":
            sign = re.match(r"0?(\d*)_|", name)[1] or name.partition("appendix_")[2][:1]
            assert entry["title"].startswith(f"{sign.upper()} · ".lstrip()), name


def test_notebooks_have_the_names_that_pages_link_to():
    found = {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert found <= set(CHAPTERS)


@every_page
def test_links_to_chapters_name_chapters(page):
    text = page.read_text("utf-8")
    linked = re.findall(r"\.\./notebooks/(\w+)\.ipynb", text)
    assert all((ROOT / "notebooks" / f"{name}.ipynb").exists() for name in linked)


def test_every_module_is_in_the_reference():
    text = (BOOK / "api.md").read_text("utf-8")
    package = ROOT / "diver_lite"
    files = {path.relative_to(package) for path in package.rglob("[a-z]*.py")}
    modules = {".".join(path.with_suffix("").parts) for path in files}
    modules |= {"assets", "sets.formats"}  # of `__init__.py`
    documented = set(re.findall(r"- \[`diver_lite\.([\w.]+)`\]", text))
    assert documented == modules
    shown = set(re.findall(r"- \[`bookkit\.(\w+)`\]", text))
    assert shown == {p.stem for p in ROOT.glob("notebooks/bookkit/[a-z]*.py")}


def test_the_reference_says_of_a_module_what_its_docstring_says():
    """Where the page isn't built, these lines are all that it has."""
    text = (BOOK / "api.md").read_text("utf-8")
    lines = re.findall(r"(?m)^- \[`[\w.]+`\]\((\S+)\): (.*)$", text)
    assert len(lines) > 40
    for path, said in lines:
        docstring = ast.get_docstring(ast.parse((BOOK / path).read_text("utf-8")))
        assert said == " ".join(docstring.split("\n\n")[0].split()), path


def test_lab_opens_the_quick_start():
    recipe = (ROOT / "Makefile").read_text("utf-8").split("\nlab: ")[1].split("\n\n")[0]
    assert re.search(r"(?s)/jupyter lab .* notebooks/01_quick_start\.ipynb", recipe)


def test_lab_loads_what_it_lacks_to_read_the_book():
    """In a browser, scripts/check_lab.py sees what that does."""
    recipe = (ROOT / "Makefile").read_text("utf-8").split("\nlab: ")[1].split("\n\n")[0]
    assert '--LabApp.extra_labextensions_path="$(CURDIR)/book/_lab"' in recipe
    (extension,) = (BOOK / "_lab").iterdir()
    package = json.loads((extension / "package.json").read_text("utf-8"))
    assert package["name"] == extension.name
    assert (extension / package["jupyterlab"]["_build"]["load"]).exists()


def test_a_kernel_finds_its_extension_wherever_it_starts(tmp_path):
    """The file that `make lab` writes is Python, run before extensions are loaded."""
    recipe = (ROOT / "Makefile").read_text("utf-8").split("$(KERNEL_CONFIG): ")[1]
    lines = re.findall(r"@echo '(.+)' >", recipe.split("\n\n")[0])
    config = "\n".join(lines).replace("$(CURDIR)", ROOT.as_posix())
    code = f"""
from importlib import import_module
from traitlets.config import Config
c = Config()
{config}
for name in c.InteractiveShellApp.extensions:
    import_module(name).load_ipython_extension
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code]
    subprocess.run(command, cwd=tmp_path, env=environment, check=True)


# ---------------------------------------------------------------- the paper


PAPER = (BOOK / "paper.md").read_text("utf-8")


@pytest.mark.parametrize(
    ("title", "count"), [("Seven open points", 7), ("Nine questions", 9)]
)
def test_each_point_and_question_is_answered(title, count):
    answers = sections(sections(PAPER, 2)[title], 3)
    assert [int(heading.split(".")[0]) for heading in answers] == [*range(1, count + 1)]
    for heading, text in answers.items():
        assert re.search(r"\d", shown(text)), (
            f"{heading!r} is answered without a number"
        )
        if title == "Nine questions":
            assert "](../notebooks/" in text, f"{heading!r} leads to no chapter"
            first = shown(text)
            assert first.startswith("**"), f"{heading!r} begins with no short answer"
            assert len(first.split()) <= 125, f"{heading!r} is answered at length"


def shown(text):
    """Return the prose of a page: no tables, figures, comments or folded parts."""
    text = re.sub(r"(?s)<details>.*?</details>|<!-- table.*?end of table -->", "", text)
    text = re.sub(r"(?s)<!--.*?-->", "", text)
    text = re.sub(r"(?m)^!\[.*$|^\*\*Figure\.\*\* .*$", "", text)
    return re.sub(r"\]\([^)]*\)", "]", text).strip()


def test_every_figure_of_the_paper_has_its_counterpart():
    table = next(t for h, t in sections(PAPER, 2).items() if h.startswith("Every fig"))
    rows = re.findall(r"(?m)^\| (\d[^|]*)\|[^|]*\|(.*)\|$", table)
    figures = set()
    for figure, here in rows:
        numbers = [int(n) for n in re.findall(r"\d+", figure)]
        figures |= set(range(min(numbers), max(numbers) + 1))
        assert "](../notebooks/" in here, f"figure {figure}: no link"
    assert figures == set(range(1, 15))


def test_the_sections_that_the_figures_name_are_there():
    table = PAPER[PAPER.index("## Every figure") :]
    for chapter, quoted in re.findall(
        r'\(../notebooks/(\w+)\.ipynb\)((?:,? ?(?:and |the exercise )?"[^"]+")*)', table
    ):
        cells = json.loads((ROOT / f"notebooks/{chapter}.ipynb").read_text("utf-8"))
        text = "\n".join("".join(cell["source"]) for cell in cells["cells"])
        for title in re.findall(r'"([^"]+)"', quoted):
            places = rf"^(#+|#+ Exercise \d:|\*\*Figure\.\*\*) {re.escape(title)}"
            assert re.search(places, text, re.M), f"{chapter} has no {title!r}"


# ---------------------------------------------------------------- what was found


DRAWN = {  # by scripts/draw_findings.py, out of how many studies
    "findings": 2, "forest": 2, "paper_vae": 2, "paper_bias": 2, "paper_sources": 1,
    "paper_pull": 2, "paper_window": 1, "paper_real": 2, "paper_forks": 1,
    "curves": len(draw_findings.lengths()),
}  # fmt: skip


@pytest.mark.parametrize("name", DRAWN)
def test_figures_are_as_new_as_their_numbers(name):
    """Or run scripts/draw_findings.py again."""
    stored = json.loads(Image.open(BOOK / "_static" / f"{name}.png").text["Source"])
    phone = Image.open(BOOK / "_static" / f"{name}.phone.png")
    assert stored == json.loads(phone.text["Source"])
    assert len(stored) == DRAWN[name]
    for study, digest in stored.items():
        assert draw_findings.digest(study) == digest, study


def test_findings_are_read_in_a_minute():
    """The words beside its figure, its table of five rows and what is folded."""
    text = (BOOK / "findings.md").read_text("utf-8")
    shown = re.sub(r"(?s)<!--.*?-->|!\[.*?\]\(.*?\)|\]\([^)]*\)", "", text)
    shown = re.sub(r"(?s)<details>.*?</details>", "", shown)
    beside = re.sub(r"(?m)^(\||\*\*Figure\.\*\*).*\n", "", shown)
    assert len(beside.split()) <= 450
    assert len(re.findall(r"(?m)^\|", shown)) <= 2 + 5  # a table's head, and rows
    assert len(re.findall(r"(?m)^\*\*\d\. .*?\?\*\*", text)) == 6  # questions


NEGATED = re.compile(r"\bno\b|\bnot\b|n't|nothing|without")
CLAIMS = re.compile(r"\b(gains?|gained|helps?|costs?|harms?|loses?)\b")


@pytest.mark.parametrize("page", ["README.md", "book/findings.md"])
def test_like_differences_get_like_words(page):
    """Who says that something gains, helps, costs or harms shows a star beside it."""
    text = re.sub(r"!\[[^]]*\]", "", (ROOT / page).read_text("utf-8"))
    numbers = 0
    for sentence in re.split(r"(?<=[.:;])\s+|\n", text):
        marked = re.findall(r"(\\\*)?<!-- results/comparisons\.csv:", sentence)
        numbers += len(marked)
        if marked and sentence[:1] != "|" and not any(marked):
            assert NEGATED.search(sentence) or not CLAIMS.search(sentence), sentence
    assert numbers > 10


def test_findings_quote_nothing_by_hand():
    """Of what we measured: the paper's own numbers stand behind its citation."""
    text = (BOOK / "findings.md").read_text("utf-8").replace("CIFAR-10", "")
    placed = rf"{measured.SHOWN}<!--.*?-->|!\[.*?\]|\]\([^)]*\)|\[[A-Z][^\]]* \d{{4}}\]"
    ours = re.sub(rf"(?s){placed}", "", re.sub(r"(?m)^\*\*\d\. ", "", text))
    ours = re.sub(r"`[^`]*`", "", ours)  # settings and file names
    assert re.findall(r"\d+", ours) == ["95"]  # % intervals


def test_no_page_raises_the_pull_for_fewer_steps():
    """It is a rate: only in the paper's form it weakens with the number of steps."""
    for path in [ROOT / "README.md", *PAGES, *(ROOT / "notebooks").glob("*.ipynb")]:
        for paragraph in re.split(r"\n\n|\n    \"\\\\n\",\n", path.read_text("utf-8")):
            if re.search(r"(?i)\braised?\b[^.]*?(√|\\sqrt)", paragraph):
                assert "paper's form" in paragraph, f"{path.name}: {paragraph}"


def test_the_readme_is_short():
    text = (ROOT / "README.md").read_text("utf-8")
    shown = re.sub("<!--.*?-->", "", text)
    assert len(shown.split()) <= 600
    assert "(book/findings.md)" in text


def test_the_first_hour_prints_our_own_study():
    study = RESULTS / "recovery_cifar10_mtt_published-ipc10_trainings.csv"
    rows = {"Stage I": "mtt", "VAE": "vae", "inheritance 700": "refined"}
    rows |= {"prior": "prior", "random real": "real"}
    table = pd.read_csv(study, keep_default_na=False)
    table["set"] = table["set"].str.removeprefix("mtt_published: ").map(rows)
    table["order"] = table["set"].map([*rows.values()].index)
    summary = summarise(table.sort_values("order", kind="stable"), "mtt")
    accuracies, _, last = (each.to_string() for each in blocks(summary))
    text = (BOOK / "first_hour.md").read_text("utf-8")
    for line in f"{accuracies}\n{last}".splitlines():
        assert line.rstrip() in text


# ---------------------------------------------------------------- numbers


def test_pages_hold_the_numbers_of_the_files():
    """Or run scripts/write_numbers.py, and read the sentences again."""
    works = measured.bibliography(BOOK / "references.bib")
    for page in measured.pages():
        assert measured.up_to_date(page, works) == page.read_text("utf-8"), page.name


def test_numbers_are_written_into_pages(tmp_path):
    """What stood there before is replaced, whatever its sign, unit and interval."""
    (tmp_path / "a.json").write_text(json.dumps({"x": 0.5, "y": -3}))
    trainings().to_csv(tmp_path / "t.csv", index=False)
    (tmp_path / "n.csv").write_text("set,points\ndm,1.5\n")
    page = """of ?<!-- results/a.json: x | % -->, 12 −4<!-- results/a.json: y | d -->.
| 9.9<!-- results/a.json: x \\| .1f --> | +1.0 [0, 2]<!-- results/t.csv: DIVER
vs Stage I --> |
<!-- table n.csv
columns: points
-->
old
<!-- end of table -->
"""
    new = measured.written(page, tmp_path)
    assert "of 50.0 %<!-- results/a.json: x | % -->, 12 −3<!--" in new
    assert "| 0.5<!-- results/a.json: x \\| .1f --> | +20.0 [+20.0, +20.0]<!--" in new
    assert "| points |\n| ---: |\n| +1.5 |" in new
    assert "old" not in new
    assert measured.written(new, tmp_path) == new
    with pytest.raises(KeyError):
        measured.written("1<!-- results/a.json: z | d -->", tmp_path)
    with pytest.raises(FileNotFoundError):
        measured.written("<!-- table z.csv\n-->\n<!-- end of table -->", tmp_path)
    with pytest.raises(ValueError, match="no option"):
        measured.written(page.replace("columns", "column"), tmp_path)


def test_numbers_of_a_chapter_stand_in_its_metadata(tmp_path):
    """Comments move there; later the text follows the files, number by number."""
    (tmp_path / "a.json").write_text(json.dumps({"x": 0.5, "y": -3}))
    source = "Of 1 %<!-- results/a.json: x | % --> and 1<!-- results/a.json: y | d -->."
    listed = [["50.0 %", "a.json: x | %"], ["−3", "a.json: y | d"]]
    assert measured.plain_cell(source, [], tmp_path) == ("Of 50.0 % and −3.", listed)
    (tmp_path / "a.json").write_text(json.dumps({"x": 0.5, "y": 0.5, "z": 1}))
    later = [["50.0 %", "a.json: x | %"], ["50.0 %", "a.json: y | %"]]
    found = measured.plain_cell(
        "50.0 % or −3", [listed[0], ["−3", later[1][1]]], tmp_path
    )
    assert found == ("50.0 % or 50.0 %", later)
    with pytest.raises(ValueError, match="isn't in the text any more"):
        measured.plain_cell("Of 49.0 % and −3.", listed, tmp_path)


@every_page
def test_no_cell_of_a_table_ends_inside_a_comment(page):
    rows = [line for line in page.read_text("utf-8").splitlines() if line[:1] == "|"]
    for row in rows:
        assert not re.search(r"<!--[^>]*(?<!\\)\|[^>]*-->", row), (
            f"escape the bar: {row}"
        )


# what README and pages say in words: study -> (judges, row, against) -> verdict, pooled
SAID_POOLED = {
    "recovery_fashion-mnist_ipc1": {
        ("unseen, BN", "clip", "Stage I"): "better",
        ("unseen, BN", "VAE", "Stage I"): "better",
        ("unseen, BN", "DIVER 700", "Stage I"): "better",
        ("unseen, BN", "DIVER 700", "VAE"): "no difference",
        ("unseen, BN", "DIVER 700", "prior"): "better",
        ("unseen, BN", "Stage I", "random real"): "worse",
        ("unseen, no BN", "clip", "Stage I"): "no difference",
        ("unseen, no BN", "VAE", "Stage I"): "no difference",
        ("unseen, no BN", "DIVER 700", "Stage I"): "no difference",
        ("unseen, no BN", "DIVER 700", "inheritance 700"): "better",
        ("unseen, no BN", "DIVER 700", "prior"): "better",
        ("unseen, no BN", "Stage I", "random real"): "better",
    },
    "recovery_cifar10_published-ipc1": {
        ("unseen, BN", "clip", "Stage I"): "no difference",
        ("unseen, BN", "VAE", "Stage I"): "better",
        ("unseen, BN", "inheritance 700", "Stage I"): "better",
        ("unseen, BN", "inheritance 700", "VAE"): "better",
        ("unseen, BN", "inheritance 700", "prior"): "no difference",
        ("unseen, BN", "DIVER 700", "inheritance 700"): "worse",
        ("unseen, no BN", "VAE", "Stage I"): "no difference",
        ("unseen, no BN", "inheritance 700", "Stage I"): "better",
        ("unseen, no BN", "inheritance 700", "prior"): "no difference",
        ("unseen, no BN", "DIVER 700", "inheritance 700"): "worse",
    },
    "recovery_fashion-mnist_ipc1-steps300": {
        ("unseen, BN", "clip", "Stage I"): "better",
        ("unseen, BN", "VAE", "Stage I"): "better",
        ("unseen, BN", "DIVER 700", "Stage I"): "better",
        ("unseen, BN", "DIVER 700", "VAE"): "worse",
        ("unseen, BN", "Stage I", "random real"): "worse",
        ("unseen, no BN", "inheritance 700", "Stage I"): "worse",
        ("unseen, no BN", "DIVER 700", "inheritance 700"): "better",
        ("unseen, no BN", "Stage I", "random real"): "better",
    },
    "recovery_cifar10_published-ipc1-steps300": {
        ("unseen, BN", "VAE", "Stage I"): "better",
        ("unseen, BN", "inheritance 700", "VAE"): "better",
        ("unseen, BN", "inheritance 700", "prior"): "no difference",
        ("unseen, BN", "DIVER 700", "inheritance 700"): "worse",
        ("unseen, no BN", "inheritance 700", "Stage I"): "no difference",
        ("unseen, no BN", "inheritance 700", "prior"): "no difference",
        ("unseen, no BN", "DIVER 700", "inheritance 700"): "worse",
        ("unseen, no BN", "Stage I", "random real"): "better",
    },
    "recovery_fashion-mnist_ipc1-proxy": {
        ("proxy's kind", row, "Stage I"): "worse"
        for row in ("VAE", "DIVER 700", "inheritance 700", "prior")
    }
    | {("proxy's kind", "DIVER 700", "inheritance 700"): "better"},
    "sources_cifar10_published-ipc1": {
        ("unseen, BN", "own 700", "another class 700"): "no difference",
        ("unseen, BN", "own 700", "prior"): "no difference",
        ("unseen, no BN", "own 700", "another class 700"): "better",
        ("unseen, no BN", "own 700", "prior"): "no difference",
    },
    "choices_fashion-mnist_dm-ipc1": {
        (group, row, "DIVER 700"): "no difference"
        for group in ("unseen, BN", "unseen, no BN")
        for row in (
            "start = published",
            "window = late",
            "window = full",
            "inheritance = False",
            "num_inference_steps = 10",
        )
    }
    | {
        ("unseen, BN", "guidance_target = latent", "DIVER 700"): "worse",
        ("unseen, BN", "guidance_sigma = one", "DIVER 700"): "worse",
        ("unseen, BN", "guidance_sigma = signal", "DIVER 700"): "worse",
        ("unseen, BN", "clip_input = False", "DIVER 700"): "worse",
        ("unseen, no BN", "guidance_target = latent", "DIVER 700"): "worse",
        ("unseen, no BN", "guidance_sigma = one", "DIVER 700"): "no difference",
        ("unseen, no BN", "guidance_sigma = signal", "DIVER 700"): "no difference",
        ("unseen, no BN", "clip_input = False", "DIVER 700"): "no difference",
    },
}


@pytest.mark.parametrize("study", SAID_POOLED)
def test_sentences_about_pooled_studies_still_hold(study):
    table = stored_comparisons(study)
    pooled = table
    if table["set"].nunique() > 1:
        pooled = table[table["set"] == "all, pooled"]
    verdicts = pooled.set_index(["judges", "row", "against"])["verdict"]
    assert {pair: verdicts[pair] for pair in SAID_POOLED[study]} == SAID_POOLED[study]


@pytest.mark.parametrize(
    "path",
    sorted(p for p in RESULTS.iterdir() if p.suffix in (".csv", ".json")),
    ids=lambda path: path.name,
)
def test_stored_results_can_be_printed(path):
    """Files may still be written to by a run: an empty table is no mistake."""
    assert " · " in measured.origin(path)
    for table in measured.tables(path):
        lines = measured.markdown(measured.printable(table))
        assert len({line.count(" | ") for line in lines}) == 1
        assert not re.search(r"\bnan\b|None", "".join(lines[:1]))


def test_lookup(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"x": {"1.5": {"share": 0.8412}}}))
    (tmp_path / "b.csv").write_text('setting,unseen\n"scale 4, late",-0.125\n')
    assert measured.lookup(tmp_path, "a.json: x: 1.5: share | %") == "84.1 %"
    assert measured.lookup(tmp_path, "a.json: x: 1.5: share | .2f") == "0.84"
    address = "b.csv: scale 4, late: unseen | points"
    assert measured.lookup(tmp_path, address) == "\N{MINUS SIGN}12.5"
    with pytest.raises(KeyError):
        measured.lookup(tmp_path, "b.csv: scale 5: unseen | %")
    (tmp_path / "c.csv").write_text("set,row,points\ndm,x,1.5\ndm,y,-2.25\n")
    assert measured.lookup(tmp_path, "c.csv: dm: y: points | +.1f") == "−2.2"
    rows = [{"set": "dm", "points": 1.5}, {"set": "mtt", "points": -2.25}]
    (tmp_path / "d.json").write_text(json.dumps({"table": rows}))
    assert measured.lookup(tmp_path, "d.json: table: mtt: points | +.1f") == "−2.2"
    assert measured.lookup(tmp_path, "d.json: table: 0: points | +.1f") == "+1.5"
    with pytest.raises(KeyError, match="2 rows"):
        measured.lookup(tmp_path, "c.csv: dm: points | +.1f")


def trainings():
    rows = [
        {
            "set": name,
            "judge": judge,
            "unseen": judge != "ConvNet",
            "seed": seed,
            "accuracy": accuracy + 0.01 * seed,
            "seconds": 1.0,
        }
        for name, accuracy in (("Stage I", 0.1), ("DIVER", 0.3))
        for judge in ("ConvNet", "ViT")
        for seed in range(3)
    ]
    return pd.DataFrame(rows)


def test_trainings_are_summarised():
    table = measured.printable(trainings())
    assert [*table.columns] == ["set", "ConvNet", "ViT", "unseen", "seeds"]
    assert [*table.iloc[1]] == ["DIVER", "31.0 ± 1.0", "31.0 ± 1.0", "31.0", "3"]


def test_paired(tmp_path):
    trainings().to_csv(tmp_path / "t.csv", index=False)
    found = measured.paired(tmp_path, "t.csv: DIVER vs Stage I")
    assert found == "+20.0 [+20.0, +20.0]"


def test_trainings_are_looked_up_as_means(tmp_path):
    table = trainings()
    table.assign(set="dm: " + table["set"]).to_csv(tmp_path / "t.csv", index=False)
    assert measured.lookup(tmp_path, "t.csv: dm: DIVER: ViT | .1f") == "31.0"


def test_fractions_and_percent_read_alike():
    fractions = pd.DataFrame(
        {"setting": ["a"], "unseen": [0.31], "vs_x": [-0.02], "low": [-0.03],
         "high": [0.0]}
    )  # fmt: skip
    percent = fractions.assign(unseen=31.0, vs_x=-2.0, low=-3.0)
    for table in (fractions, percent):
        text = "\n".join(measured.markdown(measured.printable(table)))
        assert "| a | 31.0 | −2.0 [−3.0, +0.0] |" in text
    points = pd.DataFrame({"row": ["a"], "points": [0.5], "low": [-0.1], "high": [1.0]})
    assert "+0.5 [−0.1, +1.0]" in measured.printable(points).to_string()


def test_a_column_is_spread_across():
    table = measured.printable(
        pd.DataFrame(
            {
                "set": ["dm", "dm", "mtt"],
                "row": ["DIVER", "VAE only", "DIVER"],
                "points": [4.0, -1.0, 0.5],
                "low": [2.0, -3.0, -0.5],
                "high": [6.0, 1.0, 1.5],
                "verdict": ["better", "no difference", "no difference"],
                "survives": [True, False, False],
            }
        )
    )
    wide = measured.spread(table, "set")
    assert [*wide.columns] == ["row", "dm", "mtt"]  # what's missing stays empty
    assert wide.to_numpy().tolist() == [
        ["DIVER", "**+4.0 [+2.0,\xa0+6.0]**\\*", "+0.5 [−0.5,\xa0+1.5]"],
        ["VAE only", "−1.0 [−3.0,\xa0+1.0]", ""],
    ]
    assert measured.markdown(wide)[1] == "| --- | ---: | ---: |"


def test_spreads_stand_beside_means():
    table = pd.DataFrame(
        {"set": ["a", "b"], "ViT": [30.0, 20.0], "ViT std": [1.25, float("nan")]}
    )
    printed = measured.printable(table)
    assert [*printed.columns] == ["set", "ViT"]
    assert [*printed["ViT"]] == ["30.0 ± 1.2", "20.0"]


def test_provenance_is_found_by_the_beginning_of_the_name(tmp_path):
    record = {
        "commit": "abc",
        "device": "x86_64 CPU",
        "threads": 1,
        "date": "2026",
    }
    settings = {"dataset": "fashion-mnist", "seeds": 5, "ipc": 1}
    content = {"provenance": record | {"settings": settings}, "split": "test"}
    (tmp_path / "study_x.json").write_text(json.dumps(content))
    path = tmp_path / "study_x_comparisons.csv"
    path.write_text("a\n1\n")
    assert measured.sidecar(path).name == "study_x.json"
    assert measured.origin(path) == (
        "fashion-mnist, IPC 1, test split · 5 seeds · x86_64 CPU, 1 thread · "
        "commit abc · 2026 · our numbers"
    )
    (tmp_path / "lonely.csv").write_text("a\n1\n")
    assert measured.origin(tmp_path / "lonely.csv").count("not recorded") == 5
    content = {"provenance": record | {"settings": {"runs": 20_000}}}
    (tmp_path / "chance.json").write_text(json.dumps(content))
    (tmp_path / "chance.csv").write_text("a\n1\n")
    assert " · 20,000 runs · " in measured.origin(tmp_path / "chance.csv")


def test_a_brief_line_leaves_out_device_and_commit(tmp_path):
    (tmp_path / "n.csv").write_text("set,points\ndm,1.5\n")
    record = {"commit": "abc", "settings": {"dataset": "cifar10", "seeds": 3}}
    (tmp_path / "n.json").write_text(json.dumps({"provenance": record}))
    page = "<!-- table n.csv\nbrief: yes\n-->\n<!-- end of table -->\n"
    written = measured.written(page, tmp_path)
    assert "`results/n.csv` · cifar10 · 3 seeds\n\n| set | points |" in written


# ---------------------------------------------------------------- words


def source_strings():
    """Return every string of ours and the Makefile, blanks made one."""
    strings = [(ROOT / "Makefile").read_text("utf-8")]
    ours = [*(ROOT / "diver_lite").rglob("*.py"), *ROOT.glob("notebooks/bookkit/*.py")]
    for path in ours:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                strings.append(node.value)
    return " ".join(" ".join(strings).split())


def test_the_messages_in_troubleshooting_are_those_of_the_program():
    text = (BOOK / "troubleshooting.md").read_text("utf-8")
    messages = re.findall(r"(?s)```text\n(.*?)\n```", text)
    assert len(messages) > 10
    known = source_strings()
    for message in messages:
        if message.startswith(NOT_OURS):
            continue
        for clause in re.split(
            "…|; |: |expected ", message.removeprefix("SetupError: ")
        ):
            clause = clause.strip(" .,()")
            if len(clause) > 12:
                assert clause in known, f"{clause!r} is in no message of ours"


def test_docstrings_are_read_as_plain_text():
    lines = ["a * b, |x|, z_ and `c * d_`", "", "one: more", "    of it", "two: less"]
    docstrings.protect(None, "module", "m", None, None, lines)
    assert lines == [
        r"a \* b, \|x\|, z\_ and `c * d_`",
        "",
        "* one: more",
        "  of it",
        "* two: less",
    ]
    lines = ["Args:", "    x: a * b"]
    docstrings.protect(None, "function", "f", None, None, lines)
    assert lines == ["Args:", r"    x: a \* b"]
