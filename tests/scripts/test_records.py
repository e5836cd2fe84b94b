"""Every record of results/ names a commit of this repository that made its numbers.

Older records don't; they are listed, each with a reason, and the list only shrinks.
"""

import json
import re
import subprocess
from pathlib import Path

import provenance
import pytest

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "results"
RECORDS = sorted(path.name for path in RESULTS.glob("*.json"))
QUOTING = [
    ROOT / "README.md",
    *sorted(ROOT.glob("book/*.md")),
    *sorted(ROOT.glob("notebooks/*.ipynb")),
    *sorted(ROOT.glob("scripts/draw_*.py")),
]

ALLOWED_OLD = {
    "baseline_gpu_stock.json": "measured by hand, before there was a script for it",
}


def fault(record):
    """Return what is wrong with a record, as far as it tells itself, or None."""
    commit = str(record["provenance"].get("commit"))
    if not re.fullmatch(r"[0-9a-f]{7,40}", commit):
        return f"names no commit whose code made it, but {commit!r}"
    device = record["provenance"].get("device") or ""
    if "CPU" not in device and "borrowed" not in json.dumps(record):
        return f"was measured on {device!r}, and doesn't say that it was borrowed"
    return None


def load(name):
    return json.loads((RESULTS / name).read_text("utf-8"))


def history():
    """Return the full hashes of this commit and all before it, or skip."""

    def git(*command):
        command = ("git", "-C", str(ROOT), *command)
        return subprocess.run(command, capture_output=True, text=True).stdout.strip()

    try:
        top, shallow = git(
            "rev-parse", "--show-toplevel", "--is-shallow-repository"
        ).split("\n")
    except (OSError, ValueError):
        pytest.skip("there is no git, or no repository: commits can't be looked up")
    if Path(top).resolve() != ROOT:
        pytest.skip("this is a copy inside another repository, without its own history")
    if shallow == "true":
        pytest.skip("this clone is shallow: it lacks most commits")
    return git("rev-list", "HEAD").split()


@pytest.mark.parametrize("name", RECORDS)
def test_a_record_names_its_commit(name):
    """And a borrowed GPU. What must be old stands in ALLOWED_OLD, and nowhere else."""
    found = fault(load(name))
    if name in ALLOWED_OLD:
        assert found, f"results/{name} is clean: take it off ALLOWED_OLD"
    else:
        assert not found, f"results/{name} {found}; commit the code, measure again"


def test_the_commits_are_in_this_repository():
    """Of old records too: a commit that is gone leaves nobody the code."""
    known = history()
    for name in RECORDS:
        start = str(load(name)["provenance"].get("commit")).removesuffix("-dirty")
        if start.startswith("none"):
            continue  # on the list
        assert any(full.startswith(start) for full in known), (
            f"results/{name} names commit {start}, which this repository doesn't "
            "have: measure again"
        )


def test_the_list_of_old_records_only_shrinks():
    gone = set(ALLOWED_OLD) - set(RECORDS)
    assert not gone, f"not in results/ any more: take {sorted(gone)} off ALLOWED_OLD"
    assert len(ALLOWED_OLD) <= 1, "a new record is measured from committed code"


def test_every_table_has_a_record():
    """Its name, or the beginning of it; trainings that still go on have none yet."""
    others = {"comparisons"}  # of trainings that have records; recomputed by a test
    for path in RESULTS.glob("*.csv"):
        if path.stem in others or path.stem.endswith("_trainings"):
            continue
        stems = {Path(name).stem for name in RECORDS}
        assert path.stem in stems or path.stem.rpartition("_")[0] in stems, path.name


def test_what_pages_notebooks_and_figures_quote_is_there():
    """Each file of results/ that a text names in full."""
    name = re.compile(r"(?:results/|stored\(\\?\")([\w.-]+\.(?:csv|json))\b")
    for path in QUOTING:
        for found in name.findall(path.read_text("utf-8")):
            assert (RESULTS / found).is_file(), f"{path.name} quotes results/{found}"


def test_a_gpu_that_on_gpu_runs_on_is_borrowed(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda: "a GPU")
    assert fault({"provenance": provenance.provenance({})})
    monkeypatch.setenv(provenance.BORROWED, "yes")
    assert fault({"provenance": provenance.provenance({})}) is None


@pytest.mark.parametrize(
    ("record", "found"),
    [
        ({"commit": "0123abc", "device": "x86_64 CPU"}, None),
        ({"commit": "0123abc-dirty", "device": "x86_64 CPU"}, "'0123abc-dirty'"),
        ({"commit": "unknown", "device": "x86_64 CPU"}, "'unknown'"),
        ({"device": "x86_64 CPU"}, "'None'"),
        ({"commit": "0123abc", "device": "NVIDIA H100"}, "borrowed"),
        ({"commit": "0123abc", "device": "NVIDIA H100, borrowed"}, None),
    ],
)
def test_faults_are_seen(record, found):
    """What the tests above are for."""
    said = fault({"provenance": record})
    assert said is None if found is None else found in said
