"""Distil the sets that ship, or the same at the length that the papers used.

Run: python scripts/distill_sets.py [NAME ...] [--published] [--install]
     [--dataset cifar10 --data-root FOLDER]

Without --published the settings are those of the shipped sets, short enough for an
hour on two CPU cores. Finished sets lie in --work and are not made again, and an
interrupted one goes on from its checkpoint; --install copies them into the package as
float16 (then run scripts/checksums.sh).
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch

from diver_lite import DistilledSet, distill, load_dataset
from diver_lite.sets.real import describe_source

REAL = {"init": "real", "real_batch": 64}
# four experts of four epochs, each matched over one epoch (two of three at IPC 10)
SHORT_MTT = {
    "init": "real",
    "num_experts": 4,
    "expert_epochs": 4,
    "max_start_epoch": 3,
    "target_epochs": 1,
    "syn_lr": 0.02,
    "lr_lr": 1e-6,
}
# name: method, images per class, changes to the published recipe
SETS = {
    "dm-real-ipc1": ("dm", 1, REAL | {"steps": 800}),
    "dm-real-ipc10": ("dm", 10, REAL | {"steps": 500}),
    "dsa-ipc1": ("dsa", 1, REAL | {"steps": 450, "lr": 0.2}),
    "dsa-ipc10": (
        "dsa", 10, REAL | {"steps": 48, "outer_loops": 10, "inner_loops": 10, "lr": 0.5}
    ),
    "mtt-ipc1": ("mtt", 1, SHORT_MTT | {"steps": 250, "syn_steps": 20, "lr": 100.0}),
    "mtt-ipc10": (
        "mtt", 10, SHORT_MTT | {"num_experts": 2, "expert_epochs": 3,
                                "max_start_epoch": 2, "steps": 160, "syn_steps": 12,
                                "syn_batch": 20, "lr": 300.0}
    ),
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=[*SETS], metavar="NAME")
    parser.add_argument("--dataset", default="fashion-mnist")
    parser.add_argument("--published", action="store_true")
    parser.add_argument("--install", action="store_true")
    parser.add_argument("--work", type=Path, help="default: runs/stage1, or "
                        "runs/stage1-published")  # fmt: skip
    parser.add_argument("--data-root")
    args = parser.parse_args()
    if unknown := set(args.names) - set(SETS):
        parser.error(f"unknown set {sorted(unknown)}; expected some of {[*SETS]}")
    suffix = "-published" if args.published else ""
    work = args.work or Path(f"runs/stage1{suffix}")
    data = None
    for name in args.names:
        method, ipc, changes = SETS[name]
        if args.published:
            changes = {"init": changes["init"]}
        path = work / f"{args.dataset}-{name}.safetensors"
        if not path.exists():
            data = data or load_dataset(args.dataset, "fit", root=args.data_root)
            source = describe_source(args.dataset, root=args.data_root)
            make(path, args.dataset, data, source, method, ipc, changes)
        if args.install:
            asset = Path("diver_lite/assets/distilled") / path.name
            DistilledSet.load(path).save(asset, overwrite=True, dtype=torch.float16)
            print(f"wrote {asset}")


def make(
    path: Path,
    dataset: str,
    data: tuple,
    source: str,
    method: str,
    ipc: int,
    changes: dict,
) -> None:
    """Distil a set into a file; an interrupted one goes on from its checkpoint.

    data: (images, labels, class names) of the `fit` split; source: in words.
    """
    started, state = time.perf_counter(), path.with_suffix(".checkpoint")
    epochs = changes.get("expert_epochs", "")  # experts of one kind are shared
    result = distill(
        data,
        method,
        ipc=ipc,
        experts=path.parent / f"{dataset}-experts{epochs}",
        compile=True,
        dtype=torch.bfloat16,
        checkpoint=state,
        **changes,
    )
    seconds = round(time.perf_counter() - started)
    result.provenance |= {
        "data": dataset,
        "source": source,
        "split": "fit",
        "dtype": "bfloat16",
        "seconds": seconds,
    }
    result.save(path)
    state.unlink(missing_ok=True)
    print(f"wrote {path} after {seconds} s")


if __name__ == "__main__":
    main()
