"""Count memory and operations per image of three priors, on shapes alone.

Run: python scripts/count_priors.py [--batches 1 8] [--dtype bfloat16]

DiT-XL/2 and SiT-XL/2 at 256 x 256, Stable Diffusion 1.5 at its own 512 x 512. Memory as
count_memory.py counts it, with the plain path and the published settings: of all steps
two are taken, which take what all take. Operations: multiplications and additions of
matrix products, convolutions and attention, as PyTorch's FlopCounterMode counts them,
of the 50 published steps with guidance, and of encoding and decoding. A prompt's
encoding is done once per class, and not counted. No number is a measurement.

Writes results/counted_priors.json.
"""

from __future__ import annotations

import argparse
import json

import pandas as pd
import torch
from benchmark_recovery import DTYPES, SCALE, build_dit_xl_2
from count_memory import FusedAttention, LiveBytes
from provenance import begin, write_result
from torch.utils.flop_counter import FlopCounterMode

from diver_lite import DistilledSet, RecoveryConfig
from diver_lite.priors.dit import DiTPrior
from diver_lite.priors.loading import use_sit_timesteps
from diver_lite.priors.text import TextPrior
from diver_lite.recovery import RecoveryJob

META = torch.device("meta")
STEPS = 50


def build_dit(layers: int | None = None) -> DiTPrior:
    return build_dit_xl_2(META, layers or 28)


def build_sit(layers: int | None = None) -> DiTPrior:
    """Return SiT-XL/2: DiT's network, velocities on straight paths."""
    import diffusers

    prior = build_dit(layers)
    use_sit_timesteps(prior.transformer)
    prior.scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    return prior


def build_sd15(layers: int | None = None) -> DiTPrior:
    """Return Stable Diffusion 1.5's UNet, with 10 prompts; layers: per block."""
    import diffusers

    vae = build_dit(1).vae
    with META:
        unet = diffusers.UNet2DConditionModel(
            sample_size=64, cross_attention_dim=768, layers_per_block=layers or 2
        )
    scheduler = diffusers.DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
        steps_offset=1, clip_sample=False, set_alpha_to_one=False,
    )  # fmt: skip
    names = tuple(f"name {i}" for i in range(10))
    prior = TextPrior(unet.eval(), vae, scheduler, names)
    prior.embeddings = torch.zeros(11, 77, 768)
    return prior


PRIORS = {
    "DiT-XL/2": build_dit,
    "SiT-XL/2": build_sit,
    "Stable Diffusion 1.5": build_sd15,
}


def refine(prior: DiTPrior, batch: int) -> None:
    """Refine one batch with two of the published steps."""
    size, names = prior.image_size, prior.class_names
    images = torch.zeros(batch, 3, size, size)
    distilled = DistilledSet(images, torch.arange(batch), names)
    config = RecoveryConfig.published(num_inference_steps=2)
    RecoveryJob(distilled, prior, config).refine(range(batch))


def memory(prior: DiTPrior, batch: int) -> float:
    """Return the largest sum of living tensors in GiB, weights included."""
    counter = LiveBytes()
    for network in (prior.transformer, prior.vae):
        for tensor in (*network.parameters(), *network.buffers()):
            counter.add(tensor)
    with torch.no_grad(), counter, FusedAttention():
        refine(prior, batch)
    return counter.peak / 2**30


def operations(prior: DiTPrior) -> dict[str, float]:
    """Return TFLOP of a guided step, of the VAE both ways, and of one image."""
    z = torch.empty(1, *prior.latent_shape, dtype=prior.dtype, device=META)
    size = prior.image_size
    image = torch.empty(1, 3, size, size, dtype=prior.dtype, device=META)
    jobs = {
        "step": lambda: prior.denoise(z, 510, torch.zeros(1, dtype=torch.int64), SCALE),
        "vae": lambda: (prior.vae.encode(image), prior.vae.decode(z)),
    }
    found = {}
    for name, job in jobs.items():
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            job()
        found[name] = counter.get_total_flops() / 1e12
    found["image"] = STEPS * found["step"] + found["vae"]
    return {f"tflop_per_{name}": round(value, 3) for name, value in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--dtype", default="bfloat16", choices=DTYPES)
    parser.add_argument("--out", default="results/counted_priors.json")
    args = parser.parse_args()
    started = begin()
    rows = []
    for name, build in PRIORS.items():
        prior = build().to(dtype=getattr(torch, args.dtype))
        networks = (prior.transformer, prior.vae)
        weights = sum(w.numel() for network in networks for w in network.parameters())
        row = {"prior": name, "image_size": prior.image_size}
        row["million_weights"] = round(weights / 1e6)
        row |= {f"gib_batch_{n}": round(memory(prior, n), 2) for n in args.batches}
        rows.append(row | operations(prior))
    table = pd.DataFrame(rows)
    print(table.to_string(index=False))
    write_result(
        args.out,
        {
            "data": "shapes alone",
            "what": "counted on the meta device, not measured",
            "counted": json.loads(table.to_json(orient="records")),
        },
        vars(args),
        started=started,
    )


if __name__ == "__main__":
    main()
