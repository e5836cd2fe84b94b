"""The page of numbers shows what the files hold, and lets a reader choose among it."""

import json
import re
import shlex
import shutil
import sys
from pathlib import Path
from urllib.parse import parse_qsl

import explore_page
import pandas as pd
import pytest
import write_numbers
from bookkit.studies import stored_means

from diver_lite.advice.words import LEVEL, WORTH
from diver_lite.judge.compare import CLAIM_SEEDS
from diver_lite.judge.networks import judge_name

pytest.importorskip("sphinx", reason="the tools of the book are not installed")

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "results"
STUDIES = {study["name"]: study for study in explore_page.studies()}
CHOICES = ("question", "data", "ipc", "steps", "judge", "norm", "against", "set")
COMPARED = pd.read_csv(RESULTS / "comparisons.csv").groupby("study")

every_study = pytest.mark.parametrize("name", STUDIES)


def table(name):
    return pd.read_csv(RESULTS / name, keep_default_na=False)


def found(lines, **wanted):
    return [m for m in lines if all(m[name] == value for name, value in wanted.items())]


# ---------------------------------------------------------------- the numbers


@pytest.mark.parametrize("name", sorted({*COMPARED.groups} & {*STUDIES}))
def test_every_difference_is_that_of_its_file(name):
    """Read by itself, with the mean of the seeds as a second witness."""
    lines = STUDIES[name]["lines"]
    seen = 0
    for row in COMPARED.get_group(name).to_dict("records"):
        pair = {"row": row["row"], "against": row["against"]}
        mine = found(lines, **pair, points=row["points"])
        mine = [m for m in mine if m["set"] == row["set"] or row["set"] == "-"]
        assert mine, row
        numbers = [f"{row[name]:+.1f}" for name in ("points", "low", "high")]
        signs = [write_numbers.minus(number) for number in numbers]
        shown = "{} [{}, {}]".format(*signs) + "*" * row["survives"]
        for line in mine:
            assert (line["low"], line["high"]) == (row["low"], row["high"])
            assert line["text"] == shown
            values = [v for v in line["values"] if v is not None]
            assert sum(values) / len(values) == pytest.approx(row["points"], abs=0.006)
        seen += len(mine)
    assert seen == len([m for m in lines if m["against"]])


@every_study
def test_a_seed_s_difference_is_that_of_its_trainings(name):
    """Where one network was asked about one set; means above hold for all."""
    lines = STUDIES[name]["lines"]
    who = ("judge", "norm", "set")
    reached = {(*(m[k] for k in who), m["row"]): m for m in found(lines, against="")}
    for line in (m for m in lines if m["against"]):
        pair = [(*(line[k] for k in who), line[end]) for end in ("row", "against")]
        if {*pair} <= {*reached}:
            row, other = (reached[key]["values"] for key in pair)
            expected = [a - b for a, b in zip(row, other, strict=True)]
            assert line["values"] == pytest.approx(expected, abs=0.011)


@every_study
def test_every_training_is_that_of_its_file(name):
    study = STUDIES[name]
    lines = found(study["lines"], against="")
    trainings = table(f"{name}_trainings.csv")
    for row in trainings.to_dict("records"):
        of, _, variant = row["set"].rpartition(": ")
        base, norm = judge_name(row["judge"])
        mine = found(lines, judge=base, norm=norm, row=variant)
        mine = [m for m in mine if m["set"] == of or not of]
        assert mine, row
        for line in mine:
            value = line["values"][study["seeds"].index(row["seed"])]
            assert value == round(100 * float(row["accuracy"]), 2)
    for line in lines:  # and none that isn't there
        assert sum(v is not None for v in line["values"]) <= len(study["seeds"])


@every_study
def test_means_are_those_of_the_summary(name):
    study = STUDIES[name]
    for row in stored_means(name).to_dict("records"):
        for judge in (key for key in row if f"{key} std" in row):
            base, norm = judge_name(judge)
            lines = found(study["lines"], against="", row=row["row"], norm=norm)
            lines = [m for m in lines if m["judge"] == base]
            same = [m for m in lines if m["set"] == row["set"]]
            (text,) = {m["text"] for m in same or lines}  # "-": all sets share it
            numbers = pytest.approx((row[judge], row[f"{judge} std"]), abs=0.0501)
            assert tuple(map(float, text.split(" ± "))) == numbers


def test_words_are_those_of_advise():
    lines = [m for s in STUDIES.values() for m in s["lines"] if m["against"]]
    for line in lines:
        star = line["text"].endswith("*")
        if line["word"] in ("gains", "loses"):
            assert star and abs(line["points"]) >= WORTH
            assert (line["points"] > 0) == (line["word"] == "gains")
        elif line["word"] == "level":
            assert line["low"] >= -LEVEL and line["high"] <= LEVEL
        else:
            assert line["word"] in ("not settled", "first look")
            assert not star or abs(line["points"]) < WORTH
    assert {line["word"] for line in lines} >= {"gains", "loses", "level"}
    text = (ROOT / "book" / "explore.md").read_text("utf-8")
    for rule in (
        f"at least {WORTH:g} point.",
        f"lies within {LEVEL:g} points",
        f"fewer than {CLAIM_SEEDS} seeds",
    ):
        assert rule in text


@every_study
def test_a_command_asks_what_the_run_asked(name, monkeypatch):
    """As the script's own parser reads it."""
    settings = json.loads((RESULTS / f"{name}.json").read_text())["provenance"]
    settings = settings["settings"]
    python, script, *words = shlex.split(STUDIES[name]["command"])
    assert python == "python"
    module = pytest.importorskip(Path(script).stem)

    class Parsed(Exception):
        pass

    def begin():
        raise Parsed

    read = module.argparse.ArgumentParser.parse_args
    kept = []

    def parse(parser):
        given = read(parser, words)
        kept.append(given)
        return given

    monkeypatch.setattr(module.argparse.ArgumentParser, "parse_args", parse)
    monkeypatch.setattr(module, "begin", begin)
    monkeypatch.setattr(sys, "argv", [script])
    with pytest.raises(Parsed):
        module.main()
    for key, value in settings.items():
        if key == "sets_folder":
            value = value and "FOLDER"
        if key not in ("work", "jobs", "data_root"):
            assert str(getattr(kept[0], key)) == str(value), key


# ---------------------------------------------------------------- a new study


README = "| `fresh_*` | Is it new? | `python scripts/answer.py fresh` | nowhere |\n"


def write_study(folder, seeds=6):
    """Write a study as a script does: one set, two rows, one judge."""
    (folder / "README.md").write_text(README)
    settings = {"dataset": "cifar10", "ipc": 1, "protocol": "quick", "steps": None}
    record = {"settings": settings | {"sets": ["dm"]}, "commit": "abc", "date": "today"}
    content = {"provenance": record, "data": "CIFAR-10 (files)", "split": "test"}
    content["images"] = 2000
    (folder / "fresh_cifar10_ipc1.json").write_text(json.dumps(content))
    rows = [
        {"set": f"dm: {row}", "judge": "ConvNet-BN", "seed": seed, "accuracy": value}
        for row, accuracy in (("Stage I", 0.1), ("VAE", 0.3))
        for seed in range(seeds)
        for value in [accuracy + 0.01 * seed * (row == "VAE")]
    ]
    pd.DataFrame(rows).to_csv(folder / "fresh_cifar10_ipc1_trainings.csv", index=False)
    row = {"study": "fresh_cifar10_ipc1", "judges": "ConvNet-BN"}
    row |= {"row": "VAE", "against": "Stage I", "set": "dm"}
    row |= {"points": 22.5, "low": 20.5367, "high": 24.4633, "verdict": "better"}
    row |= {"survives": True}
    pd.DataFrame([row]).to_csv(folder / "comparisons.csv", index=False)


def test_a_new_study_appears_without_code(tmp_path):
    write_study(tmp_path)
    (study,) = explore_page.studies(tmp_path)
    assert (study["asked"], study["steps"]) == ("Is it new?", "80")
    assert study["command"].startswith("python scripts/answer.py fresh --dataset cif")
    *measured, compared = study["lines"]
    assert [line["text"] for line in measured] == ["10.0 ± 0.0", "32.5 ± 1.9"]
    assert compared["text"] == "+22.5 [+20.5, +24.5]*"
    assert compared["word"] == "gains"
    assert compared["values"] == [20, 21, 22, 23, 24, 25]
    assert (compared["judge"], compared["norm"]) == ("ConvNet", "BN")


def test_a_study_that_still_runs_is_left_out(tmp_path):
    write_study(tmp_path)
    (tmp_path / "fresh_cifar10_ipc1.json").unlink()
    assert explore_page.studies(tmp_path) == []


def test_a_study_without_its_question_is_named(tmp_path):
    write_study(tmp_path)
    (tmp_path / "README.md").write_text("")
    with pytest.raises(KeyError, match="fresh_cifar10_ipc1"):
        explore_page.studies(tmp_path)


# ---------------------------------------------------------------- links to views


def views():
    texts = [*ROOT.glob("book/*.md"), *ROOT.glob("notebooks/*.ipynb")]
    for path in [*texts, RESULTS / "README.md", ROOT / "README.md"]:
        for view in re.findall(r"explore\.md#([^)\s]+)", path.read_text("utf-8")):
            yield pytest.param(view, id=f"{path.stem}: {view}")


@pytest.mark.parametrize("view", [*views()])
def test_a_link_leads_to_a_view_that_has_lines(view):
    given = parse_qsl(view, keep_blank_values=True, strict_parsing=True)
    rows = [value for name, value in given if name == "row"]
    chosen = {name: value for name, value in given if name != "row"}
    assert set(chosen) <= set(CHOICES)
    several = {name for name in ("norm", "set") if chosen.get(name) == "each"}
    wanted = {name: chosen[name] for name in chosen if name not in several}
    lines = [s | line for s in STUDIES.values() for line in s["lines"]]
    left = found(lines, **wanted)
    assert left
    assert set(rows) <= {line["row"] for line in left}


# ---------------------------------------------------------------- in a browser


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """Write the page by itself, as the book holds it, with all studies."""
    folder = tmp_path_factory.mktemp("book") / "explore"
    shutil.copytree(ROOT / "book" / "_static" / "explore", folder)
    explore_page.write_studies(folder)
    html = explore_page.page_html(".")
    start = "<!doctype html><meta charset='utf-8'><link rel='icon' href='data:,'>"
    (folder / "page.html").write_text(start + html)
    return folder / "page.html"


SEEN = """({
  rows: [...document.querySelectorAll(".explore-row")].map((e) => e.innerText),
  numbers: [...document.querySelectorAll(".explore-number")].map((e) => e.innerText),
  dots: document.querySelectorAll(".seed").length,
  said: [...document.querySelectorAll(".explore-say")].map((e) => e.innerText),
  titles: [...document.querySelectorAll("h2")].map((e) => e.innerText),
  files: [...document.querySelectorAll(".explore-origin a")].map((e) => e.href),
  hash: location.hash,
})"""


def visit(tab, page, view):
    tab.goto(page.as_uri())
    tab.evaluate(f"location.hash = {view!r}; new Promise((d) => setTimeout(d, 100))")
    return tab.evaluate(SEEN)


def test_a_view_shows_its_numbers(tab, heard, page):
    view = "data=cifar10&steps=80&norm=BN&against=Stage I&set=all, pooled&row=VAE"
    seen = visit(tab, page, view.replace(" ", "%20") + "&row=DIVER%20700")
    study = STUDIES["recovery_cifar10_published-ipc1"]
    pooled = found(study["lines"], norm="BN", against="Stage I", set="all, pooled")
    lines = {line["row"]: line for line in pooled}
    assert seen["rows"] == ["VAE", "DIVER 700"]
    shown = [f"{lines[r]['word']} {lines[r]['text']}" for r in seen["rows"]]
    assert seen["numbers"] == shown
    assert seen["dots"] == 20
    assert seen["titles"] == ["ShuffleNetV2 with batch norm, all sets, pooled"]
    (said,) = seen["said"]
    assert said.startswith("Against Stage I, ")
    assert all(row in said for row in seen["rows"])
    names = [Path(file).name for file in seen["files"]]
    assert names == study["files"]
    assert all((page.parent / name).exists() for name in names)
    assert heard == []


def test_a_choice_redraws_and_is_kept_in_the_address(tab, page):
    tab.goto(page.as_uri())
    before = tab.evaluate(SEEN)
    assert before["rows"]  # something to see without a choice
    choose = "f.elements.{}.value = {!r}; f.dispatchEvent(new Event('change'));"
    tab.evaluate("f = document.forms[0];" + choose.format("data", "cifar10"))
    tab.evaluate(choose.format("norm", "GN") + choose.format("against", ""))
    after = tab.evaluate(SEEN)
    assert after["numbers"] != before["numbers"]
    assert all(" ± " in number for number in after["numbers"])
    tab.evaluate("f.querySelector('[name=row]').click()")
    fewer = tab.evaluate(SEEN)
    assert fewer["rows"] == after["rows"][1:]
    assert visit(tab, page, fewer["hash"][1:]) == fewer


def test_the_keyboard_chooses_and_opens(tab, page):
    tab.goto(page.as_uri())
    before = tab.evaluate(SEEN)
    tab.evaluate("document.forms[0].elements.norm.focus()")
    tab.keyboard.press("ArrowUp")
    assert tab.evaluate(SEEN)["titles"] != before["titles"]
    assert tab.evaluate("document.activeElement.name") == "norm"
    tab.evaluate("document.querySelector('.explore-line summary').focus()")
    tab.keyboard.press("Space")
    assert "seed 5" in tab.evaluate("document.querySelector('.explore-line').innerText")


def test_a_finger_opens_a_row_and_leaves_one_out(phone, page):
    phone.goto(page.as_uri())
    phone.locator(".explore-line summary").first.tap()
    assert phone.evaluate("document.querySelector('.explore-line').open")
    before = phone.evaluate(SEEN)
    phone.locator(".explore-rows label").first.tap()
    assert len(phone.evaluate(SEEN)["rows"]) < len(before["rows"])


def test_every_choice_can_be_seen(tab, heard, page):
    """Whatever is offered, one choice after the other, draws lines and no nonsense."""
    tab.goto(page.as_uri())
    complaints = tab.evaluate("""(async () => {
      const form = document.forms[0], complaints = [];
      const values = (name) => [...form.elements[name].options].map((o) => o.value);
      const walk = (names) => {
        const [name, ...others] = names;
        if (!name) return look();
        for (const value of values(name)) {
          form.elements[name].value = value;
          form.dispatchEvent(new Event("change"));
          if (form.elements[name].value !== value) complaints.push(`lost ${value}`);
          walk(others);
        }
      };
      const look = () => {
        const text = document.querySelector(".explore-panels").innerHTML;
        const bad = /NaN|undefined|null|Infinity/.exec(text);
        const lines = document.querySelectorAll(".explore-line").length;
        if (bad || !lines) complaints.push(`${location.hash}: ${bad}, ${lines} lines`);
      };
      walk(["question", "data", "ipc", "steps", "judge", "norm", "against"]);
      return complaints;
    })()""")
    assert complaints == []
    assert heard == []
