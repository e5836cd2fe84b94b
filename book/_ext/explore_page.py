"""Sphinx extension: a page on which a reader explores the numbers of results/.

`{explore}` is that page. Its numbers are read from results/ when the book is built, so
a new study appears by itself: NAME_trainings.csv and NAME.json, and what
comparisons.csv has of it. A page may link to a view of it:
`explore.md#data=cifar10&norm=GN`. Links to files of results/ lead to copies that are
built into the book.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from urllib.parse import quote

import pandas as pd
from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util.docutils import SphinxDirective

from diver_lite.advice.rows import STAGE1
from diver_lite.advice.words import word
from diver_lite.judge.compare import groups_of
from diver_lite.judge.networks import judge_name
from diver_lite.judge.protocols import PROTOCOLS, get_protocol

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "results"
STATIC = Path("_static", "explore")
PAGE = "book/explore"
COMPARISONS = "comparisons.csv"  # of all studies
POOLED = "all, pooled"
PAIR = ["judges", "row", "against"]  # what a comparison is about, beside its set
GAIN = "gain of "  # RECOVERY, PICTURES: over the set as distilled (scripts/seen.py)
# a row of results/README.md: files, question, command
QUESTION = re.compile(r"(?m)^\| (`.+?`) \| (.+?\?) \| `(python .+?)` \|")
# data set and images per class, in the name of a study
NAMED = re.compile(r"(fashion-mnist|cifar10).*ipc(\d+)")
# of a run's settings: what says where it ran, not what it asked
PLACES = {"question", "work", "jobs", "data_root"}


def sign(value: float) -> str:
    """Write a difference as the pages do: a real minus sign, and none before a zero."""
    text = f"{value:+.1f}"
    return "0.0" if text == "-0.0" else text.replace("-", "\N{MINUS SIGN}")


def interval(found: dict) -> str:
    """Write a difference with its interval; a star survives Holm's correction."""
    ends = f"[{sign(found['low'])}, {sign(found['high'])}]"
    return f"{sign(found['points'])} {ends}{'*' if found['survives'] else ''}"


def command_of(command: str, settings: dict) -> str:
    """Return the command that made a study; FOLDER is where its sets lay."""
    words = [command]
    for name, value in settings.items():
        if name in PLACES or value is None or value is False:
            continue
        if name == "sets" and "methods" in settings:
            continue  # they follow from methods and parts
        words.append(f"--{name.replace('_', '-')}")
        if name == "sets_folder":
            words.append("FOLDER")
        elif value is not True:
            values = value if isinstance(value, list) else [value]
            words.append(shlex.join(map(str, values)))
    return " ".join(words)


def training_of(settings: dict) -> str:
    """Say how long a study's networks were trained."""
    steps = settings.get("steps")
    if settings.get("protocol") in PROTOCOLS:
        protocol = get_protocol(settings["protocol"])
        steps = steps or protocol.steps or f"{protocol.epochs} epochs"
    return str(steps)


def question_of(stem: str, folder: Path) -> tuple[str, str]:
    """Return question and command of a study, as results/README.md has them."""
    for cell, question, command in QUESTION.findall((folder / "README.md").read_text()):
        if any(fnmatch(stem, name) for name in re.findall("`(.+?)`", cell)):
            return question, command
    raise KeyError(f"results/README.md has no row for {stem}")


def trainings(path: Path) -> pd.DataFrame:
    """Return trainings, with the set that each is of; "" is that of what all share."""
    table = pd.read_csv(path, keep_default_na=False)
    of = table["set"].str.rpartition(": ")[0]
    return table.assign(of=of, accuracy=pd.to_numeric(table["accuracy"]))


def lines(table: pd.DataFrame, compared: pd.DataFrame) -> Iterator[dict]:
    """Yield what a study measured and what it compared, one line per judge, set, row.

    table: of `trainings`; compared: the study's comparisons, if any. A line has its
    numbers in percent or points: of each seed, and their mean.
    """
    table = table.assign(percent=100 * table["accuracy"])
    by_seed = table.pivot(index="seed", columns=["judge", "set"], values="percent")
    own = [name for name in dict.fromkeys(table["of"]) if name]
    yield from accuracies(
        by_seed, own, [STAGE1, *compared["row"], *compared["against"]]
    )
    yield from differences(by_seed, own, compared, groups_of(table))


def accuracies(
    by_seed: pd.DataFrame, own: list[str], rows: list[str]
) -> Iterator[dict]:
    """Yield a line for each column, in the order of rows; what all share for each set.

    by_seed: percent, seeds x (judge, set); own: the names of sets.
    """

    def place(column: tuple[str, str]) -> int:
        row = column[1].rpartition(": ")[2]
        return rows.index(row) if row in rows else len(rows)

    for judge, full in sorted(by_seed, key=place):
        of, _, row = full.rpartition(": ")
        values = by_seed[judge, full]
        mean, spread = round(values.mean(), 4), round(values.std(), 4)
        told = f"{mean:.1f}" + (f" ± {spread:.1f}" if values.count() > 1 else "")
        line = about([judge]) | {"against": "", "row": row, "text": told}
        line |= {"points": mean, "values": rounded(values)}
        yield from ({"set": name} | line for name in ([of] if of else own))


def differences(
    by_seed: pd.DataFrame, own: list[str], compared: pd.DataFrame, belongs: dict
) -> Iterator[dict]:
    """Yield a line for each comparison, its mean and interval as they were stored.

    by_seed, own: as above; belongs: judge -> group of judges.
    """
    named = compared[~compared["set"].isin([POOLED, "-"])]
    pooled = {pair: [*sets] for pair, sets in named.groupby(PAIR)["set"]}
    for found in compared.to_dict("records"):
        group = found["judges"]  # a group of judges, or one of them
        judges = [j for j, g in belongs.items() if group in (j, g)]
        sets = [found["set"]]
        if sets == [POOLED]:
            sets = pooled[tuple(found[name] for name in PAIR)]
        pairs = [
            (judge, *(full_name(by_seed, name, found[row]) for row in PAIR[1:]))
            for judge in judges
            for name in sets
        ]
        each = [seeds_of(by_seed, j, a) - seeds_of(by_seed, j, b) for j, a, b in pairs]
        values = pd.concat(each, axis=1).mean(axis=1, skipna=False)
        kept = ("row", "against", "points", "low", "high")
        line = about(judges) | {name: found[name] for name in kept}
        line |= {"text": interval(found), "word": word(found)}
        line |= {"values": rounded(values)}
        shared = not any(": " in name for _, *names in pairs for name in names)
        for name in [*own, POOLED] if shared else [found["set"]]:
            yield {"set": name} | line


def about(judges: list[str]) -> dict[str, str]:
    """Say who learned: the networks, and their norms."""
    names, norms = zip(*map(judge_name, judges), strict=True)
    join = ", ".join
    return {"judge": join(dict.fromkeys(names)), "norm": join(dict.fromkeys(norms))}


def full_name(by_seed: pd.DataFrame, name: str, row: str) -> str:
    """Return what trainings call a row of a set, which all sets may share."""
    shared = row in by_seed.columns.get_level_values("set")
    return row if shared else f"{name}: {row}"


def seeds_of(by_seed: pd.DataFrame, judge: str, full: str) -> pd.Series:
    """Return percent of each seed, or points where a study compares what rows gain."""
    name, _, row = full.rpartition(": ")
    if not row.startswith(GAIN):
        return by_seed[judge, full]
    recovery, _, pictures = row.removeprefix(GAIN).partition(", ")
    after = by_seed[judge, f"{name}: {recovery}, {pictures}"]
    return after - by_seed[judge, f"{name}: {STAGE1}, {pictures}"]


def rounded(values: pd.Series) -> list[float | None]:
    """Return a number per seed, to two places; a training that failed has none."""
    return [None if pd.isna(value) else round(value, 2) for value in values]


def studies(folder: Path = RESULTS) -> list[dict]:
    """Return what the page shows: each study with its origin and its lines."""
    found = []
    comparisons = pd.read_csv(folder / COMPARISONS)
    for path in sorted(folder.glob("*_trainings.csv")):
        stem = path.stem.removesuffix("_trainings")
        record = folder / f"{stem}.json"
        if not record.exists():
            continue  # still running
        content = json.loads(record.read_text("utf-8"))
        if "images" not in content:
            continue  # of Stage I: no study of recovery
        settings = content["provenance"]["settings"]
        asked, command = question_of(stem, folder)
        table = trainings(path)
        compared = comparisons[comparisons["study"] == stem]
        offered = [COMPARISONS] if len(compared) else []
        dataset, ipc = NAMED.search(stem).groups()
        found.append(
            {
                "name": stem,
                "question": stem.partition("_")[0],
                "asked": asked,
                "data": dataset,
                "source": content["data"],
                "ipc": ipc,
                "steps": training_of(settings),
                "pictures": f"{content['images']:,} {content['split']} pictures",
                "seeds": sorted(map(int, table["seed"].unique())),
                "command": command_of(command, settings),
                "commit": content["provenance"]["commit"],
                "date": content["provenance"]["date"],
                "files": [*offered, path.name, record.name],
                "lines": [*lines(table, compared)],
            }
        )
    return found


def page_html(static: str) -> str:
    """Return the HTML of the page; `static` leads to its scripts and files."""
    html = (Path(__file__).parent / "explore.html").read_text("utf-8")
    return html.replace("STATIC", static)


def write_studies(folder: Path) -> None:
    """Put what the page shows into a folder, and the files that it offers."""
    found = studies()
    for name in {name for study in found for name in study["files"]}:
        shutil.copy(RESULTS / name, folder / name)
    script = f"const STUDIES = {json.dumps(found, ensure_ascii=False)};\n"
    (folder / "studies.js").write_text(script, "utf-8")


class ExplorePage(SphinxDirective):
    def run(self) -> list[nodes.Node]:
        static = "../" * self.env.docname.count("/") + STATIC.as_posix()
        return [nodes.raw("", page_html(static), format="html")]


class LinksToViews(SphinxPostTransform):
    """Lead a link to a view to that view: it names a choice, not a heading."""

    default_priority = 5  # before MyST looks for the heading

    def run(self, **kwargs) -> None:
        for link in [*self.document.findall(pending_xref)]:
            view = link.get("reftargetid") or ""
            if link.get("reftarget") != PAGE or "=" not in view:
                continue
            page = self.app.builder.get_relative_uri(self.env.docname, PAGE)
            address = f"{page}#{quote(view, safe='=&')}"
            reference = nodes.reference("", "", refuri=address)
            reference += link.children[0].children
            link.replace_self(reference)


def finish(app, exception) -> None:
    if exception is None and app.builder.format == "html":
        write_studies(Path(app.outdir) / STATIC)


def setup(app):
    app.add_directive("explore", ExplorePage)
    app.add_post_transform(LinksToViews)
    app.connect("build-finished", finish)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
