"""The file of finished trainings that lets an interrupted evaluation go on.

It trains nothing and starts no process: `table` asks it which rows there are, and adds
those that `workers` bring.

One row per training, with fingerprints of the set, the test images, and the protocol
with the number of the code that trains (`training.RESULTS`) and torch's version: a
number is only taken from the file if it would come out the same again. Rows of a judge
of one's own have its norm, too, and a fingerprint of it. What isn't recorded is the
machine, whose rounding differs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import pandas as pd
from torch import Tensor

from diver_lite.checks import InputError, describe, ensure, naming
from diver_lite.files import atomic_path, fingerprint
from diver_lite.judge.answers import from_text, unpacked
from diver_lite.judge.compare import check_columns
from diver_lite.judge.networks import judge_name
from diver_lite.judge.own import OwnJudge
from diver_lite.judge.protocols import Protocol, learned_lr
from diver_lite.judge.training import RESULTS
from diver_lite.sets.distilled import DistilledSet
from diver_lite.sets.names import from_cell, to_cell
from diver_lite.sets.stored import records

TEXTS = ["set", "judge", "error"]  # a user may have chosen the words
SCORES = ["accuracy", "loss", "curve", "right"]
COLUMNS = ["set", "judge", "unseen", "seed", "draw", *SCORES, "seconds", "error"]
IN_FILE = [*COLUMNS, "set_sha", "protocol_sha", "test_sha"]
OF_OWN = ["norm", "judge_sha"]  # also in the file, where there are judges of one's own
IN_TABLE = [*COLUMNS[:2], "norm", *COLUMNS[2:]]
NUMBERS = {"unseen": bool, "seed": int, "seconds": float}
NUMBERS |= {"accuracy": float, "loss": float}
# column of fingerprints: what must be the same
MADE_WITH = {
    "protocol_sha": "another protocol, or another version of diver_lite or torch",
    "test_sha": "other test images",
}

Key = tuple[str, str, int]  # set, judge, seed


class Cells:
    """Hold finished trainings, and keep them in a CSV file if there is a path.

    Args:
        path: the file, made if it doesn't exist; None keeps the rows in memory only.
        protocol: how judges are trained.
        test: images (N, 3, H, W) that score, and their labels (N,).

    Raises:
        InputError: the file is of something else, damaged, or can't be written; or it
            was made with another protocol or other test images.
    """

    def __init__(
        self, path: str | Path | None, protocol: Protocol, test: tuple[Tensor, Tensor]
    ) -> None:
        self.path = path and Path(path)
        self.rows: dict[Key, dict] = {}
        self.sets: dict[tuple[str, int], dict[str, str]] = {}
        self.judges: dict[str, dict[str, str]] = {}
        self.shas = {
            "protocol_sha": protocol_fingerprint(protocol),
            "test_sha": fingerprint(test),
        }
        if self.path and self.path.exists():
            self._read(self.path)

    def _read(self, path: Path) -> None:
        types: Any = dict.fromkeys(IN_FILE + OF_OWN, str) | NUMBERS
        with naming(path, "a table of trainings, or a file that isn't there yet"):
            table = pd.read_csv(
                path,
                dtype=types,
                keep_default_na=False,  # a set may be called "None" or "NA"
                na_values={"accuracy": [""], "loss": [""]},
            )
            check_columns(table, *IN_FILE)
        for column, words in MADE_WITH.items():
            ensure(
                {*table[column]} <= {self.shas[column]},
                f"out {path} was made with {words}; choose another file, or delete it "
                "to start anew",
            )
        _check_rows(table, path)
        for column in OF_OWN:
            if column not in table:
                table[column] = ""
        table[TEXTS] = table[TEXTS].map(from_cell)
        rows = table.to_dict("records")
        self.rows = {(row["set"], row["judge"], row["seed"]): row for row in rows}

    def register(
        self, name: str, seed: int, train: DistilledSet, *, drawn: bool = False
    ) -> None:
        """Say which set a name stands for, with a seed.

        `drawn`, or the set's provenance, says whether another draw could have given
        another set. Raises `InputError` if the file's rows are of another one.
        """
        found = {"set_sha": set_fingerprint(train), "draw": ""}
        if drawn or is_drawn(train.provenance):
            found["draw"] = found["set_sha"]
        self.sets[name, seed] = found
        for row in self.rows.values():
            if (row["set"], row["seed"]) == (name, seed):
                ensure(
                    row["set_sha"] == found["set_sha"],
                    f"out {self.path}: its rows of set {name!r} are of another set; "
                    "give this one another name, choose another file, or delete those "
                    "rows",
                )
                row |= found

    def register_judge(self, judge: OwnJudge) -> None:
        """Say which judge of one's own a name stands for.

        Raises `InputError` if the file's rows are of another one, or if there is a file
        and nobody could tell whether they are.
        """
        ensure(
            not self.path or bool(judge.identity),
            f"judge {judge.name}: trainings of it can't be kept in out {self.path}, as "
            f"it can't be told from a changed one ({judge.unidentified}); give the "
            "factory an attribute `fingerprint`, a text that changes when it does, or "
            "leave out away",
        )
        found = {"norm": judge.norm, "judge_sha": judge.identity}
        self.judges[judge.name] = found
        for row in self.rows.values():
            if row["judge"] == judge.name:
                ensure(
                    row["judge_sha"] == judge.identity,
                    f"out {self.path}: its rows of judge {judge.name!r} are of another "
                    "one, or of other code; give this one another name, choose another "
                    "file, or delete those rows",
                )
                row |= found

    def add(self, row: dict) -> None:
        """Add a finished training and rewrite the file, whole or not at all."""
        key = (row["set"], row["judge"], row["seed"])
        own = self.judges.get(row["judge"], dict.fromkeys(OF_OWN, ""))
        self.rows[key] = row | self.sets[row["set"], row["seed"]] | self.shas | own
        if self.path:
            # in an order that doesn't depend on which training ended first
            rows = [self.rows[key] for key in sorted(self.rows)]
            own = any(row["judge_sha"] for row in rows)
            table = pd.DataFrame(rows, columns=IN_FILE + OF_OWN * own)
            table[TEXTS] = table[TEXTS].map(to_cell)
            with atomic_path(self.path, overwrite=True) as temporary:
                table.to_csv(temporary, index=False, lineterminator="\n")

    def table(self, keys: Iterable[Key]) -> pd.DataFrame:
        """Return the rows of some trainings, in their order."""
        found = [self.rows[key] for key in keys]
        norms = [row["norm"] or judge_name(row["judge"]).norm for row in found]
        rows = [row | {"norm": norm} for row, norm in zip(found, norms, strict=True)]
        return pd.DataFrame(rows, columns=IN_TABLE)


def is_drawn(provenance: dict) -> bool:
    """Return whether a set is one draw of several: recovered, or real at random.

    Stage-I sets count as fixed, and so does what clipping or a VAE makes of them: other
    runs of Stage I are other sets, and claims are about the sets in hand.
    """
    methods = {record.get("method") for record in records(provenance)}
    return not methods.isdisjoint(("DIVER", "random real"))


def set_fingerprint(train: DistilledSet) -> str:
    """Return a digest of what a judge may learn from a set: pixels, labels, step size.

    Names and provenance don't count, so a set equals itself after saving and loading.
    """
    facts = f"{len(train.class_names)} classes, step size {learned_lr(train)}"
    return fingerprint([train.images, train.labels, train.soft_labels], facts)


def protocol_fingerprint(protocol: Protocol) -> str:
    """Return a digest of a protocol's fields, and of the code that follows them."""
    versions = [metadata.version(name) for name in ("torch", "torchvision")]
    facts = [asdict(protocol), RESULTS, versions]
    return fingerprint([], json.dumps(facts, sort_keys=True))


def _check_rows(table: pd.DataFrame, path: Path) -> None:
    """Raise `InputError`, which tells the line, for a row that no training wrote."""
    accuracy = table["accuracy"]
    failed = accuracy.isna() & (table["error"] != "")
    scored = accuracy.between(0, 1) & (table["error"] == "")
    expected = "an accuracy in 0 .. 1, or none and an error; that row may be deleted"
    _refuse(table, ~(failed | scored), path, "accuracy", expected)
    twice = table.duplicated(["set", "judge", "seed"])
    _refuse(table, twice, path, "seed", "one row for each set, judge and seed")
    for column, read in {"curve": from_text, "right": unpacked}.items():
        strange = ~table[column].map(lambda text, read=read: _readable(read, text))
        _refuse(table, strange, path, column, "what a training writes there")


def _refuse(
    table: pd.DataFrame, strange: Any, path: Path, column: str, expected: str
) -> None:
    """Raise `InputError` for the first row that is strange, if one is."""
    if strange.any():
        row = int(strange.to_numpy().argmax())
        found = describe(table[column].tolist()[row])
        raise InputError(
            f"out {path}, line {row + 2}: {column} is {found}; expected {expected}"
        )


def _readable(read: Callable[[str], object], text: str) -> bool:
    try:
        read(text)
    except ValueError:
        return False
    return True
