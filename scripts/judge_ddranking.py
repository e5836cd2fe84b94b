"""Judge a set as DD-Ranking does, beside this package's judge.

Run: python scripts/judge_ddranking.py SET ... --data-root FOLDER [--seeds 3]
     [--epochs 1000] [--test-images 1000]

Needs PyPI's ddranking 0.2.0, with kornia and timm (pip install --no-deps, as it pins
old versions of NumPy and SciPy), and CIFAR-10. Each set is written by `convert --to
dd-ranking`; its judge reads nothing but those files. It is given what it would
download: torchvision's CIFAR-10 is replaced by the images of --data-root. Its whole
score can't be had offline: for CIFAR-10 it trains on all real images first. So its
training and its validation are called, which give the accuracy that the score is made
of: ConvNet-3, DSA, SGD 0.01, a tenth of it from epoch 500 on, *the best of the
accuracies after every tenth epoch, on the test images*. Beside it: protocol
"literature" of this package, the last epoch of which counts.

Writes results/ddranking_cifar10.json: its `table` has a row per set and seed.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
import torch
import torchvision
from provenance import begin, write_result
from torchvision.transforms.functional import to_pil_image

from diver_lite import DistilledSet, cross_architecture, load_dataset, load_distilled
from diver_lite.sets.real import describe_source
from diver_lite.sets.writers import convert

DSA = {  # the published strengths, under that judge's names
    "flip": 0.5,
    "scale": 1.2,
    "rotate": 15.0,
    "crop": 0.125,
    "cutout": 0.5,
    "brightness": 1.0,
    "saturation": 2.0,
    "contrast": 0.5,
    "siamese": False,
    "latestseed": -1,
}


class Images:
    """Real images where that judge asks torchvision for CIFAR-10."""

    splits: dict[bool, tuple] = {}  # noqa: RUF012  filled once, by main

    def __init__(self, root: str, train: bool, download: bool, transform) -> None:
        images, labels, _ = self.splits[train]
        # through 8 bits, as it reads them: exact, as the files have no more
        self.items = [
            (transform(to_pil_image(image)), int(label))
            for image, label in zip(images, labels, strict=True)
        ]

    def __getitem__(self, index: int):
        return self.items[index]

    def __len__(self) -> int:
        return len(self.items)


def theirs(folder: Path, seed: int, args: argparse.Namespace) -> float:
    """Return that judge's accuracy, in percent, of what lies in a folder."""
    from ddranking.metrics import LabelRobustScoreHard

    images = torch.load(folder / "images.pt", weights_only=True)
    labels = torch.load(folder / "labels.pt", weights_only=True)
    judge = LabelRobustScoreHard(
        dataset="CIFAR10", ipc=len(images) // 10, model_name="ConvNet-3",
        data_aug_func="dsa", aug_params=DSA, optimizer="sgd", lr_scheduler="step",
        step_size=args.epochs // 2, num_epochs=args.epochs, num_workers=0, num_eval=1,
        device="cpu", save_path=str(folder / "scores.csv"),
    )  # fmt: skip
    torch.manual_seed(seed)
    accuracy, _ = judge._compute_hard_label_metrics_helper(
        image_tensor=images, image_path=None, hard_labels=labels, lr=0.01, mode="syn"
    )
    return float(accuracy)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sets", nargs="+", metavar="SET")
    parser.add_argument("--data-root", required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=1000)
    parser.add_argument("--test-images", type=int, default=1000)
    args = parser.parse_args()
    started = begin()
    torchvision.datasets.CIFAR10 = Images  # before it is imported
    images, labels, names = load_dataset("cifar10", "test", root=args.data_root)
    test = (images[: args.test_images], labels[: args.test_images], names)
    Images.splits = {False: test, True: (images[:10], range(10), names)}
    sets: dict[str, DistilledSet] = {Path(s).stem: load_distilled(s) for s in args.sets}
    rows = []
    for name, distilled in sets.items():
        with TemporaryDirectory() as scratch:
            folder = Path(scratch, "set")
            convert(distilled, folder, "dd-ranking")
            for seed in range(args.seeds):
                ours = cross_architecture(
                    {name: distilled}, test, judges=["ConvNet"], seeds=[seed],
                    protocol="literature", progress=False,
                )  # fmt: skip
                row = {"set": name, "seed": seed}
                row["ours"] = 100 * ours["accuracy"].item()
                row["ddranking"] = theirs(folder, seed, args)
                rows.append(row)
                print(row, flush=True)
    table = pd.DataFrame(rows).round(2)
    data = describe_source("cifar10", root=args.data_root)
    about = {"data": data, "split": "test", "ddranking": "0.2.0", "table": table}
    write_result("results/ddranking_cifar10.json", about, vars(args), started=started)


if __name__ == "__main__":
    main()
