"""Measure how far every path and precision is from the plain one in float32.

Run: python scripts/measure_rounding.py [--model dit-xl-2] [--device cuda]

One guided prediction of the noise (scale 4, two images) at three timesteps, and the
VAE's decoding of the two: root mean square of the error, relative to the root mean
square of what plain float32 gives. The plain path's own error in 16 bits is what the
fast path's has to be compared with. --model dit-xl-2 takes a DiT-XL/2 with random
weights instead of a prior: its depth and width are real, its errors those of these
weights. On CUDA, float32 is computed without TF32.

Writes results/rounding_NAME_DEVICE.json.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd
import torch
from benchmark_recovery import DTYPES, SCALE, build_prior
from provenance import begin, write_result
from torch import Tensor

from diver_lite import Prior
from diver_lite.priors.fast import FastPrior
from diver_lite.priors.loading import resolve_device
from diver_lite.priors.schedule import draw_noise

TIMESTEPS = (900, 500, 100)


def outputs(prior: Prior, denoiser: Prior) -> dict[str, Tensor]:
    """Return what is compared: the noise at each timestep, and decoded images."""
    z = draw_noise(prior.latent_shape, range(2), seed=0)
    labels = torch.arange(2)
    found = {
        f"noise at {t}": denoiser.denoise(z, t, labels, SCALE)[1].cpu()
        for t in TIMESTEPS
    }
    return found | {"decoded images": prior.decode(z).cpu()}


def relative_rms(found: Tensor, expected: Tensor) -> float:
    error = (found - expected).square().mean() / expected.square().mean()
    return float(f"{error.sqrt().item():.3g}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prior", default="fashion-mnist")
    parser.add_argument("--model", choices=["dit-xl-2"], help="instead of a prior")
    parser.add_argument("--layers", type=int, default=28, help="of the model")
    parser.add_argument("--dtypes", nargs="+", default=[*DTYPES], choices=DTYPES)
    parser.add_argument("--device")
    parser.add_argument("--out")
    args = parser.parse_args()
    started = begin()
    device = resolve_device(args.device)
    exact = build_prior(args, device, torch.float32)
    expected = outputs(exact, exact)
    rows = []
    for name in args.dtypes:
        prior = build_prior(args, device, getattr(torch, name))
        paths = {"plain": prior, "fast": FastPrior(prior)}
        for path, denoiser in paths.items():
            found = outputs(prior, denoiser)
            row = {k: relative_rms(found[k], expected[k]) for k in expected}
            rows.append({"dtype": name, "path": path, **row})
            print(pd.DataFrame(rows[-1:]).to_string(index=False), flush=True)
        del prior, paths, denoiser  # before the next one is made
    name = args.model or Path(args.prior).name
    write_result(
        args.out or f"results/rounding_{name}_{device.type}.json",
        {
            "data": "random weights" if args.model else f"prior {name}",
            "what": "relative root mean square of the error",
            "errors": rows,
        },
        vars(args) | {"device": str(device)},
        started=started,
    )


if __name__ == "__main__":
    main()
