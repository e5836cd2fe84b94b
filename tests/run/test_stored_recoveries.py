"""Recoveries give what they gave: else `to_file.RESULTS` must be raised.

A run goes on, and a result is taken from a file, as long as that number is the same,
so a change of what a recovery computes must change it. To store results anew after
raising it: `pytest tests/run/test_stored_recoveries.py --store-results`.
"""

from dataclasses import replace
from pathlib import Path

import pytest
from diffusers import FlowMatchEulerDiscreteScheduler
from stored_values import check_stored

from diver_lite.priors.fast import FastPrior
from diver_lite.recovery import RecoveryConfig, recover
from diver_lite.run.to_file import RESULTS
from diver_lite.sets.distilled import DistilledSet

STORED = Path(__file__).with_name("stored_recoveries.json")
SHARE = 1e-3  # seven steps without training amplify little
FEW = RecoveryConfig(num_inference_steps=7)
FULL = replace(FEW, window="full", guidance_factor=0.3)
CASES = {
    "default": FEW,
    "published": RecoveryConfig.published(num_inference_steps=7),
    "no pull": replace(FEW, guidance_factor=0.0),
    "no inheritance": replace(FEW, inheritance=False),
    "late": replace(FEW, window="late"),
    "between two timesteps": replace(FEW, noise_timestep=705, start=651),
    "latent": replace(FULL, guidance_target="latent"),
    **{
        sigma: replace(FULL, guidance_sigma=sigma)
        for sigma in ("marginal", "signal", "one")
    },
    "not clipped": replace(FEW, clip_input=False),
    "scale 4": replace(FEW, guidance_scale=4.0),
    "beyond what is inherited": replace(
        FULL, guidance_sigma="signal", guidance_factor=3.0
    ),
}
FEWER = {name: CASES[name] for name in ("default", "latent")}


def pixels(distilled, prior, config):
    """Return some pixels of a recovered picture."""
    images = recover(distilled[[3]], prior, config, seed=2, progress=False).images
    return [round(v, 5) for v in images[0, 0, 8::8, 8::8].flatten().tolist()]


@pytest.mark.parametrize("prior", ["plain", "fast", "learned sigma", "flow"])
def test_a_recovery_gives_what_it_gave(
    request, prior, tiny_set, tiny_prior, tiny_learned_sigma_prior
):
    """Other pixels need another `RESULTS`, or two halves of a run wouldn't fit."""
    cases = CASES if prior == "plain" else FEWER
    network = {
        "plain": tiny_prior,
        "fast": FastPrior(tiny_prior),
        "learned sigma": tiny_learned_sigma_prior,
        "flow": replace(tiny_prior, scheduler=FlowMatchEulerDiscreteScheduler()),
    }[prior]
    if prior == "learned sigma":
        names = tuple(network.class_names)
        tiny_set = DistilledSet(tiny_set.images, tiny_set.labels, names)
    for name, config in cases.items():
        found = pixels(tiny_set, network, config)
        check_stored(request, STORED, f"{prior}, {name}", RESULTS, found, share=SHARE)
