"""Should this set be recovered? Ask networks that learn from it.

The answer depends on the set, on who learns from it, and on how long, so it is
measured: what each part of recovery makes of the set is judged beside the set itself,
samples of the prior and real pictures. Which row is best is chosen on one half of the
test pictures and, where there are seeds enough, by trainings of its own; what is said
of it comes from the others. Source of all: ours.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm

from diver_lite.advice.rows import (
    STAGE1,
    ClassMap,
    Row,
    Rows,
    inheritance_of,
    real_row,
    versions,
)
from diver_lite.advice.words import (
    CHOICES,
    LEVEL,
    REAL,
    SAMPLES,
    WORTH,
    Advice,
    advice_of,
    points,
)
from diver_lite.checks import InputError, ensure, instance, integer, path
from diver_lite.devices import plain_torch
from diver_lite.files import atomic_path, check_writable, exclusive, fingerprint, naming
from diver_lite.judge.compare import markdown, to_latex
from diver_lite.judge.networks import Judge
from diver_lite.judge.protocols import Protocol, get_protocol
from diver_lite.judge.record import protocol_fingerprint, set_fingerprint
from diver_lite.judge.table import cross_architecture
from diver_lite.priors.contract import Prior, for_classes
from diver_lite.priors.identity import Unidentified, identity
from diver_lite.run.to_file import RESULTS
from diver_lite.sets.distilled import DistilledSet
from diver_lite.sets.real import labelled_images

JUDGES = ("ShuffleNetV2-BN", "ShuffleNetV2-GN", "ConvNet")
SEEDS, QUICK_SEEDS = 10, 3
QUICK_STEPS = 150
QUICK_ROWS = (STAGE1, "VAE", "inheritance 700", SAMPLES)


@plain_torch(grad=True, single=False)
def advise(
    distilled: DistilledSet,
    prior: Prior,
    test: tuple,
    out: str | Path,
    *,
    real: tuple | None = None,
    judges: Sequence[Judge] = JUDGES,
    seeds: int | None = None,
    protocol: str | Protocol = "corrected",
    steps: int | None = None,
    quick: bool = False,
    class_map: ClassMap = None,
    n_jobs: int | None = None,
    device: str | torch.device | None = None,
    progress: bool = True,
) -> Advice:
    """Find out what to do with a distilled set, and write that to a folder.

    Args:
        distilled: the set.
        prior: by which it would be recovered.
        test: real images (N, 3, H, W) in [0, 1], labels (N,) and class names. One half
            chooses, the other half scores.
        out: the folder. The same call goes on in it after an interruption; more seeds
            and other judges may be asked for later.
        real: real training images, labels and names, for the row of random real ones.
        judges: as of `cross_architecture`.
        seeds: of trainings, each with a draw of its own of what is random. From 10 on
            the first half chooses and the others score; fewer do both. Default: 10.
        protocol, steps: as of `cross_architecture`.
        quick: a first look: 3 seeds, networks of 150 steps, recoveries of at most 10;
            neither clipping, DIVER nor real pictures.
        class_map: as of `recover`.
        n_jobs, device, progress: as of `cross_architecture`; the prior stays where it
            is.

    Returns:
        The advice. The folder holds advice.md, figure.svg, best.safetensors (the best
        row, a draw that scored), comparisons.csv and .tex, trainings.csv, made_of.json,
        and recoveries/.

    Raises:
        InputError: as `cross_architecture` and `recover`; or the folder holds advice on
            another set, prior, setting or other pictures, or is something else.
    """
    out = path(out, "out")
    instance(quick, "quick", bool)
    instance(distilled, "distilled", DistilledSet)
    if seeds is None:
        seeds = QUICK_SEEDS if quick else SEEDS
    seeds = integer(seeds, "seeds", 2, 1_000)
    images, labels, names = named_images(test, "test")
    integer(len(images), "test: number of images", 2)  # for two halves
    real = real and named_images(real, "real")
    protocol = get_protocol(protocol)
    if steps is None and quick and protocol.steps:
        steps = QUICK_STEPS
    if steps is not None:
        protocol = replace(protocol, steps=steps, epochs=None)
    plain = inheritance_of(prior)
    if quick:
        plain = replace(plain, num_inference_steps=min(10, plain.num_inference_steps))
    with exclusive(out):
        facts = made_of(distilled, prior, class_map, (images, labels), real, protocol)
        facts |= {"recovery": asdict(plain), "quick": quick}
        check_same(out / "made_of.json", facts)
        rows = Rows(prior, out / "recoveries", plain, class_map)
        sets = rows_of(rows, distilled, real, quick)
        ask = partial(
            cross_architecture,
            test=(images, labels, names),
            judges=judges,
            protocol=protocol,
            out=out / "trainings.csv",
            n_jobs=n_jobs,
            device=device,
        )
        # what is wrong with a judge or the pictures is said before anything long
        given = {row: sets[row] for row in (STAGE1, REAL) if row in sets}
        ask(given, seeds=[0], progress=False)
        write(out / "made_of.json", json.dumps(facts, indent=1) + "\n")
        draws = [(row, seed) for row in sets for seed in range(seeds)]
        for row, seed in tqdm(draws, desc="recoveries", disable=not progress):
            _of(sets[row], seed)
        table = ask(sets, seeds=range(seeds), progress=progress)
        advice = advice_of(table, out, protocol)
        best = _of(sets[advice.best], seeds - 1)
        best.save(out / "best.safetensors", overwrite=True)
        write_advice(advice, facts)
    return advice


def named_images(given: tuple, name: str) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """Return images, labels and class names, or raise `InputError`."""
    images, labels, *more = labelled_images(given, name, 2)
    ensure(
        bool(more), f"{name}: found no class names; expected (images, labels, names)"
    )
    return images, labels, more[0]


def rows_of(
    rows: Rows, distilled: DistilledSet, real: tuple | None, quick: bool
) -> dict[str, Row]:
    """Return the rows that decide, by name."""
    made = rows.recovery(distilled)
    found = {row: made[row] for row in (STAGE1, *CHOICES) if row in made}
    found[SAMPLES] = rows.recovered(distilled, rows.samples)
    if real is not None:
        count = len(distilled) // len(distilled.class_names)
        found[REAL] = real_row(real, max(1, count))
    return {row: found[row] for row in found if not quick or row in QUICK_ROWS}


def _of(row: Row, seed: int) -> DistilledSet:
    return row(seed) if callable(row) else row


def made_of(
    distilled: DistilledSet,
    prior: Prior,
    class_map: ClassMap,
    test: tuple[Tensor, Tensor],
    real: tuple | None,
    protocol: Protocol,
) -> dict[str, Any]:
    """Return what advice depends on, beside its seeds and judges."""
    try:
        whose = identity(for_classes(prior, distilled.class_names))
    except Unidentified as unknown:
        raise InputError(
            f"prior: nobody could tell it from a changed one ({unknown}); give it an "
            "attribute `fingerprint`, a text that changes when it does"
        ) from None
    return {
        "set": set_fingerprint(distilled),
        "prior": whose,
        "class map": str(class_map),
        "test images": fingerprint(test),
        "real images": None if real is None else fingerprint(real[:2]),
        "protocol": protocol_fingerprint(protocol),
        "code": RESULTS,
        "libraries": versions(),
        "settings of the protocol": json.loads(json.dumps(asdict(protocol))),
    }


def check_same(file: Path, facts: dict) -> None:
    """Raise `InputError` if a folder holds advice that was made of something else."""
    folder = file.parent
    ensure(not folder.is_file(), f"out {folder} is a file; expected a folder")
    if not file.exists():
        check_writable(file)
        begun = {"trainings.csv", ".trainings.csv.lock"}  # and interrupted at once
        there = {item.name for item in folder.iterdir()} if folder.exists() else set()
        ensure(there <= begun, f"out {folder} is no folder of advice; choose another")
        return
    with naming(file, "what advise wrote"):
        there = json.loads(file.read_text("utf-8"))
        different = [name for name in facts if there.get(name) != facts[name]]
    ensure(
        not different,
        f"out {folder} was made with another {', '.join(different)}; choose another "
        "folder, or delete it to start anew",
    )


def write(file: Path, text: str) -> None:
    with atomic_path(file, overwrite=True) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_advice(advice: Advice, facts: dict) -> None:
    """Write advice.md, figure.svg, and the comparisons as .csv and .tex."""
    folder = advice.folder
    table = advice.comparisons.to_csv(index=False, lineterminator="\n")
    write(folder / "comparisons.csv", table)
    write(folder / "figure.svg", figure(advice.comparisons))
    settings = facts["settings of the protocol"]
    steps = settings["steps"] or f"{settings['epochs']} epochs'"
    lines = ["# Should this set be recovered?", ""]
    lines += [f"- **{judge}**: {said}" for judge, said in advice.sentences.items()]
    lines += ["", *(f"*{note}*\n" for note in advice.notes)]
    lines += ["![Points over the set, for each row](figure.svg)", ""]
    rows = [["judge", "row", "accuracy in %", "points over the set", "word"]]
    for row in advice.comparisons.to_dict("records"):
        more = "" if row["row"] == STAGE1 else points(row)
        accuracy = f"{row['accuracy']:.1f}"
        rows.append([row["judge"], row["row"], accuracy, more, row["word"]])
    write(folder / "comparisons.tex", to_latex(rows, "llrrl"))
    rows.insert(1, ["---", "---", "--:", "--:", "---"])
    lines.append(markdown(rows))
    lines += [
        "Paired differences in points with 95 % t intervals over the seeds; a star "
        "survives Holm's correction for the rows of its judge. *gains*, *loses*: with "
        f"a star and at least {WORTH:g} point; *level*: the interval lies within "
        f"{LEVEL:g} points; else *not settled*.",
        "",
        f"`best.safetensors` is the row *{advice.best}*: of the set and the rows that "
        "help one of the judges, the one that they together scored highest. Networks "
        f"trained for {steps} steps on this set, with these judges: other sets, norms "
        "and trainings may say something else.",
    ]
    write(folder / "advice.md", "\n".join(lines) + "\n")


def figure(comparisons: pd.DataFrame) -> str:
    """Return an SVG: each row's points over the set with their interval, per judge."""
    told: Any = comparisons[comparisons["row"] != STAGE1]
    low = float(min(0.0, told["low"].min()))
    high = float(max(0.0, told["high"].max()))
    left, width, line = 300, 500, 22  # pixels: of names, of the axis, of a row

    def x(value: float) -> float:
        return round(left + width * (value - low) / max(high - low, 1e-9), 1)

    parts = []
    y = 0.0
    for judge, rows in told.groupby("judge", sort=False):
        y += 1.5 * line
        parts.append(f'<text x="10" y="{y}" font-weight="bold">{escape(judge)}</text>')
        for row in rows.to_dict("records"):
            y += line
            ends = f'x1="{x(row["low"])}" x2="{x(row["high"])}" y1="{y}" y2="{y}"'
            words = escape(f"{row['row']}: {points(row)}")
            parts += [
                f'<text x="10" y="{y + 4}">{words}</text>',
                f'<line {ends} stroke="#1f6fb4" stroke-width="2"/>',
                f'<circle cx="{x(row["points"])}" cy="{y}" r="4" fill="#1f6fb4"/>',
            ]
    zero = f'x1="{x(0)}" x2="{x(0)}" y1="10" y2="{y + 10}"'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + width + 20}" '
            f'height="{y + 40}" font-family="sans-serif" font-size="12">',
            '<rect width="100%" height="100%" fill="white"/>',
            f'<line {zero} stroke="gray"/>',
            *parts,
            f'<text x="{left}" y="{y + 30}">points over the set, 95 % intervals</text>',
            "</svg>\n",
        ]
    )
