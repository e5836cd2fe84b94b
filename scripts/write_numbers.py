"""Write the numbers of results/ into the pages of the book, or check them.

Run: python scripts/write_numbers.py [--check]

A page or chapter is read in three media: as HTML, in JupyterLab, and on GitHub. So it
holds plain numbers, and a comment that no reader sees says where each comes from:

    10.3<!-- results/FILE: KEY: KEY ... | FORMAT -->     one number
    +6.2 [+3.1, +9.4]<!-- results/FILE: A vs B -->       a difference with its interval

In a table the bar is escaped. A reader of a chapter may edit its text, and comments
would be in the way: there they move into the cell's metadata, as a list `numbers` of
what is printed and where it comes from, in the order of the text.

Whole tables stand between two comments:

    <!-- table FILE ...
    where: a query of pandas that chooses rows
    columns: names, that are shown
    across: a column whose values get a column each
    part: a table inside a .json
    brief: yes  (device, commit and date are left out)
    -->
    ...
    <!-- end of table -->

The works of references.bib are written in the same way, between `<!-- references -->`
and `<!-- end of references -->`. With --check nothing is written, and the exit code is
1 if something would be.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pandas as pd
from provenance import ROOT  # and bookkit
from pybtex.database import Entry, Person, parse_file
from pybtex.richtext import Text

# isort: split
from bookkit.studies import summary_of

from diver_lite.judge.compare import paired_difference
from diver_lite.judge.networks import JUDGES

LONG = {"set", "judge", "unseen", "seed", "accuracy"}  # one row per training
MAX_ROWS = 100
MISSING = "not recorded"
# columns of accuracies and shares: fractions in some files, percent in others
DIFFERENCES = ("vs_", "points")
PERCENT = ("unseen", "accuracy", "share", "agreement", *JUDGES, *DIFFERENCES)


# ---------------------------------------------------------------- reading


def load(path: Path):
    """Read a .csv as a table, a .json as a dictionary."""
    if path.suffix == ".csv":
        return pd.read_csv(path)
    return json.loads(path.read_text("utf-8"))


def lookup(folder: Path, text: str) -> str:
    """Return one number: `FILE: KEY: KEY ... | FORMAT`.

    In a table, a .csv or a list in a .json, the keys are values of the first columns,
    as many as it takes to tell the row, and the name of a column, or "interval" for a
    difference with its interval. A difference that survives Holm's correction gets a
    star. Of trainings the rows are their means: SET: ROW: JUDGE. The format is "%" (a
    fraction as percent), "points" (a signed one) or Python's. In a page's table the bar
    is escaped, or it would end the cell.
    """
    address, _, style = (
        part.strip() for part in text.replace("\\|", "|").partition("|")
    )
    name, *keys = (key.strip() for key in address.split(":"))
    value = load(folder / name)
    while keys and not isinstance(value, pd.DataFrame):
        if _is_table(value) and not keys[0].isdigit():
            value = pd.DataFrame(value)
        else:
            key = keys.pop(0)
            value = value[int(key)] if isinstance(value, list) else value[key]
    if isinstance(value, pd.DataFrame):
        value = summary_of(value) if {*value.columns} >= LONG else value
        *row, column = keys
        for name, key in zip(value.columns, row, strict=False):
            value = value[value[name].astype(str) == key]
        if len(value) != 1:
            raise KeyError(f"{len(value)} rows are {row}")
        value = value.iloc[0].to_dict()
        star = "\\*" if value.get("survives") else ""
        if column == "interval":
            parts = [show(value[name], "+.1f") for name in ("points", "low", "high")]
            return "{} [{}, {}]".format(*parts) + star
        if column == "points":
            return show(value[column], style) + star
        value = value[column]
    return show(value, style)


def show(value, style: str) -> str:
    """Write a number the way a sentence wants it."""
    if style == "%":
        return f"{100 * value:.1f} %"
    if style == "points":
        return minus(f"{100 * value:+.1f}")
    return minus(format(value, style))


def minus(text: str) -> str:
    """Print a real minus sign, and none before a zero."""
    return re.sub(r"^-(?=0(\.0*)?$)", "", text).replace("-", "\N{MINUS SIGN}")


def paired(folder: Path, text: str) -> str:
    """Return a difference of two sets in points, with interval: `FILE: A vs B`."""
    file, names = (part.strip() for part in text.split(":", 1))
    name, baseline = (part.strip() for part in names.split(" vs "))
    found = load(folder / file)
    table = found if file.endswith(".csv") else pd.DataFrame(found["trainings"])
    mean, low, high = (
        show(value, "points") for value in paired_difference(table, name, baseline)
    )
    return f"{mean} [{low}, {high}]"


def sidecar(path: Path) -> Path | None:
    """Return the .json with a table's provenance: its name, or the beginning of it."""
    stem = path.stem
    while stem:
        if (found := path.with_name(f"{stem}.json")).exists():
            return found
        stem = stem.rpartition("_")[0]
    return None


def origin(path: Path) -> str:
    """Return where numbers are from: data, seeds, device, commit, date, and whose."""
    return " · ".join(fact for fact in facts_about(path).values() if fact)


def known(path: Path, names: Iterable[str]) -> list[str]:
    """Return of the facts about a file those that were recorded."""
    facts = facts_about(path)
    found = [facts[name] for name in names]
    return [fact for fact in found if fact and MISSING not in fact]


def facts_about(path: Path) -> dict[str, str]:
    """Return name -> what is known about a file of results/, in a few words."""
    content = load(found) if (found := sidecar(path)) else {}
    record = content.get("provenance", {})
    settings = record.get("settings", {})
    data = [
        # a result says itself whether it is CIFAR-10 or a re-encoding of it
        content["data"]
        if isinstance(content.get("data"), str)
        else settings.get("dataset") or settings.get("data") or _dataset_in(path.stem),
        f"set {settings['set']}" if isinstance(settings.get("set"), str) else None,
        f"IPC {settings['ipc']}" if "ipc" in settings else None,
        f"{content['split']} split" if "split" in content else None,
        f"{content['test_images']:,} pictures" if "test_images" in content else None,
    ]
    seeds = settings.get("seeds", 1 if "seed" in settings else None)
    if seeds is None and path.suffix == ".csv" and "seed" in (table := load(path)):
        seeds = table["seed"].nunique()
    if isinstance(seeds, str):  # FIRST:END
        first, end = map(int, seeds.split(":"))
        seeds = end - first
    seeds = len(seeds) if isinstance(seeds, list) else seeds
    device, threads = record.get("device"), record.get("threads")
    if device and threads and "CPU" in device:
        device += f", {threads} thread{'s' * (threads > 1)}"
    commit = record.get("commit", MISSING)
    return {
        "data": ", ".join(filter(None, data)),
        "seeds": _repeated(seeds, settings.get("runs")),
        "device": device or f"device {MISSING}",
        "commit": f"commit {commit}",
        "date": str(record.get("date", f"date {MISSING}")),
        "whose": content.get("whose", "our numbers"),
        "note": content.get("note", ""),
    }


def _repeated(seeds: int | None, runs: int | None) -> str:
    if seeds or not runs:
        return f"{seeds} seed{'s' * (seeds != 1)}" if seeds else f"seeds {MISSING}"
    return f"{runs:,} runs"  # of a simulation


def _dataset_in(stem: str) -> str:
    known = re.search(r"fashion-mnist|cifar10|image\w+", stem)
    return known[0] if known else f"data {MISSING}"


# ---------------------------------------------------------------- tables


def tables(path: Path, part: str | None = None) -> list[pd.DataFrame]:
    """Return the tables that a file of results/ holds; of a .json also a single one."""
    content = load(path)
    if isinstance(content, pd.DataFrame):
        return [content]
    if part:
        return [pd.DataFrame(content[part])]
    content = {k: v for k, v in content.items() if k != "provenance"}
    records = {k: v for k, v in content.items() if _is_table(v)}
    facts = flatten({k: v for k, v in content.items() if k not in records})
    found = [pd.DataFrame(rows) for rows in records.values()]
    if facts:
        found.insert(0, pd.DataFrame(facts.items(), columns=["what", "value"]))
    return found


def _is_table(value) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)


def flatten(content: dict, prefix: str = "") -> dict[str, str]:
    """Return the single values of nested dictionaries, under joined names."""
    facts = {}
    for key, value in content.items():
        name = f"{prefix}{key}".replace("_", " ")
        if isinstance(value, dict):
            facts |= flatten(value, f"{name}, ")
        elif isinstance(value, list) and all(isinstance(v, float) for v in value):
            facts[name] = ", ".join(minus(f"{v:.3f}") for v in value)
        elif not isinstance(value, list):
            number = isinstance(value, float)
            facts[name] = minus(f"{value:.4g}") if number else str(value)
    return facts


def printable(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table of texts: accuracies in percent, spreads beside their means."""
    if set(table.columns) >= LONG:
        return summary(table)
    if "unseen" in table:  # the mean over a single judge says nothing new
        twins = [c for c in JUDGES if c in table and table[c].equals(table["unseen"])]
        table = table.drop(columns=["unseen"] if twins else [])
    table = in_percent(table)
    texts, last = {}, ""
    for column in table:
        style = _style(last if column in ("low", "high") else column)
        texts[column] = _texts(table[column], style)
        if column == "high" and "low" in texts:
            interval = " [" + texts.pop("low") + ", " + texts.pop("high") + "]"
            texts[last] += interval.where(table[column].notna(), "")
        elif column.endswith(" std") and column.removesuffix(" std") in texts:
            spread = " ± " + texts.pop(column)
            texts[column.removesuffix(" std")] += spread.where(
                table[column].notna(), ""
            )
        elif column != "low":
            last = column
    return pd.DataFrame({c.replace("_", " "): v for c, v in texts.items()})


def in_percent(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table whose accuracies are in percent, whatever they were stored in."""
    columns = [c for c in table.select_dtypes("float") if c.startswith(PERCENT)]
    if columns and {"low", "high"} <= set(table):
        columns += ["low", "high"]
    fractions = table[columns].abs().max().max() <= 1 and "points" not in table
    return table.assign(**{c: 100 * table[c] for c in columns if fractions})


def _style(column: str) -> str:
    if column.startswith(DIFFERENCES):
        return "+.1f"
    return ".1f" if column.startswith(PERCENT) else ".4g"


def _texts(values: pd.Series, style: str) -> pd.Series:
    if not pd.api.types.is_float_dtype(values):
        return values.fillna("").astype(str)
    texts = [minus(format(v, style)) if pd.notna(v) else "" for v in values]
    return pd.Series(texts, index=values.index, dtype=object)


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Return mean ± std over the seeds per judge, in percent, one row per set."""
    measured = LONG | {"seconds", "error"}
    keys = [c for c in table if c not in measured and table[c].nunique() > 1]
    keys = [c for c in keys if not pd.api.types.is_float_dtype(table[c])] + ["set"]
    rows = []
    for values, mine in table.groupby(keys, sort=False, dropna=False):
        row = {k.replace("_", " "): v for k, v in zip(keys, values, strict=True)}
        for judge, group in mine.groupby("judge", sort=False)["accuracy"]:
            spread = f" ± {100 * group.std():.1f}" if group.count() > 1 else ""
            row[judge] = f"{100 * group.mean():.1f}{spread}"
        if table["judge"].nunique() > 1:
            mine = mine[mine["unseen"].astype(bool)]
            row["unseen"] = (
                f"{100 * mine.groupby('judge')['accuracy'].mean().mean():.1f}"
            )
        rows.append(row | {"seeds": str(mine["seed"].nunique())})
    return pd.DataFrame(rows).fillna("").astype(str)


def spread(table: pd.DataFrame, column: str) -> pd.DataFrame:
    """Return a printable table with one column of numbers per value of `column`.

    The numbers are those of its last column. Columns "verdict" and "survives" are left
    out: what the one tells apart is printed bold, what the other names gets a star.
    """
    left_out = (column, "verdict", "survives")
    *keys, numbers = (c for c in table if c not in left_out)
    # a cell may break before an interval, not in it
    values = table[numbers].str.replace(", ", ",\N{NO-BREAK SPACE}")
    if "verdict" in table:
        told = table["verdict"].isin(["better", "worse"])
        values = values.where(~told, "**" + values + "**")
    if "survives" in table:
        values = values.where(table["survives"] != "True", values + "\\*")
    table = table.assign(**{numbers: values})
    order = table[keys].drop_duplicates()
    wide = table.pivot(index=keys, columns=column, values=numbers).reset_index()
    wide = order.merge(wide, on=keys)[[*keys, *dict.fromkeys(table[column])]]
    return wide.fillna("")


def markdown(table: pd.DataFrame) -> list[str]:
    """Return the lines of a Markdown table; columns of numbers stand to the right."""
    number = re.compile(r"(\*\*)?[+\N{MINUS SIGN}-]?\d|$")
    right = [all(map(number.match, table[column])) for column in table]
    lines = [list(table.columns), ["---:" if r else "---" for r in right]]
    lines += table.to_numpy().tolist()
    return [
        "| " + " | ".join(str(v).replace("|", "\\|") for v in line) + " |"
        for line in lines
    ]


# ---------------------------------------------------------------- in the pages

# a number, its unit, its interval and its star, as far as they belong to it
SHOWN = r"[+\N{MINUS SIGN}-]?\d[\d.,]*(?: %)?(?: \[[^\]\n]*\])?(?:\\\*)?"
NUMBER = re.compile(rf"(?:{SHOWN}|\?)<!-- results/(.*?) -->", re.DOTALL)
TABLE = re.compile(r"(<!-- table (.*?)\n?-->\n).*?(<!-- end of table -->)", re.DOTALL)
WORKS = re.compile(r"(<!-- references -->\n).*?(<!-- end of references -->)", re.DOTALL)
OPTIONS = {"where", "columns", "across", "part", "brief"}


def written(text: str, folder: Path, works: str = "") -> str:
    """Return a page's text with the numbers that are in a folder's files now."""

    def number(found: re.Match) -> str:
        return f"{looked_up(found[1], folder)}<!-- results/{found[1]} -->"

    def table(found: re.Match) -> str:
        patterns, *lines = found[2].splitlines()
        options = dict(re.split(r": *", line, maxsplit=1) for line in lines)
        if unknown := set(options) - OPTIONS:
            raise ValueError(f"table {patterns}: no option {sorted(unknown)}")
        there = files(folder, patterns.split())
        if not there:
            raise FileNotFoundError(f"no file in {folder} is {patterns}")
        blocks = "\n\n".join(block(there, options))
        return f"{found[1]}\n{blocks}\n\n{found[3]}"

    text = TABLE.sub(table, NUMBER.sub(number, text))
    return WORKS.sub(lambda found: f"{found[1]}\n{works}\n\n{found[2]}", text)


def written_chapter(text: str, folder: Path) -> str:
    """Return a notebook's text with the numbers that are in a folder's files now."""
    notebook = json.loads(text)
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            source, numbers = plain_cell(
                "".join(cell["source"]), cell["metadata"].get("numbers", []), folder
            )
            cell["source"] = source.splitlines(keepends=True)
            if numbers:
                cell["metadata"]["numbers"] = numbers
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def plain_cell(
    source: str, numbers: list[list[str]], folder: Path
) -> tuple[str, list[list[str]]]:
    """Return a cell's text, its numbers up to date and without comments, and its list.

    Of a cell with comments all numbers are listed anew, so each must have one.
    """
    if NUMBER.search(source):
        listed = []

        def number(found: re.Match) -> str:
            now = looked_up(found[1], folder)
            listed.append([now, found[1]])
            return now

        return NUMBER.sub(number, source), listed
    new, place, listed = "", 0, []
    for text, address in numbers:
        start = source.find(text, place)
        if start < 0:
            raise ValueError(f"{text!r} isn't in the text any more: {source[:80]!r}")
        now = looked_up(address, folder)
        new += source[place:start] + now
        place = start + len(text)
        listed.append([now, address])
    return new + source[place:], listed


def looked_up(address: str, folder: Path) -> str:
    """Return the number that an address in results/ stands for."""
    address = " ".join(address.split())
    read = paired if " vs " in address and "|" not in address else lookup
    return read(folder, address)


def block(there: list[Path], options: dict) -> Iterator[str]:
    """Yield each table of some files below a line that names its file.

    A table that is too long to print has the line alone.
    """
    for path in there:
        line = f"`results/{path.name}` · {origin(path)}"
        if "brief" in options:
            facts = known(path, ("data", "seeds"))
            line = " · ".join([f"`results/{path.name}`", *facts])
        for table in tables(path, options.get("part")):
            shown = printable(chosen(table, options))
            if "across" in options:
                shown = spread(shown, options["across"])
            if len(shown) > MAX_ROWS:
                yield f"{line} · {len(shown)} rows, too many to print"
                continue
            yield line
            yield "\n".join(markdown(shown))


def _with_numbers(path: Path) -> list:
    """Order ipc1 before ipc10."""
    return [int(t) if t.isdigit() else t for t in re.split(r"(\d+)", path.stem)]


def files(folder: Path, patterns: list[str]) -> list[Path]:
    """Return the files that the patterns match, in their order.

    Without attachments.
    """
    found = [
        path
        for pattern in patterns
        for path in sorted(folder.glob(pattern), key=_with_numbers)
    ]
    named = {folder / pattern for pattern in patterns}
    return [
        path
        for path in dict.fromkeys(found)
        if path.suffix in (".csv", ".json")
        # a .json beside a .csv of the same name is its provenance, and single
        # trainings are summarised in a file of their own: shown only if named
        and (
            path in named
            or (
                not (path.suffix == ".json" and path.with_suffix(".csv").exists())
                and not path.stem.endswith("_trainings")
            )
        )
    ]


def chosen(table: pd.DataFrame, options: dict) -> pd.DataFrame:
    """Return the rows and columns that the options ask for."""
    if where := options.get("where"):
        table = table.query(where, engine="python")
    if columns := options.get("columns"):
        table = table[[c.strip() for c in columns.split(",")]]
    return table


# ---------------------------------------------------------------- works


VENUES = ("booktitle", "journal", "institution", "publisher", "howpublished")


def bibliography(file: Path) -> str:
    """Return the list of all works, by author."""
    works = parse_file(str(file)).entries.values()
    return "\n".join(sorted(map(listed, works), key=str.lower))


def cited(work: Entry) -> str:
    """Return how a text names a work: "Zhao and Bilen 2023"."""
    names = [family(author) for author in work.persons["author"]]
    who = " and ".join(names) if len(names) < 3 else f"{names[0]} et al."
    return f"{who} {work.fields['year']}"


def listed(work: Entry) -> str:
    """Return a line of the bibliography."""
    fields = {name: plain(value) for name, value in work.fields.items()}
    authors = ", ".join(
        plain(" ".join([*who.first_names, *who.middle_names, family(who)])).strip()
        for who in work.persons["author"]
    )
    where = next((f"{fields[k]}, " for k in VENUES if k in fields), "")
    line = f"- **{cited(work)}.** {authors}: *{fields['title']}.* "
    line += f"{where}{fields['year']}."
    if "eprint" in fields:
        line += f" [arXiv {fields['eprint']}](https://arxiv.org/abs/{fields['eprint']})"
    return line


def family(author: Person) -> str:
    return plain(" ".join([*author.prelast_names, *author.last_names]))


def plain(text: str) -> str:
    """Return a field without TeX's braces and accents."""
    return str(Text.from_latex(text))


def pages() -> list[Path]:
    """Return the pages and chapters that may hold numbers."""
    book = sorted((ROOT / "book").glob("*.md"))
    return [ROOT / "README.md", *book, *sorted((ROOT / "notebooks").glob("*.ipynb"))]


def up_to_date(page: Path, works: str) -> str:
    """Return a page's or chapter's text with the numbers of results/."""
    text = page.read_text("utf-8")
    if page.suffix == ".ipynb":
        return written_chapter(text, ROOT / "results")
    return written(text, ROOT / "results", works)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing")
    check = parser.parse_args().check
    works = bibliography(ROOT / "book" / "references.bib")
    old = []
    for page in pages():
        text = page.read_text("utf-8")
        new = up_to_date(page, works)
        if new != text:
            old.append(page.name)
            if not check:
                page.write_text(new, "utf-8")
    said = "not up to date" if check else "written"
    print(f"write_numbers: {said}: {', '.join(old) or 'none'}")
    return int(check and bool(old))


if __name__ == "__main__":
    sys.exit(main())
