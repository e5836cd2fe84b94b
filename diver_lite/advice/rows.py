"""The rows of a study of recovery: what is made of a set, and what it is compared with.

`advise` and the studies behind the book's pages ask with the same rows. What is random
is drawn anew for each seed. Source: the paper's ablation and its reviewers' questions.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from diver_lite.files import fingerprint
from diver_lite.make.baselines import clip_only, random_real, vae_only
from diver_lite.priors.contract import Prior, for_classes
from diver_lite.recovery import RecoveryConfig
from diver_lite.run.in_memory import recover
from diver_lite.run.to_file import run_facts
from diver_lite.sets.classes import prior_classes
from diver_lite.sets.distilled import DistilledSet

LEVELS = (300, 500, 700)  # of noise, in training timesteps
STAGE1 = "Stage I"  # the set as it was distilled
PAPER = "DIVER, the paper's settings"
LIBRARIES = ("torch", "torchvision", "diffusers", "numpy")  # whose numbers may differ

Row = DistilledSet | Callable[[int], DistilledSet]  # a set, or a function of the seed
ClassMap = Sequence[int] | Mapping[int | str, int] | None


def inheritance_of(prior: Prior, **changes: Any) -> RecoveryConfig:
    """Return the settings of inheritance: what a prior recommends, without a pull."""
    return RecoveryConfig.recommended(prior, **({"guidance_factor": 0.0} | changes))


class Rows:
    """Make the rows of a study, each draw once.

    Args:
        prior: of all recoveries.
        work: folder that keeps them, for a study that goes on later.
        plain: settings of inheritance, which has no pull; all rows but the paper's
            change it. Default: `inheritance_of` the prior.
        class_map: as of `recover`.
    """

    def __init__(
        self,
        prior: Prior,
        work: Path,
        plain: RecoveryConfig | None = None,
        class_map: ClassMap = None,
    ) -> None:
        self.prior = prior
        self.work = work
        self.class_map = class_map
        plain = replace(plain or inheritance_of(prior), noise_timestep=LEVELS[-1])
        self.plain = plain
        pull = RecoveryConfig.recommended(prior).guidance_factor or 0.1
        self.diver = replace(plain, guidance_factor=pull)
        #: the prior from noise and labels, without a picture
        self.samples = replace(plain, inheritance=False)

    def recovered(self, source: Row, config: RecoveryConfig) -> Row:
        """Return the recoveries of a row: a function of the seed."""

        @cache  # what is kept in the folder isn't identified and read again
        def draw(seed: int) -> DistilledSet:
            given = source(seed) if callable(source) else source
            return kept_recovery(
                self.work, given, self.prior, config, seed, self.class_map
            )

        return draw

    def recovery(self, distilled: DistilledSet) -> dict[str, Row]:
        """Return what each part of recovery makes of a set."""
        rows: dict[str, Row] = {
            STAGE1: distilled,
            "clip": clip_only(distilled),
            "VAE": vae_only(distilled, self.prior),
        }
        for level in LEVELS:
            inheritance = replace(self.plain, noise_timestep=level)
            rows[f"inheritance {level}"] = self.recovered(distilled, inheritance)
        rows["DIVER 700"] = self.recovered(distilled, self.diver)
        rows[PAPER] = self.recovered(distilled, RecoveryConfig.published())
        return rows


def real_row(real: tuple, ipc: int) -> Row:
    """Return the row of random real pictures, `ipc` of each class for each seed."""
    return lambda seed: random_real(real, ipc, seed)


def kept_recovery(
    folder: Path,
    distilled: DistilledSet,
    prior: Prior,
    config: RecoveryConfig,
    seed: int,
    class_map: ClassMap = None,
) -> DistilledSet:
    """Recover a set, or load what the very same recovery left in `folder`.

    Its name there is a digest of the images, labels, prior, settings and seed, of the
    libraries' versions and of the number that the code declares, so nothing else is
    ever taken for it.
    """
    prior = for_classes(prior, distilled.class_names)  # prompts are in its identity
    settings = asdict(config) | {"seed": seed}
    classes = prior_classes(distilled, prior, class_map)
    facts = run_facts(distilled, classes, prior, None, settings)
    facts |= {"versions": versions()}
    key = fingerprint([], json.dumps(facts, sort_keys=True, default=str))
    path = folder / f"{key}.safetensors"
    if not path.exists():
        found = recover(
            distilled, prior, config, seed=seed, class_map=class_map, progress=False
        )
        found.save(path)
    return DistilledSet.load(path)


def versions() -> dict[str, str]:
    """Return the version of each of `LIBRARIES`."""
    return {name: metadata.version(name) for name in LIBRARIES}
