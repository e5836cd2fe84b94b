"""Numbers that README, book and notebooks quote are those of results/.

Nothing has to be marked: an interval in the prose, "+1.7 [1.0, 2.4]", must be, rounded
as it is, one of a file in results/, whichever way round the two sets are; so must each
number with decimals in a README table be a number of the files that its section names.
"""

import json
import math
import re
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("book/*.md"))]
NOTEBOOKS = sorted(ROOT.glob("notebooks/*.ipynb"))

NUMBER = r"[+−-]?\d+(?:\.\d+)?"
# a mean, up to three words (points, %, more), and the ends of its interval
QUOTE = re.compile(
    rf"(?<![\w.])({NUMBER})(?:\s+[^\W\d]+|\s*%){{0,3}}\s*"
    rf"\[({NUMBER}),\s*({NUMBER})\]"
)


def prose(path):
    """Return a page's text, or a notebook's Markdown, without code and formulas."""
    text = path.read_text("utf-8")
    if path.suffix == ".ipynb":
        cells = json.loads(text)["cells"]
        markdown = [c["source"] for c in cells if c["cell_type"] == "markdown"]
        text = "\n\n".join("".join(source) for source in markdown)
    # what scripts/write_numbers.py writes is held to its file by test_book.py
    ours = rf"<!-- table .*?<!-- end of table -->|{NUMBER}(?: \[[^\]]*\])?<!--.*?-->"
    text = re.sub(ours, " ", text, flags=re.S)
    return re.sub(r"```.*?```|`[^`\n]*`|\$\$.*?\$\$|\$[^$\n]*\$", " ", text, flags=re.S)


def quotes(text):
    """Yield each quoted interval: as it is written, and its three numbers as texts."""
    for match in QUOTE.finditer(text):
        yield " ".join(match[0].split()), match.groups()


def stored_intervals(folder):
    """Return (mean, low, high) of all files, in points or percent."""
    found = []
    tables = [pd.read_csv(path) for path in sorted(folder.glob("*.csv"))]
    for path in sorted(folder.glob("*.json")):
        tables += [pd.DataFrame(json.loads(path.read_text()).get("table"))]
    for table in tables:
        if "low" not in table:
            continue
        mean = "share"  # beside counts; else the column before the interval
        if mean not in table:
            mean = table.columns[table.columns.get_loc("low") - 1]
        rows = table[[mean, "low", "high"]].dropna()
        shares = rows.abs().max().max() <= 1
        found += (rows * (100 if shares else 1)).values.tolist()
    for path in sorted(folder.glob("prior_*.json")):
        for entry in json.loads(path.read_text())["guidance_scales"].values():
            found.append([100 * v for v in entry["paired_difference_and_interval"]])
    return found + [[-mean, -high, -low] for mean, low, high in found]


def rounds_to(value, text):
    """Return whether a stored number may be written so: files are rounded, too."""
    decimals = len(text.partition(".")[2])
    written = float(text.replace("−", "-"))
    return math.isclose(value, written, abs_tol=0.5 * 10**-decimals + 0.0051)


def not_found(pages, intervals):
    """Return "page: quote" for all quotes that no file has."""
    return [
        f"{page.name}: {quote}"
        for page in pages
        for quote, numbers in quotes(prose(page))
        if not any(all(map(rounds_to, row, numbers)) for row in intervals)
    ]


def test_quoted_intervals_are_those_of_the_files():
    """Of README, book and notebooks."""
    intervals = stored_intervals(ROOT / "results")
    assert not_found([*PAGES, *NOTEBOOKS], intervals) == []


def test_what_counts_as_a_quote(tmp_path):
    """Means with words or signs, percent, line ends; neither code nor formulas."""
    page = tmp_path / "page.md"
    page.write_text(
        "cost 3.4 points\n[2.0, 4.7]; 0.3 [−1.3, 1.8], 4 % [2, 10] and 5.9 points more "
        "[5.3, 6.4], but not `x 1 [0, 1]`, $1 [0, 1]$ or [a 3](link), [0, 1].\n"
        "```\n1 [0, 1]\n```\n| a | +14.6 [+12.2, +17.9] |\n"
    )
    found = [numbers for _, numbers in quotes(prose(page))]
    assert found == [
        ("3.4", "2.0", "4.7"),
        ("0.3", "−1.3", "1.8"),
        ("4", "2", "10"),
        ("5.9", "5.3", "6.4"),
        ("+14.6", "+12.2", "+17.9"),
    ]
    (tmp_path / "a.csv").write_text("set,points,low,high\nx,-3.44,-4.7,-1.99\ny,,,\n")
    (tmp_path / "b.csv").write_text("set,count,share,low,high\nx,4,0.04,0.016,0.0984\n")
    intervals = stored_intervals(tmp_path)
    assert not_found([page], intervals) == [
        "page.md: 0.3 [−1.3, 1.8]",
        "page.md: 5.9 points more [5.3, 6.4]",
        "page.md: +14.6 [+12.2, +17.9]",
    ]


# --- Tables -------------------------------------------------------------------------

# what README calls the sets, and the images per class of a file
NAMES = {"DM from noise": "dm", "DM from real images": "dm-real", "DM": "dm-real"}
NAMES |= {"DSA": "dsa", "MTT": "mtt", "1": "ipc1", "10": "ipc10"}


def entries(path):
    """Return (labels, number) for a table: its row's texts, its column, its file's ipc.

    A row of no set ("-") belongs to all.
    """
    table = pd.read_csv(path)
    of_file = set(re.findall(r"ipc\d+", path.stem))
    texts = table.select_dtypes(exclude="number").astype(str)
    numbers = table.select_dtypes("number")
    numbers = numbers[[c for c in numbers if not c.endswith(" std")]]
    found = []
    for row, cells in texts.iterrows():
        labels = of_file.union(cells)
        if "-" in labels:
            labels |= set(NAMES.values()) - {"ipc1", "ipc10"}
        found += [(labels | {c}, v) for c, v in numbers.loc[row].items()]
    return found


def strangers(page, folder):
    """Return "row: number" for table cells that no file named in their section has.

    What a row and a column are called, "DM, 1", must be what the number belongs to,
    as far as the files know these words.
    """
    found = []
    for section in re.split(r"^#+ .*$", page.read_text("utf-8"), flags=re.M):
        pool = [
            entry
            for pattern in sorted(set(re.findall(r"`results/([\w.*-]+)", section)))
            for path in folder.glob(pattern)
            if path.suffix == ".csv" and not path.stem.endswith("_trainings")
            for entry in entries(path)
        ]
        known = set().union(*(labels for labels, _ in pool))
        for table in re.findall(r"(?:^\|.*\|\n)+", section, flags=re.M):
            header, *lines = QUOTE.sub("", table).splitlines()
            if not pool:
                continue
            _, *columns = row_of(header)
            for line in lines:
                first, *cells = row_of(line)
                for column, cell in zip(columns, cells, strict=True):
                    words = {NAMES.get(w, w) for w in f"{first}, {column}".split(", ")}
                    values = [v for labels, v in pool if words & known <= labels]
                    found += [
                        f"{first}: {text}"
                        for text in re.findall(r"[+−-]?\d+\.\d+", cell)
                        if not any(rounds_to(v, text) for v in values)
                    ]
    return found


def row_of(line):
    """Return the cells of a line of a table."""
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_cells_of_tables_are_those_of_the_files():
    """README's: the book's carry their places (scripts/write_numbers.py)."""
    assert strangers(PAGES[0], ROOT / "results") == []


def test_what_counts_as_a_stranger(tmp_path):
    """A number of a file that the section names, and of its own row and column."""
    (tmp_path / "a_ipc1.csv").write_text(
        "set,variant,unseen,ConvNet,ConvNet std\n-,raw,40.4,1,\n"
        "dsa,Stage I,12.34,9.1,77.7\nmtt,Stage I,13.3,8.8,\n"
    )
    (tmp_path / "b.csv").write_text("set,unseen\nx,55.5\n")
    page = tmp_path / "page.md"
    page.write_text(
        "# A\n| unnamed |\n|--|\n| x | 1.1 |\n## B\nSee [it](x) `results/a_*`.\n\n"
        "| of | DSA, 1 | MTT, ConvNet | any |\n|--|--|--|--|\n"
        "| Stage I | 12.3 | 8.8 | 55.5 |\n| raw | 40.4 | 1.0 | 5.0 [0.5, 9.5] |\n"
        "| Stage I | 13.3 | 13.3 | 77.7 |\n"
    )
    wrong = [f"Stage I: {number}" for number in (55.5, 13.3, 13.3, 77.7)]
    assert strangers(page, tmp_path) == wrong
