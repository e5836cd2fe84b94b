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
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from diver_lite.advice.rows import LIBRARIES, STAGE1, ClassMap, Row, Rows, real_row
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
from diver_lite.files import atomic_path, check_writable, exclusive, fingerprint, naming
from diver_lite.judge.compare import to_latex
from diver_lite.judge.networks import Judge
from diver_lite.judge.protocols import Protocol, get_protocol
from diver_lite.judge.record import protocol_fingerprint, set_fingerprint
from diver_lite.judge.table import cross_architecture
from diver_lite.priors.contract import Prior
from diver_lite.priors.identity import Unidentified, identity
from diver_lite.recovery import RecoveryConfig
from diver_lite.run.to_file import RESULTS
from diver_lite.sets.distilled import DistilledSet
from diver_lite.sets.real import labelled_images

JUDGES = ("ShuffleNetV2-BN", "ShuffleNetV2-GN", "ConvNet")
SEEDS, QUICK_SEEDS = 10, 3
QUICK_STEPS = 150
QUICK_ROWS = (STAGE1, "VAE", "inheritance 700", SAMPLES)


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
        quick: a first look: 3 seeds, networks of 150 steps, recoveries of 10; neither
            clipping, DIVER nor real pictures.
        class_map: as of `recover`.
        n_jobs, device, progress: as of `cross_architecture`; the prior stays where it
            is.

    Returns:
        The advice. The folder holds advice.md, figure.png (where matplotlib is
        installed), best.safetensors (the best row, a draw that scored),
        comparisons.csv and .tex, trainings.csv, made_of.json, and recoveries/.

    Raises:
        InputError: as `cross_architecture` and `recover`; or the folder holds advice on
            another set, prior, setting or other pictures, or is something else.
    """
    out = path(out, "out")
    instance(quick, "quick", bool)
    instance(distilled, "distilled", DistilledSet)
    seeds = integer(seeds or (QUICK_SEEDS if quick else SEEDS), "seeds", 2, 1_000)
    images, labels, names = named_images(test, "test")
    real = real and named_images(real, "real")
    protocol = get_protocol(protocol)
    if steps is not None or (quick and protocol.steps):
        protocol = replace(protocol, steps=steps or QUICK_STEPS, epochs=None)
    scale = RecoveryConfig.recommended(prior).guidance_scale
    plain = RecoveryConfig(guidance_scale=scale, guidance_factor=0.0)
    if quick:
        plain = replace(plain, num_inference_steps=10)
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
        ask({STAGE1: distilled}, seeds=[0], progress=False)
        write_json(out / "made_of.json", facts)
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
        whose = identity(prior)
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
        "libraries": {name: metadata.version(name) for name in LIBRARIES},
        "settings of the protocol": json.loads(json.dumps(asdict(protocol))),
    }


def check_same(file: Path, facts: dict) -> None:
    """Raise `InputError` if a folder holds advice that was made of something else."""
    folder = file.parent
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
        f"out {folder} was made with another {' and another '.join(different)}; choose "
        "another folder, or delete it to start anew",
    )


def write_json(file: Path, content: dict) -> None:
    with atomic_path(file, overwrite=True) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def write_advice(advice: Advice, facts: dict) -> None:
    """Write advice.md, its table as .csv and .tex, and, with matplotlib, figure.png."""
    folder = advice.folder
    with atomic_path(folder / "comparisons.csv", overwrite=True) as temporary:
        advice.comparisons.to_csv(temporary, index=False, lineterminator="\n")
    drawn = draw(advice)
    settings = facts["settings of the protocol"]
    steps = settings["steps"] or f"{settings['epochs']} epochs'"
    lines = ["# Should this set be recovered?", ""]
    lines += [f"- **{judge}**: {said}" for judge, said in advice.sentences.items()]
    lines += ["", *(f"*{note}*\n" for note in advice.notes)]
    lines += ["![Accuracy of each row](figure.png)", ""] if drawn else []
    table = [["judge", "row", "accuracy in %", "points over the set", "word"]]
    for row in advice.comparisons.to_dict("records"):
        more = "" if row["row"] == STAGE1 else points(row)
        cells = [row["judge"], row["row"], f"{row['accuracy']:.1f}", more, row["word"]]
        table.append(cells)
    with atomic_path(folder / "comparisons.tex", overwrite=True) as temporary:
        temporary.write_text(to_latex(table, "llrrl"), encoding="utf-8")
    head, *body = (f"| {' | '.join(cells)} |" for cells in table)
    lines += [head, "|---|---|--:|--:|---|", *body]
    lines += [
        "",
        "Paired differences in points with 95 % t intervals over the seeds; a star "
        "survives Holm's correction for the rows of its judge. *gains*, *loses*: with "
        f"a star and at least {WORTH:g} point; *level*: the interval lies within "
        f"{LEVEL:g} points; else *not settled*.",
        "",
        f"`best.safetensors` is the row *{advice.best}*, the best of all judges "
        f"together. Networks trained for {steps} steps on this set, with these judges: "
        "other sets, norms and trainings may say something else.",
    ]
    with atomic_path(folder / "advice.md", overwrite=True) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")


def draw(advice: Advice) -> bool:
    """Draw each row's difference to the set, a panel per judge; without matplotlib not.

    Returns whether figure.png was written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    judges = [*advice.sentences]
    figure = Figure(figsize=(3.2 * len(judges) + 1.6, 3.2), layout="constrained")
    panels: Any = figure.subplots(1, len(judges), sharey=True, squeeze=False)[0]
    for panel, judge in zip(panels, judges, strict=True):
        rows = advice.comparisons
        rows = rows[(rows["judge"] == judge) & (rows["row"] != STAGE1)][::-1]
        errors = [rows["points"] - rows["low"], rows["high"] - rows["points"]]
        panel.errorbar(rows["points"], rows["row"], xerr=errors, fmt="o", capsize=3)
        panel.axvline(0, color="gray", linewidth=1)
        panel.set_title(judge, fontsize=10)
        panel.set_xlabel("points over the set")
    with atomic_path(advice.folder / "figure.png", overwrite=True) as temporary:
        figure.savefig(temporary, format="png", dpi=150)
    return True
