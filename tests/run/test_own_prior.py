"""A run with the user's own prior, from the command line: killed, and gone on with."""

import os
import subprocess
import sys
from pathlib import Path

import diver_lite

SOURCE = """
import os

import torch

ABAR = torch.cat([(1 - torch.linspace(1e-4, 0.02, 1000)).cumprod(0), torch.ones(1)])
NAMES = {names!r}
decoded = []


def mean():
    return 0.25


class Own:
    info = {{"name": "own"}}
    class_names = NAMES
    latent_shape, image_size = (3, 32, 32), 32

    def encode(self, images):
        return images * 2 - 1

    def decode(self, latents):
        return (latents / 2 + 0.5).clamp(0, 1)

    def timesteps(self, steps):
        return [k * (1000 // steps) for k in reversed(range(steps))]

    def signal_and_noise(self, timestep):
        return ABAR[timestep].sqrt(), (1 - ABAR[timestep]).sqrt()

    def denoise(self, latents, timestep, class_labels, guidance_scale):
        alpha, sigma = self.signal_and_noise(timestep)
        centre = mean() * class_labels.view(-1, 1, 1, 1) / 9
        eps = sigma * (latents - alpha * centre)
        return (latents - sigma * eps) / alpha, eps


def make():
    prior = Own()
    return prior
"""
# what kills the process itself in the middle, as nothing in the program can
KILL = """
import os, sys
from diver_lite.run.to_file import Shards
write = Shards.write
def counted(self, index, images):
    if index == 2:
        os._exit(9)
    write(self, index, images)
Shards.write = counted
import torch
torch.set_num_threads(1)
from diver_lite.cli import main
main(sys.argv[1:])
"""


def asked(prior, out):
    return [
        *("recover", "fashion-mnist-dm-ipc1", "--prior", prior, "-o", out),
        *("--batch-size", "3", "--set", "num_inference_steps=4"),
    ]


def started(folder, *command):
    """Run Python in a process of its own."""
    path = str(Path(diver_lite.__file__).parents[1])
    return subprocess.run(
        [sys.executable, "-P", *command],
        cwd=folder,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": path},
    )


def test_a_killed_run_goes_on_with_the_same_code_alone(cli, tmp_path):
    """With the same bytes; also if the file has moved; not with another function."""
    names = diver_lite.load_distilled("fashion-mnist-dm-ipc1").class_names
    mine, out = tmp_path / "mine.py", tmp_path / "out.safetensors"
    text = SOURCE.format(names=tuple(names))
    mine.write_text(text)
    code, _, err = cli(*asked("mine.py:make", "whole.safetensors"))
    assert code == 0, err
    assert "can't" not in err

    killed = started(tmp_path, "-c", KILL, *asked("mine.py:make", out))
    assert killed.returncode == 9, killed.stderr
    assert not out.exists()
    assert len([*(tmp_path / "out.parts/set").glob("0*")]) == 2

    mine.write_text(text.replace("return 0.25", "return 0.5"))
    code, _, err = cli(*asked("mine.py:make", out))
    assert code == 2
    assert "another prior: other weights, settings or code" in err

    mine.unlink()
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "mine.py").write_text(text)
    again = started(tmp_path, "-m", "diver_lite", *asked("there/mine.py:make", out))
    assert again.returncode == 0, again.stderr
    assert out.read_bytes() == (tmp_path / "whole.safetensors").read_bytes()
