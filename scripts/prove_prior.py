"""Show what a training of a prior came to, however short: its losses and first samples.

Run: python scripts/prove_prior.py FOLDER [--dataset cifar10] [--data-root FOLDER]

FOLDER is the working folder of `diver-lite train-prior`. A picture is drawn of held-out
real images (one per class), the same through the VAE, samples of the prior, a set that
a short run of distribution matching distilled, and its recovery. None of it is judged:
that is measure_prior.py's, once a training is long enough to be worth it.

Writes results/proof_prior_DATASET.json (losses, recipe, error of the VAE) and the
picture book/_static/proof_prior_DATASET.webp.
"""

from __future__ import annotations

import argparse
import io
import time
from pathlib import Path

import torch
from PIL import Image

from diver_lite.baselines import random_real, raw_prior, vae_only
from diver_lite.data import load_dataset
from diver_lite.distill import distill
from diver_lite.figures import image_grid, set_theme
from diver_lite.prior import load_prior
from diver_lite.recovery import RecoveryConfig, recover
from diver_lite.results import write_result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="of `diver-lite train-prior`")
    parser.add_argument("--dataset", default="cifar10")
    parser.add_argument("--dm-steps", type=int, default=100)
    parser.add_argument("--guidance-scale", type=float, default=2.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--note", default="a short CPU proof, not a prior that ships")
    parser.add_argument("--data-root")
    args = parser.parse_args()
    started = time.perf_counter()
    prior = load_prior(args.folder / "prior")
    fit, validation = (
        load_dataset(args.dataset, split, root=args.data_root)
        for split in ("fit", "validation")
    )
    config = RecoveryConfig(guidance_scale=args.guidance_scale)
    real = random_real(validation, 1, args.seed)
    count = min(20, int(validation[1].bincount().min()))
    many = random_real(validation, count, args.seed)
    error = (vae_only(many, prior).images - many.images).abs().mean().item()
    distilled = distill(
        fit, "dm", ipc=1, init="noise", steps=args.dm_steps, real_batch=64
    )
    rows = {
        "real, held out": real,
        "through the VAE": vae_only(real, prior),
        "prior samples": raw_prior(real, prior, config, seed=args.seed),
        "more of them": raw_prior(real, prior, config, seed=args.seed + 1),
        f"DM, {args.dm_steps} steps": distilled,
        "recovered": recover(distilled, prior, config, seed=args.seed),
    }
    picture = Path(f"book/_static/proof_prior_{args.dataset}.webp")
    size = draw({name: s.images for name, s in rows.items()}, real.class_names, picture)
    print(f"wrote {picture}: {size / 1e3:.0f} kB")
    parameters = {
        part: sum(p.numel() for p in getattr(prior, part).parameters())
        for part in ("vae", "transformer")
    }
    write_result(
        f"results/proof_prior_{args.dataset}.json",
        {
            "data": prior.info["trained_on"],
            "note": args.note,
            "parameters": parameters,
            "vae_mean_absolute_error_0_to_1": round(error, 4),
            "config": str(config),
            "recipe": prior.info["recipe"],
            "losses": prior.info["losses"],
        },
        vars(args),
        started=started,
    )


def draw(rows: dict[str, torch.Tensor], titles, path: Path) -> int:
    """Store an image grid as WebP and return its size in bytes."""
    set_theme()
    buffer = io.BytesIO()
    figure = image_grid(rows, titles, scale=0.8)
    figure.savefig(buffer, format="png", dpi=90, bbox_inches="tight")
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.open(buffer).convert("RGB").save(path, quality=70, method=6)
    return path.stat().st_size


if __name__ == "__main__":
    main()
