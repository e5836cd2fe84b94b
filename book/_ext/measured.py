"""Sphinx extension: put the numbers of results/ into the pages when they are built.

A number that is copied by hand is wrong after the next run. So pages name a file, and
the build reads it: `{results}` makes tables, `{result}` and `{paired}` put one number
into a sentence. A number that isn't there stops the strict build. `{chapter}` links to
a chapter, and is plain text as long as that chapter isn't part of the book.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import ClassVar

import pandas as pd
from docutils import nodes
from docutils.parsers.rst import directives
from docutils.statemachine import StringList
from sphinx import addnodes
from sphinx.util.docutils import SphinxDirective, SphinxRole

from diver_lite.checks import InputError
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

    In a .csv the keys are values of the first columns, as many as it takes to tell the
    row, and the name of a column. The format is "%" (a fraction as percent), "points"
    (a signed one) or Python's. In a table the bar is escaped, or it would end the cell.
    """
    address, _, style = (
        part.strip() for part in text.replace("\\|", "|").partition("|")
    )
    name, *keys = (key.strip() for key in address.split(":"))
    value = load(folder / name)
    if isinstance(value, pd.DataFrame):
        *row, column = keys
        for name, key in zip(value.columns, row, strict=False):
            value = value[value[name].astype(str) == key]
        if len(value) != 1:
            raise KeyError(f"{len(value)} rows are {row}")
        value, keys = value.iloc[0].to_dict(), [column]
    for key in keys:
        value = value[int(key)] if isinstance(value, list) else value[key]
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
    seeds = settings.get("seeds")
    if seeds is None and path.suffix == ".csv" and "seed" in (table := load(path)):
        seeds = table["seed"].nunique()
    seeds = len(seeds) if isinstance(seeds, list) else seeds
    device, threads = record.get("device"), record.get("threads")
    if device and threads and "CPU" in device:
        device += f", {threads} thread{'s' * (threads > 1)}"
    commit = record.get("commit", MISSING)
    if "recomputed" in record:
        commit += f", intervals recomputed by {record['recomputed']['commit']}"
    facts = [
        ", ".join(filter(None, data)),
        _repeated(seeds, settings.get("runs")),
        device or f"device {MISSING}",
        f"commit {commit}",
        record.get("date", f"date {MISSING}"),
        content.get("whose", "our numbers"),
        content.get("note", ""),
        _chance(path, content.get("verdicts")),
    ]
    return " · ".join(filter(None, map(str, facts)))


def _repeated(seeds: int | None, runs: int | None) -> str:
    if seeds or not runs:
        return f"{seeds} seed{'s' * (seeds != 1)}" if seeds else f"seeds {MISSING}"
    return f"{runs:,} runs"  # of a simulation


def _chance(path: Path, verdicts: dict | None) -> str:
    """Say how many verdicts a table makes at once, and how many chance would."""
    if not verdicts or path.suffix != ".csv" or "verdict" not in load(path):
        return ""
    text = (
        f"{verdicts['comparisons']} verdicts, {verdicts['differences']} call a "
        f"difference, {verdicts['by_chance']:.1f} would by chance"
    )
    if silent := verdicts.get("without_verdict"):
        text += f"; {silent} comparisons without verdict: too few draws or seeds"
    return text


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

    The numbers are those of its last column; a column "verdict" is left out, and what
    it tells apart is printed bold.
    """
    *keys, numbers = (c for c in table if c not in (column, "verdict"))
    # a cell may break before an interval, not in it
    values = table[numbers].str.replace(", ", ",\N{NO-BREAK SPACE}")
    if "verdict" in table:
        told = table["verdict"].isin(["better", "worse"])
        values = values.where(~told, "**" + values + "**")
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


def _with_numbers(path: Path) -> list:
    """Order ipc1 before ipc10."""
    return [int(t) if t.isdigit() else t for t in re.split(r"(\d+)", path.stem)]


def results_folder(env) -> Path:
    """Return results/ beside the configuration of the book."""
    return Path(env.srcdir) / "results"


class Results(SphinxDirective):
    """Show every file of results/ that the patterns match; else the directive's body.

    Above each table stands where its numbers are from. Options: `rest` leaves out what
    the page has shown before, `where` chooses rows (a query of pandas), `columns`
    chooses columns, `across` gives each value of a column one of its own, `part` names
    a table inside a .json.
    """

    has_content = True
    required_arguments = 1
    final_argument_whitespace = True
    option_spec: ClassVar[dict] = {
        "rest": directives.flag,
        "where": directives.unchanged,
        "columns": directives.unchanged,
        "across": directives.unchanged,
        "part": directives.unchanged,
    }

    def run(self):
        shown = self.env.temp_data.setdefault("results shown", set())
        found = []
        for path in self.files():
            if "rest" in self.options and path.name in shown:
                continue
            shown.add(path.name)
            for file in filter(None, (path, sidecar(path))):
                self.env.note_dependency(str(file))
            for table in tables(path, self.options.get("part")):
                found += self.block(path, self.chosen(table))
        return found or self.parse(list(self.content), "measured-missing")

    def files(self) -> list[Path]:
        """Return the files that the patterns match, without their attachments."""
        folder = results_folder(self.env)
        patterns = self.arguments[0].split()
        found = {path for pattern in patterns for path in folder.glob(pattern)}
        named = {folder / pattern for pattern in patterns}
        return [
            path
            for path in sorted(found, key=_with_numbers)
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

    def chosen(self, table: pd.DataFrame) -> pd.DataFrame:
        """Return the rows and columns that the options ask for."""
        if where := self.options.get("where"):
            table = table.query(where, engine="python")
        if columns := self.options.get("columns"):
            table = table[[c.strip() for c in columns.split(",")]]
        return table

    def block(self, path: Path, table: pd.DataFrame) -> list[nodes.Node]:
        caption = f"`results/{path.name}` · {origin(path)}"
        if len(table) > MAX_ROWS:
            caption += f" · {len(table)} rows, too many to print"
            return self.parse([caption], "measured-origin")
        table, names = printable(table), ["measured-table"]
        if across := self.options.get("across"):
            table, names = spread(table, across), [*names, "measured-spread"]
        return [
            *self.parse([caption], "measured-origin"),
            *self.parse(markdown(table), *names),
        ]

    def parse(self, lines: list[str], *names: str) -> list[nodes.Node]:
        node = nodes.container(classes=[*names])
        source = self.env.doc2path(self.env.docname)
        self.state.nested_parse(StringList(lines, source), self.content_offset, node)
        return [node]


class Number(SphinxRole):
    """Put one number of results/ into a sentence."""

    def __init__(self, read):
        super().__init__()
        self.read = read

    def run(self):
        folder = results_folder(self.env)
        name = self.text.split(":")[0].strip()
        self.env.note_dependency(str(folder / name))
        try:
            return [nodes.Text(self.read(folder, self.text))], []
        except (OSError, KeyError, IndexError, TypeError, ValueError) as error:
            kind = "" if isinstance(error, InputError) else f"{type(error).__name__}: "
            message = f"results/: no number for {self.text!r} ({kind}{error})"
            return [], [self.inliner.reporter.error(message, line=self.lineno)]


class Chapter(SphinxRole):
    """Link to a notebook if it is in the book: `text <04_semantic_inheritance>`."""

    def run(self):
        found = re.fullmatch(r"(?s)(.+?)\s*<(\w+)>", self.text)
        if not found:
            message = f"{self.text!r}: expected `text <notebook>`"
            return [], [self.inliner.reporter.error(message, line=self.lineno)]
        text, notebook = found.groups()
        target = f"notebooks/{notebook}"
        if target not in self.env.found_docs:
            return [nodes.Text(text)], []
        link = addnodes.pending_xref(
            "",
            nodes.inline("", text),
            refdomain="std",
            reftype="doc",
            reftarget=f"/{target}",
            refdoc=self.env.docname,
            refexplicit=True,
            refwarn=True,
        )
        return [link], []


def setup(app):
    app.add_directive("results", Results)
    app.add_role("result", Number(lookup))
    app.add_role("paired", Number(paired))
    app.add_role("chapter", Chapter())
    return {"parallel_read_safe": True, "parallel_write_safe": True}
