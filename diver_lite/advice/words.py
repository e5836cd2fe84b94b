"""Say in words what trainings on a study's rows say: one rule for all of them.

Which row is best is chosen on one half of the test pictures and, where there are seeds
enough, by trainings of its own; what is said of it comes from the others. Source: ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from diver_lite.advice.rows import STAGE1
from diver_lite.checks import ensure
from diver_lite.judge.answers import from_text, unpacked
from diver_lite.judge.compare import CLAIM_SEEDS, compare, groups_of, holm
from diver_lite.judge.protocols import Protocol
from diver_lite.judge.training import LOOK_IMAGES

SAMPLES, REAL = "samples of the prior", "random real"
#: what may be recommended, with its words
CHOICES = {
    "clip": "clip its pixels",
    "VAE": "send it through the VAE",
    "inheritance 700": "recover by inheritance from 700",
    "DIVER 700": "recover by DIVER from 700",
    SAMPLES: "take samples of the prior instead",
}

# the word rule, in points of accuracy
WORTH = 1.0  # a smaller change isn't called one
LEVEL = 2.0  # an interval within it is called level
LEARNING = 2.0  # gained in the second half of training: networks still learned


@dataclass(frozen=True)
class Advice:
    """What networks say of a set.

    Attributes:
        sentences: judge -> what to do, and how much it gains.
        comparisons: one row per judge and row of the study: its mean accuracy in
            percent, its paired difference to the set in points with a 95 % t interval,
            p, whether that survives Holm's correction among the judge's, and a word.
        best: of the set and the rows that help one of the judges, the one that they
            together scored highest where rows were chosen.
        notes: what limits the answer, a sentence each.
        folder: where all of it was written.
    """

    sentences: dict[str, str]
    comparisons: pd.DataFrame
    best: str
    notes: list[str]
    folder: Path

    def __str__(self) -> str:
        lines = [f"{judge}: {said}" for judge, said in self.sentences.items()]
        return "\n".join([*lines, *(f"({note})" for note in self.notes)])

    def _repr_markdown_(self) -> str:
        return (self.folder / "advice.md").read_text("utf-8")


def advice_of(table: pd.DataFrame, folder: Path, protocol: Protocol) -> Advice:
    """Return what a table of trainings says of its rows.

    Args:
        table: of `cross_architecture`, with a row `STAGE1`.
        folder: for `Advice`.
        protocol: by which its networks were trained.
    """
    failed = table.loc[table["error"] != "", "error"].unique()
    ensure(not len(failed), f"a training failed: {'; '.join(failed)}")
    groups = groups_of(table)
    diagnoses = [judge for judge, group in groups.items() if group == "diagnosis"]
    ensure(not diagnoses, f"judges: {diagnoses} are diagnoses; expected networks")
    seeds = sorted(table["seed"].unique())
    choosing = scoring = seeds
    if len(seeds) >= 2 * CLAIM_SEEDS:
        choosing, scoring = seeds[: len(seeds) // 2], seeds[len(seeds) // 2 :]
    chosen_by: Any = scored(table[table["seed"].isin(choosing)], half=0)
    said_by = scored(table[table["seed"].isin(scoring)], half=1)
    found, sentences = [], {}
    for judge, group in groups.items():
        mine: Any = said_by[said_by["judge"] == judge]
        rows = comparisons_of(mine, judge, group)
        means = chosen_by[chosen_by["judge"] == judge].groupby("set")["accuracy"].mean()
        sentences[judge] = sentence(rows, best_of(means))
        found.append(rows)
    comparisons = pd.concat(found, ignore_index=True)
    helping = {row["row"] for row in comparisons.to_dict("records") if helps(row)}
    together: Any = chosen_by.groupby("set")["accuracy"].mean()
    best = best_of(together[together.index.isin({STAGE1, *helping})])
    notes = notes_of(table, choosing == scoring, len(scoring), protocol)
    return Advice(sentences, comparisons, best, notes, folder)


def scored(table: Any, half: int) -> pd.DataFrame:
    """Return trainings with their accuracy on one half of the test images."""

    def accuracy(right: str) -> float:
        answers = unpacked(right)
        return answers[in_half(len(answers), half)].float().mean().item()

    return table.assign(accuracy=table["right"].map(accuracy))


def in_half(count: int, half: int) -> Tensor:
    """Return (count,) booleans: which images are in a half, the same ones each time."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    return (order < count // 2) == (half == 0)


def best_of(means: Any) -> str:
    """Return the row with the highest mean that may be recommended, or the set."""
    there = means[[row for row in (STAGE1, *CHOICES) if row in means.index]]
    return str(there.idxmax())


def comparisons_of(table: pd.DataFrame, judge: str, group: str) -> pd.DataFrame:
    """Compare each row with the set, for one judge. Holm's family is the judge's."""
    rows = []
    for row in table["set"].unique():
        accuracy = 100 * table.loc[table["set"] == row, "accuracy"].mean()
        found = {"judge": judge, "row": row, "accuracy": accuracy}
        if row != STAGE1:
            found |= compare(table, row, STAGE1, "points", group)
        rows.append(found)
    found = pd.DataFrame(rows)
    found["survives"] = holm(found["p"].tolist())
    found["word"] = [
        "" if row["row"] == STAGE1 else word(row) for row in found.to_dict("records")
    ]
    return found.drop(columns="would_show").round(4)


def word(row: dict) -> str:
    """Return what a difference may be called: the same word for the same numbers.

    "gains" or "loses": at least 1 point, and it survives Holm's correction; "level":
    its interval lies within 2 points; else "not settled", and "first look" where there
    are too few seeds for a verdict.
    """
    if row["verdict"] not in ("better", "worse", "no difference"):
        return "first look"
    if row["survives"] and abs(row["points"]) >= WORTH:
        return "gains" if row["points"] > 0 else "loses"
    if row["low"] >= -LEVEL and row["high"] <= LEVEL:
        return "level"
    return "not settled"


def helps(row: dict) -> bool:
    """Return whether a row gains, or looks so where seeds are too few to say it."""
    return row["word"] == "gains" or (row["word"] == "first look" and row["low"] > 0)


def sentence(rows: pd.DataFrame, best: str) -> str:
    """Return what one judge says: what to do, how much it gains, and what else would.

    rows: of `comparisons_of`; best: where rows were chosen.
    """
    told = {row["row"]: row for row in rows.to_dict("records")}
    others = [r for r in ("VAE", "inheritance 700", SAMPLES) if r in told and r != best]
    beside = "; ".join(f"{row}: {points(told[row])}" for row in others)
    if best == STAGE1:
        say = "leave the set as it is, the best of its rows"
        if "first look" in {*rows["word"]}:
            say = "a first look finds no row better than the set"
        return f"{say}. Against it, {beside}."
    found = told[best]
    much = f"{points(found)} over the set"
    advice = CHOICES[best]
    verdict = found["word"]
    if verdict == "first look":
        if helps(found):
            return f"it looks as if one should {advice}: {much}. Else, {beside}."
        # so it said of most gains of few points that ten seeds find: never "no gain"
        return f"a first look can't tell; best so far is to {advice}: {much}."
    if helps(found):
        return f"{advice}: {much}. Else, {beside}."
    if verdict == "level":
        return f"leave the set as it is: the best, to {advice}, is level ({much})."
    if verdict == "loses":
        return f"leave the set as it is: what seemed best, to {advice}, loses ({much})."
    return f"not settled: to {advice} changes it by {points(found)}; ask more seeds."


def points(row: dict) -> str:
    """Return a difference with its interval: "+6.1 [3.2, 9.0]"; a star is Holm's."""
    star = "*" if row["survives"] else ""
    return f"{row['points']:+.1f} [{row['low']:.1f}, {row['high']:.1f}]{star}"


def notes_of(
    table: pd.DataFrame, same: bool, seeds: int, protocol: Protocol
) -> list[str]:
    """Return what limits an answer, a sentence each."""
    notes = []
    if seeds < CLAIM_SEEDS:
        notes.append(
            f"A first look, with {seeds} seeds: intervals are wide, and no verdict is "
            f"given below {CLAIM_SEEDS}. From {2 * CLAIM_SEEDS} on half of them choose."
        )
    elif same:
        notes.append(
            "Rows were chosen by the trainings that score, on other pictures: from "
            f"{2 * CLAIM_SEEDS} seeds on, each half of them has a part of its own."
        )
    late = second_half(table, protocol)
    learning = [f"{judge} by {gain:.1f}" for judge, gain in late if gain > LEARNING]
    if learning:
        notes.append(
            "Networks were still learning in the second half of their training (points "
            f"gained there: {', '.join(learning)}): longer training may say otherwise."
        )
    return notes


def second_half(table: pd.DataFrame, protocol: Protocol) -> list[tuple[str, float]]:
    """Return judge -> points gained in about the second half, the mean of all sets.

    From the last look that isn't later than 2/3 of the steps to the end, on the same
    test images.
    """
    rows = []
    for row in table.to_dict("records"):
        answers = unpacked(row["right"])[:LOOK_IMAGES]
        looks = from_text(row["curve"])
        steps = protocol.steps or (2 * looks[-1].step if looks else 0)
        before = [look for look in looks if look.step <= 2 * steps / 3]
        if before:
            gain = answers.float().mean().item() - before[-1].accuracy
            rows.append({"judge": row["judge"], "gain": 100 * gain})
    if not rows:
        return []
    means: Any = pd.DataFrame(rows).groupby("judge", sort=False)["gain"].mean()
    return [(str(judge), float(gain)) for judge, gain in means.items()]
