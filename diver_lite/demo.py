"""The main job in one command: recover a shipped set, judge it, report.

Everything is built in a temporary folder and renamed at the end, so an interrupted
demo leaves nothing behind.
"""

from __future__ import annotations

import base64
import platform
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from diver_lite.book.figures import PAGES, image_grid, squeeze
from diver_lite.checks import require
from diver_lite.files import atomic_path, check_writable
from diver_lite.judge.compare import footnote, summarise
from diver_lite.judge.table import cross_architecture
from diver_lite.make.baselines import random_real, raw_prior, vae_only
from diver_lite.recovery import RecoveryConfig, recover
from diver_lite.sets.folder import save_image_folder
from diver_lite.sets.load import load_distilled
from diver_lite.sets.priors import load_prior
from diver_lite.sets.real import load_dataset

JUDGES = ("ConvNet", "ShuffleNetV2", "MobileNetV2")
TEST_IMAGES = 1_000


def run_demo(
    out: str | Path,
    *,
    ipc: int = 1,
    seeds: int = 2,
    device: str | None = None,
    overwrite: bool = False,
) -> pd.DataFrame:
    """Recover a shipped Fashion-MNIST set, judge it, and write a report.

    Args:
        out: folder to write: before_after.png, recovered.safetensors, images/,
            table.csv, report.html.
        ipc: which shipped DM set: 1 or 10 images per class.
        seeds: trainings per judge and set, >= 2 so that a spread can be shown.
        device: default: CUDA if there is one.
        overwrite: replace `out` if it exists, instead of an `InputError`.

    Returns:
        The table of trainings, see `cross_architecture`.
    """
    require(ipc in (1, 10), "ipc", ipc, "1 or 10, as the shipped sets have")
    require(seeds >= 2, "seeds", seeds, "at least 2")
    check_writable(out, overwrite=overwrite)
    started = time.perf_counter()
    print(f"1/4  loading the prior and the distilled set (DM, {ipc} per class)")
    prior = load_prior("fashion-mnist", device=device)
    distilled = load_distilled(f"fashion-mnist-dm-ipc{ipc}")
    sample = load_dataset("fashion-mnist", "sample")
    images, labels, names = load_dataset("fashion-mnist", "test")
    test = (images[:TEST_IMAGES], labels[:TEST_IMAGES], names)

    print(f"2/4  recovering {len(distilled)} images")
    config = RecoveryConfig()
    clock = time.perf_counter()
    recovered = recover(distilled, prior, config)
    recover_seconds = time.perf_counter() - clock
    raw = raw_prior(distilled, prior, config)

    print(f"3/4  training {5 * len(JUDGES) * seeds} judges")
    sets = {
        "random real": lambda seed: random_real(sample, ipc, seed),
        "Stage I": distilled,
        "VAE only": vae_only(distilled, prior),
        "raw prior": raw,
        "DIVER": recovered,
    }
    table = cross_architecture(
        sets, test, judges=JUDGES, seeds=seeds, protocol="quick", device=device
    )
    summary = summarise(table, "Stage I")
    notes = footnote(summary["verdict"])

    print("4/4  writing")
    with atomic_path(out, overwrite=overwrite) as folder:
        folder.mkdir()
        _draw(folder, sets)
        recovered.save(folder / "recovered.safetensors")
        save_image_folder(recovered, folder / "images")
        table.to_csv(folder / "table.csv", index=False)
        facts = {
            "distilled set": f"fashion-mnist-dm-ipc{ipc}",
            "recovered in": f"{recover_seconds:.1f} s ({len(recovered)} images)",
            "whole demo": f"{time.perf_counter() - started:.0f} s",
            "hardware": f"{prior.device.type}, {torch.get_num_threads()} threads, "
            f"{platform.machine()}",
            "judges": f"{seeds} seeds, {TEST_IMAGES} test images, protocol quick",
            "settings": ", ".join(f"{k}={v}" for k, v in asdict(config).items()),
        } | ({"verdicts": notes} if notes else {})
        _report(folder, summary, facts)
    print(f"\nTop-1 accuracy in % on real test images, mean ± std of {seeds} seeds.")
    print("ConvNet is the network the set was distilled on; the others never saw it.\n")
    print(summary.to_string() + (f"\n\n{notes}" if notes else ""))
    print(f"\nIn {time.perf_counter() - started:.0f} s. Open {out}/report.html")
    return table


def _draw(folder: Path, sets: dict[str, Any]) -> None:
    """Draw the first image of each class, before and after."""
    distilled = sets["Stage I"]
    first = [int((distilled.labels == c).nonzero()[0]) for c in range(10)]
    rows = {
        "distilled, squeezed": squeeze(distilled.images[first]),
        "distilled, cut off": distilled.images[first],
        "through the VAE": sets["VAE only"].images[first],
        "DIVER": sets["DIVER"].images[first],
    }
    figure = image_grid(rows, distilled.class_names)
    figure.savefig(folder / "before_after.png", dpi=130, bbox_inches="tight")


def _report(folder: Path, summary: pd.DataFrame, facts: dict[str, str]) -> None:
    """Write a page that needs no other file and no network."""
    picture = (folder / "before_after.png").read_bytes()
    page = PAGES.get_template("demo.html").render(
        picture=base64.b64encode(picture).decode(),
        table=summary.to_html(border=0, classes="numbers"),
        facts=facts,
    )
    (folder / "report.html").write_text(page, encoding="utf-8")
