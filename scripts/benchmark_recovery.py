"""Time recovery: DIVER, the same sampler alone, and stock diffusers, in one run.

Run: python scripts/benchmark_recovery.py [--model dit-xl-2] [--batches 1 32] [--dtypes
bfloat16] [--compile] [--profile] [--memory]

All ways take the same steps over the same grid with the same batch, and decode. "stock"
is diffusers' `DiTPipeline`, or, for a prior whose "no class" isn't 1000 (which the
pipeline hard-codes), a plain loop over diffusers' own modules; "sampler" is `recover`
with inheritance, guidance and window off; "DIVER" is `recover` as published. Each of
these takes the plain and the fast path, with --compile also the compiled one.

After a warm-up, which also compiles, all ways take turns, --repeats times; medians
count. On the CPU the clock is processor time, which other programs don't lengthen, so
use one thread (OMP_NUM_THREADS=1). --memory runs every way once and prints a table of
peak memory by batch and dtype (CUDA: allocated; CPU on Linux: resident, with
everything that was imported). --profile adds where the time of the fast path goes.
--model dit-xl-2 builds a DiT-XL/2 with the VAE of Stable Diffusion and random weights,
which cost what real ones do. Writes results/benchmark_recovery_<device>.json.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import diffusers
import pandas as pd
import torch
from provenance import begin, write_result
from torch.utils.flop_counter import FlopCounterMode
from tqdm.auto import tqdm

from diver_lite import DistilledSet, Prior, RecoveryConfig, load_prior
from diver_lite.priors.dit import DiTPrior
from diver_lite.priors.fast import FastPrior, why_not_fast
from diver_lite.priors.loading import resolve_device
from diver_lite.priors.schedule import draw_noise
from diver_lite.recovery import recover  # which takes the path that it is given

DTYPES = ("float32", "bfloat16", "float16")
SCALE = 4.0


def main() -> None:
    args = arguments()
    started = begin()
    device = resolve_device(args.device)
    torch.set_float32_matmul_precision("high")  # TF32 on CUDA
    torch._dynamo.config.recompile_limit = 64  # a compilation per batch and dtype
    rows, profiles = [], {}
    for name in args.dtypes:
        dtype = getattr(torch, name)
        prior = build_prior(args, device, dtype)
        assert why_not_fast(prior) is None
        ceiling = matrix_product(device, dtype)
        print(f"\n{name}: matrix products run at {ceiling / 1e12:.3g} TFLOP/s")
        for batch in args.batches:
            ways = build_ways(prior, batch, args)
            found = [
                {"dtype": name, "batch": batch, **row}
                for row in measure(ways, batch, prior, ceiling, args)
            ]
            print(pd.DataFrame(found).to_string(index=False), flush=True)
            rows += found
        if args.profile:
            way = "DIVER compiled" if args.compile else "DIVER fast"
            profiles |= {f"profile_{name}": profile(ways[way], device)}
        pipeline = prior.num_classes == 1000
        stock = "DiTPipeline" if pipeline else "loop over diffusers' modules"
        del prior, ways  # before the next one is made
    table = pd.DataFrame(rows)
    if args.memory:
        print("\nPeak memory in GiB\n")
        print(table.pivot_table("peak_gib", ["way", "batch"], "dtype").to_string())
    kind = "memory" if args.memory else "recovery"
    model = f"_{args.model}" if args.model else ""
    write_result(
        args.out or f"results/benchmark_{kind}{model}_{device.type}.json",
        {
            "clock": clock(device)[0],
            "stock": stock,
            "measured": rows,
            **profiles,
        },
        vars(args) | {"device": str(device)},
        started=started,
    )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prior", default="fashion-mnist")
    parser.add_argument("--model", choices=["dit-xl-2"], help="instead of a prior")
    parser.add_argument("--layers", type=int, default=28, help="of the model")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 10])
    parser.add_argument("--dtypes", nargs="+", default=["float32"], choices=DTYPES)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--rounds", type=int, default=1, help="batches per measurement (a longer set)"
    )
    parser.add_argument("--compile", action="store_true", help="CUDA only")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--device")
    parser.add_argument("--out")
    args = parser.parse_args()
    if args.memory:
        args.repeats = 1
    return args


# ---------------------------------------------------------------- what is timed


def build_prior(args: argparse.Namespace, device, dtype: torch.dtype) -> DiTPrior:
    """Load the prior, or make a DiT-XL/2 of the exact configuration on the device."""
    if not args.model:
        return load_prior(args.prior, device=device, dtype=dtype)
    return build_dit_xl_2(device, args.layers).to(device, dtype)


def build_dit_xl_2(device: torch.device, layers: int = 28) -> DiTPrior:
    """Make a DiT-XL/2 with the VAE of Stable Diffusion and random weights."""
    channels = (128, 256, 512, 512)
    torch.manual_seed(0)
    with device:
        transformer = diffusers.DiTTransformer2DModel(
            num_attention_heads=16,
            attention_head_dim=72,
            in_channels=4,
            out_channels=8,
            num_layers=layers,
            patch_size=2,
            sample_size=32,
            num_embeds_ada_norm=1000,
        )
        vae = diffusers.AutoencoderKL(
            block_out_channels=channels,
            down_block_types=["DownEncoderBlock2D"] * len(channels),
            up_block_types=["UpDecoderBlock2D"] * len(channels),
            layers_per_block=2,
            latent_channels=4,
            sample_size=256,
        )
    for module in (transformer, vae):
        module.eval().requires_grad_(False)
    scheduler = diffusers.DDIMScheduler(
        beta_start=1e-4, beta_end=0.02, clip_sample=False
    )
    names = tuple(f"class {i}" for i in range(1000))
    return DiTPrior(transformer, vae, scheduler, names)


def build_ways(prior: DiTPrior, batch: int, args: argparse.Namespace) -> dict:
    """Return what to time: name -> a function that makes `rounds` batches."""
    count = batch * args.rounds
    labels = torch.arange(count) % prior.num_classes
    size = prior.image_size
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(count, 3, size, size, generator=generator)
    distilled = DistilledSet(images, labels, prior.class_names)
    published = RecoveryConfig.published(
        num_inference_steps=args.steps, guidance_scale=SCALE
    )
    sampler = replace(published, inheritance=False, guidance_factor=0, window="none")

    def way(config: RecoveryConfig, denoiser: Prior) -> Callable:
        options = {"batch_size": batch, "progress": False}
        return lambda: recover(distilled, denoiser, config, **options)

    fast = FastPrior(prior)
    stock = stock_pipeline if prior.num_classes == 1000 else stock_loop
    ways = {
        "stock": lambda: [
            stock(prior, part, args.steps) for part in labels.split(batch)
        ],
        "sampler plain": way(sampler, prior),
        "sampler fast": way(sampler, fast),
        "DIVER plain": way(published, prior),
        "DIVER fast": way(published, fast),
    }
    if args.compile:
        compiled = FastPrior(prior, compile=True)
        ways["sampler compiled"] = way(sampler, compiled)
        ways["DIVER compiled"] = way(published, compiled)
    return ways


def stock_pipeline(prior: DiTPrior, labels: torch.Tensor, steps: int):
    """Sample with diffusers' own pipeline."""
    pipeline = diffusers.DiTPipeline(prior.transformer, prior.vae, prior.scheduler)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(
        labels.tolist(),
        guidance_scale=SCALE,
        num_inference_steps=steps,
        output_type="np",
    ).images


@torch.no_grad()
def stock_loop(prior: DiTPrior, labels: torch.Tensor, steps: int):
    """Sample as `DiTPipeline` does, with the prior's own "no class"."""
    scheduler = diffusers.DDIMScheduler.from_config(prior.scheduler.config)
    scheduler.set_timesteps(steps)
    z = draw_noise(prior.latent_shape, range(len(labels)), seed=0)
    z, labels = z.to(prior.device, prior.dtype), labels.to(prior.device)
    both = torch.cat([labels, torch.full_like(labels, prior.num_classes)])
    for t in scheduler.timesteps:
        output = prior.transformer(
            torch.cat([z, z]),
            timestep=t.to(z.device).expand(len(both)),
            class_labels=both,
        ).sample[:, : z.shape[1]]
        cond, uncond = output.chunk(2)
        z = scheduler.step(uncond + SCALE * (cond - uncond), t, z).prev_sample
    z = (z / prior.vae.config.scaling_factor).to(prior.vae.dtype)
    return (prior.vae.decode(z).sample / 2 + 0.5).clamp(0, 1).cpu().float().numpy()


# ---------------------------------------------------------------- measuring


def clock(device: torch.device) -> tuple[str, Callable[[], float]]:
    """Return the clock that counts, by name and as a function."""
    if device.type != "cuda":
        return "processor time", time.process_time

    def wall() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()

    return "wall time", wall


def measure(
    ways: dict, batch: int, prior: DiTPrior, ceiling: float, args
) -> list[dict]:
    """Time all ways, taking turns; return a row for each."""
    device, now = prior.device, clock(prior.device)[1]
    seconds, peaks = {name: [] for name in ways}, {}
    rounds = range(0 if args.memory else -1, args.repeats)  # -1 is the warm-up
    turns = [(repeat, name) for repeat in rounds for name in ways]
    for repeat, name in tqdm(turns, desc=f"batch {batch}", leave=False):
        reset_peak(device)
        before = now()
        ways[name]()
        if repeat >= 0:
            seconds[name].append((now() - before) / batch / args.rounds)
        peaks[name] = round(peak_gib(device), 3)
    if args.memory:
        return [{"way": name, "peak_gib": peak} for name, peak in peaks.items()]
    per_image = {name: statistics.median(found) for name, found in seconds.items()}
    least = flops(prior) * args.steps / ceiling
    rows = []
    for name, taken in per_image.items():
        kind, _, path = name.partition(" ")
        alone = per_image[f"sampler {path}"] if kind == "DIVER" else None
        rows.append(
            {
                "way": name,
                "s_per_image": float(f"{taken:.4g}"),
                "over_stock": round(taken / per_image["stock"], 3),
                "over_sampler": alone and round(taken / alone, 3),
                "of_ceiling": round(least / taken, 3),
                "peak_gib": peaks[name],
            }
        )
    return rows


def flops(prior: DiTPrior) -> int:
    """Count the floating-point operations of one guided prediction for one image."""
    z = torch.zeros(1, *prior.latent_shape, device=prior.device)
    with FlopCounterMode(display=False) as counter:
        prior.predict_noise(z, 0, torch.zeros(1, dtype=torch.int64), SCALE)
    return counter.get_total_flops()


def matrix_product(device: torch.device, dtype: torch.dtype) -> float:
    """Time a large square matrix product; return operations per second."""
    size = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in "ab")
    now, taken = clock(device)[1], []
    for _ in range(12):
        before = now()
        a @ b
        taken.append(now() - before)
    return 2 * size**3 / statistics.median(taken[2:])


def reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif sys.platform == "linux":
        Path("/proc/self/clear_refs").write_text("5")


def peak_gib(device: torch.device) -> float:
    """Return the peak since `reset_peak`, in GiB; NaN where it can't be known."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    if sys.platform != "linux":
        return float("nan")
    lines = Path("/proc/self/status").read_text().splitlines()
    (found,) = (line.split()[1] for line in lines if line.startswith("VmHWM"))
    return int(found) / 2**20


def profile(run: Callable, device: torch.device) -> list[dict]:
    """Print where the time of one run goes; return the largest shares."""
    kinds = [torch.profiler.ProfilerActivity.CPU]
    where = "self_cpu_time_total"
    if device.type == "cuda":
        kinds.append(torch.profiler.ProfilerActivity.CUDA)
        where = "self_device_time_total"
    with torch.profiler.profile(activities=kinds) as found:
        run()
    averages = found.key_averages()
    print(averages.table(sort_by=where, row_limit=20, max_name_column_width=60))
    total = sum(getattr(e, where) for e in averages) or 1
    largest = sorted(averages, key=lambda e: -getattr(e, where))[:12]
    return [
        {"what": e.key[:80], "share": round(getattr(e, where) / total, 4)}
        for e in largest
    ]


if __name__ == "__main__":
    main()
