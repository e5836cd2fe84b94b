"""Recover a set larger than the memory: does the peak grow with it?

    python scripts/measure_memory.py --images 20000 --fewer 1000

Random images of 256 pixels, in a folder of numbered files, go through a tiny random
prior into another such folder, in a process of its own whose peak resident memory is
asked of the system. The larger run is killed half-way and gone on with. 20,000 images
need 32 GB of disk. Writes results/memory_recovery_cpu.json.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import diffusers
import torch
from provenance import begin, write_result
from safetensors.torch import save_file

from diver_lite import DistilledSet
from diver_lite.run.to_file import parts_folder

ROWS, CLASSES, SIDE = 50, 10, 256
RECOVER = """
import json, resource, sys, time, torch
from diver_lite import DistilledSet, RecoveryConfig, load_prior
from diver_lite.run.to_file import recover_to
torch.set_num_threads(1)
source, prior, out = sys.argv[1:]
start = time.monotonic()
config = RecoveryConfig(num_inference_steps=2)
prior = load_prior(prior, device="cpu")
result = recover_to(out, DistilledSet.load(source), prior, config,
                    class_map=range(10), batch_size=50, progress=False)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({"peak_mib": round(peak), "seconds": time.monotonic() - start}))
"""
OPEN = """
import json, resource, sys
from diver_lite import DistilledSet
import torch
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
opened = DistilledSet.load(sys.argv[1])
pixels = opened.images[len(opened) - 3 :]
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({"images": len(opened), "mib": round((peak - before) / 1024)}))
"""


def make_prior(folder: Path) -> Path:
    """Write a random prior for 256 pixels: one block, four channels."""
    torch.manual_seed(0)
    vae = diffusers.AutoencoderKL(
        block_out_channels=(4,) * 4,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
        norm_num_groups=4,
        mid_block_add_attention=False,
        sample_size=SIDE,
    )
    dit = diffusers.DiTTransformer2DModel(
        num_attention_heads=1,
        attention_head_dim=16,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        sample_size=SIDE // 8,
        patch_size=8,
        num_embeds_ada_norm=CLASSES,
        norm_num_groups=4,
    )
    scheduler = diffusers.DDIMScheduler(clip_sample=False)
    diffusers.DiTPipeline(dit, vae, scheduler).save_pretrained(folder)
    return folder


def make_set(folder: Path, count: int) -> Path:
    """Write random images into numbered files; one file's are held at a time."""
    folder.mkdir()
    generator = torch.Generator().manual_seed(0)
    for number in range(count // ROWS):
        images = torch.rand(ROWS, 3, SIDE, SIDE, generator=generator)
        save_file({"images": images}, folder / f"{number:06d}.safetensors")
    labels = torch.arange(count) * CLASSES // count
    names = [f"class {c}" for c in range(CLASSES)]
    one = torch.zeros(1, 1, 1, 1).expand(count, 3, 1, 1)
    DistilledSet(one, labels, names).save_index(folder, ROWS)
    return folder


def run(code: str, *arguments: Path) -> dict:
    """Run code in a process of its own, and return what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def kill_half_way(count: int, *arguments: Path) -> int:
    """Start a recovery, kill it when half is done; return how many files it had."""
    process = subprocess.Popen([sys.executable, "-c", RECOVER, *arguments])
    shards = parts_folder(arguments[-1]) / "set"
    while process.poll() is None:
        made = len([*shards.glob("[0-9]*.safetensors")]) if shards.is_dir() else 0
        if made >= count // ROWS // 2:
            process.kill()
            process.wait()
            return made
        time.sleep(0.2)
    raise SystemExit("the recovery ended before it could be killed")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--fewer", type=int, default=1_000)
    parser.add_argument("--work", type=Path, help="where there is room on the disk")
    args = parser.parse_args()
    started = begin()
    with tempfile.TemporaryDirectory(dir=args.work) as name:
        folder = Path(name)
        prior, rows = make_prior(folder / "prior"), {}
        for count in (args.fewer, args.images):
            source = make_set(folder / f"set{count}", count)
            out = folder / f"out{count}"
            row = {}
            if count == args.images:
                row["files_at_the_kill"] = kill_half_way(count, source, prior, out)
            row |= run(RECOVER, source, prior, out)
            row["opened"] = run(OPEN, out)
            rows[count] = row
            print(count, row, flush=True)
    growth = rows[args.images]["peak_mib"] - rows[args.fewer]["peak_mib"]
    result = {"images": rows, "growth_mib": growth, "side": SIDE}
    write_result(
        "results/memory_recovery_cpu.json", result, vars(args), started=started
    )


if __name__ == "__main__":
    main()
