"""The main job in one command: recover shipped sets, show them, judge one, report.

Everything is built in a temporary folder and renamed at the end, so an interrupted
demo leaves nothing behind. Source of all: ours.
"""

from __future__ import annotations

import base64
import html
import time
from dataclasses import asdict, replace
from pathlib import Path
from string import Template

import pandas as pd
import torch

from diver_lite import (
    DistilledSet,
    RecoveryConfig,
    cross_architecture,
    load_dataset,
    load_distilled,
    load_prior,
    recover,
    save_image_folder,
)
from diver_lite.checks import require
from diver_lite.devices import one_thread
from diver_lite.files import atomic_path
from diver_lite.judge.compare import summarise
from diver_lite.make.baselines import vae_only
from diver_lite.sets.sheet import contact_sheet

COLOR_SET = "cifar10-dsa-ipc1"
# with a pull, to show all of the method; its strength was chosen by eye, and a pull of
# 0.1 costs strangers accuracy on photographs (results/recovery_cifar10_*)
COLOR_CONFIG = RecoveryConfig(guidance_scale=4.0, guidance_factor=0.05)
COLOR_CLASSES = ("automobile", "dog", "horse", "ship", "truck")
JUDGES = ("ConvNet", "ShuffleNetV2")  # the proxy's kind, and a stranger
TEST_IMAGES = 1_000
SIDE = 150  # pixels of a picture on the page, and more


def run_demo(
    out: str | Path,
    *,
    ipc: int = 1,
    seeds: int = 2,
    device: str | None = None,
    overwrite: bool = False,
) -> pd.DataFrame:
    """Recover shipped sets, judge the one of Fashion-MNIST, and write a report.

    Args:
        out: folder to write: color.png, garments.png, recovered.safetensors, images/,
            table.csv, report.html.
        ipc: which shipped DM set of garments: 1 or 10 images per class.
        seeds: trainings per judge and set, >= 2 so that a spread can be shown.
        device: default: CUDA if there is one.
        overwrite: replace `out` if it exists, instead of an `InputError`.

    Returns:
        The table of trainings, see `cross_architecture`.
    """
    require(ipc in (1, 10), "ipc", ipc, "1 or 10, as the shipped sets have")
    require(seeds >= 2, "seeds", seeds, "at least 2")
    started = time.perf_counter()
    # one thread: a process beside this one may hold a core, and two would wait for it
    with atomic_path(out, overwrite=overwrite) as folder, one_thread():
        folder.mkdir()
        print(f"1/3  five distilled photographs ({COLOR_SET})", flush=True)
        _draw(folder / "color.png", recovered_photographs(device))

        print(f"2/3  {10 * ipc} distilled garments (fashion-mnist-dm-ipc{ipc})")
        prior = load_prior("fashion-mnist", device=device)
        distilled = load_distilled(f"fashion-mnist-dm-ipc{ipc}")
        config = RecoveryConfig.recommended(prior)
        recovered = recover(distilled, prior, config, progress=False)
        every_other = [*range(0, 10 * ipc, 2 * ipc)]
        _draw(folder / "garments.png", [s[every_other] for s in (distilled, recovered)])
        recovered.save(folder / "recovered.safetensors")
        save_image_folder(recovered, folder / "images")

        sets = {
            "Stage I, as distilled": distilled,
            "through the VAE": vae_only(distilled, prior),
            "DIVER": recovered,
        }
        print("3/3  training networks on them, testing on real images")
        images, labels, names = load_dataset("fashion-mnist", "test")
        table = cross_architecture(
            sets,
            (images[:TEST_IMAGES], labels[:TEST_IMAGES], names),
            judges=JUDGES,
            seeds=range(seeds),
            protocol="quick",
            device=device,
        )
        table.to_csv(folder / "table.csv", index=False)
        summary = summarise(table, next(iter(sets))).filter([*JUDGES])  # no verdict
        facts = {
            "time": f"{time.perf_counter() - started:.0f} s",
            "device": prior.device.type,
            "networks": f"{seeds} trainings each, {TEST_IMAGES} test images, "
            "protocol quick",
            "photographs": _words(COLOR_CONFIG),
            "garments": _words(config),
        }
        _report(folder, summary, facts)
    print(f"""
Top-1 accuracy in % on real test images, mean ± std of {seeds} trainings.
The set is made for a ConvNet. ShuffleNetV2 is a stranger; guessing is 10.

{summary.to_string()}

In {time.perf_counter() - started:.0f} s. Open {out}/report.html""")
    return table


def recovered_photographs(device: str | None = None) -> list[DistilledSet]:
    """Return five shipped photographs of `COLOR_CLASSES`, distilled and recovered."""
    distilled = load_distilled(COLOR_SET)
    wanted = [distilled.class_names.index(name) for name in COLOR_CLASSES]
    first = [int((distilled.labels == c).nonzero()[0]) for c in wanted]
    prior = load_prior("cifar10", device=device)
    chosen = distilled[first]
    return [chosen, recover(chosen, prior, COLOR_CONFIG, progress=False)]


def _words(config: RecoveryConfig) -> str:
    return ", ".join(f"{name}={value}" for name, value in asdict(config).items())


def _draw(path: Path, sets: list[DistilledSet]) -> None:
    """Draw an image of each class, large: above before, below after."""
    images = torch.cat([each.images for each in sets])
    labels = torch.cat([each.labels for each in sets])
    both = replace(sets[0], images=images, labels=labels)
    contact_sheet(both, rows=2, side=SIDE).save(path)


def _report(folder: Path, summary: pd.DataFrame, facts: dict[str, str]) -> None:
    """Write a page that needs no other file and no network."""
    pictures = {
        name: base64.b64encode((folder / f"{name}.png").read_bytes()).decode()
        for name in ("color", "garments")
    }
    rows = (
        f"<tr><th>{name}</th><td>{html.escape(value)}</td></tr>"
        for name, value in facts.items()
    )
    page = Template(Path(__file__).with_suffix(".html").read_text("utf-8")).substitute(
        pictures,
        table=summary.to_html(border=0, classes="numbers"),
        facts="\n".join(rows),
    )
    (folder / "report.html").write_text(page, encoding="utf-8")
