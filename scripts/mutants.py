"""Break the package in sixty places, one at a time, and see whether a test notices.

    python scripts/mutants.py
    python scripts/mutants.py --only recovery --jobs 2

Each mutant is one wrong line as a mistake would make it: a sign, a swapped order, a
constant of somebody's paper. It is made in a throw-away copy of the package, never in
the working tree, and the tests that guard its file run on it until the first fails.
Before that they run once on the unchanged copy, where all must pass: a death would
mean nothing otherwise. Prints a line per mutant and the count; the exit code is 1 if
one has survived.
"""

from __future__ import annotations

import argparse
import os
import queue
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

FEATURES = "../notebooks/bookkit/features.py"  # seen from the package
# file of the package -> the tests that guard it, in this order: quick ones first
GUARDS = {
    "recovery.py": ("test_recovery.py", "sets/test_pins.py"),
    "priors/dit.py": ("priors/test_dit.py", "test_recovery.py"),
    "priors/contract.py": ("priors/test_dit.py", "sets/test_pins.py"),
    "priors/schedule.py": ("priors/test_dit.py", "test_recovery.py"),
    "judge/augment.py": ("judge/test_augment.py",),
    "judge/protocols.py": ("judge/test_protocols.py", "sets/test_pins.py"),
    "judge/compare.py": ("judge/test_compare.py",),
    "sets/formats/dc.py": ("sets/test_formats.py", "sets/test_traps.py"),
    "sets/formats/job.py": ("sets/test_formats.py", "sets/test_traps.py"),
    "sets/formats/mtt.py": ("sets/test_formats.py", "sets/test_traps.py"),
    "sets/formats/ncfm.py": ("sets/test_formats.py", "sets/test_traps.py"),
    "sets/folder.py": ("sets/test_formats.py", "sets/test_subsets.py"),
    "sets/normalisation.py": (
        "sets/test_formats.py",
        "sets/test_pins.py",
        "sets/test_normalisation.py",
        "sets/test_traps.py",
    ),
    "sets/names.py": ("sets/test_pins.py", "sets/test_subsets.py"),
    FEATURES: ("book/test_measure.py",),
}


@dataclass(frozen=True)
class Mutant:
    """One mistake: in `file`, `new` stands where `old` stood, once."""

    file: str
    what: str
    old: str
    new: str

    @property
    def name(self) -> str:
        return f"{self.file.removesuffix('.py')}: {self.what}"

    def apply(self, package: Path) -> str:
        """Return the file's text with the mistake in it, or raise ValueError."""
        text = (package / self.file).read_text(encoding="utf-8")
        if (found := text.count(self.old)) != 1:
            raise ValueError(
                f"{self.name}: {self.old!r} occurs {found} times, not once"
            )
        return text.replace(self.old, self.new)


MUTANTS = [
    # --- recovery: the formulas, the loop, what is drawn -----------------------------
    Mutant(
        "recovery.py",
        "inherited noise with the variance for its root",
        "return alpha * latents + sigma * noise",
        "return alpha * latents + sigma**2 * noise",
    ),
    Mutant(
        "recovery.py",
        "guidance pushes away",
        "return latents - gamma * sigma * difference",
        "return latents + gamma * sigma * difference",
    ),
    Mutant(
        "recovery.py",
        "posterior variance for its root",
        "return ((1 - abar_prev) / (1 - abar) * (1 - abar / abar_prev)).sqrt()",
        "return (1 - abar_prev) / (1 - abar) * (1 - abar / abar_prev)",
    ),
    Mutant(
        "recovery.py",
        "targets swapped",
        'if config.guidance_target == "latent":',
        'if config.guidance_target != "latent":',
    ),
    Mutant(
        "recovery.py",
        "window closed below",
        "if timestep > low:",
        "if timestep >= low:",
    ),
    Mutant(
        "priors/dit.py",
        "clean latent scaled by the noise",
        "return (latents - sigma * output) / alpha, output",
        "return (latents - sigma * output) / sigma, output",
    ),
    Mutant(
        "recovery.py",
        "DDIM keeps this step's noise",
        "alpha, sigma = prior.signal_and_noise(after)",
        "alpha, sigma = prior.signal_and_noise(timestep)",
    ),
    Mutant(
        "priors/schedule.py",
        "one noise for all images",
        "np.random.default_rng([seed, int(index)])",
        "np.random.default_rng([seed])",
    ),
    Mutant(
        "recovery.py",
        "matched start visited twice",
        "*(t for t in grid if t < first)",
        "*(t for t in grid if t <= first)",
    ),
    Mutant(
        "recovery.py",
        "every batch takes the first noise",
        "return self.noise[batch]",
        "return self.noise[: len(batch)]",
    ),
    Mutant(
        "recovery.py",
        "published window ends at 500",
        '"published": (816, 510)',
        '"published": (816, 500)',
    ),
    # --- prior: guidance, encoder, decoder -------------------------------------------
    Mutant(
        "priors/dit.py",
        "guidance counted from the conditional",
        "return out_u + scale * (out_c - out_u)",
        "return out_c + scale * (out_c - out_u)",
    ),
    Mutant(
        "priors/dit.py",
        "halves of the batch swapped",
        "out_c, out_u = both[:, :channels].float().chunk(2)",
        "out_u, out_c = both[:, :channels].float().chunk(2)",
    ),
    Mutant(
        "priors/dit.py",
        "last class for no class",
        "null = torch.full_like(class_labels, self.num_classes)",
        "null = torch.full_like(class_labels, self.num_classes - 1)",
    ),
    Mutant(
        "priors/schedule.py",
        "a window upside down is taken",
        'require(high >= low, name, value, "high >= low")',
        'require(True, name, value, "high >= low")',
    ),
    Mutant(
        "priors/schedule.py",
        "a fraction counts as a timestep",
        "valid = isinstance(value, int) and not isinstance(value, bool)",
        "valid = isinstance(value, int | float) and not isinstance(value, bool)",
    ),
    Mutant(
        "priors/dit.py",
        "decoder's output not clamped",
        "return (torch.cat(parts).float() / 2 + 0.5).clamp(0, 1)",
        "return torch.cat(parts).float() / 2 + 0.5",
    ),
    Mutant(
        "priors/dit.py",
        "encoder fed with [0, 1]",
        "self.vae.encode(x.to(self.device, self.vae.dtype) * 2 - 1)",
        "self.vae.encode(x.to(self.device, self.vae.dtype))",
    ),
    Mutant(
        "priors/dit.py",
        "latents scaled before they are shifted",
        "return (torch.cat(modes) - self._shift) * self._scale",
        "return torch.cat(modes) * self._scale - self._shift",
    ),
    Mutant(
        "priors/contract.py",
        "resized without antialiasing",
        'mode="bilinear", antialias=True)',
        'mode="bilinear", antialias=False)',
    ),
    # --- augment: DSA's strengths and geometry ---------------------------------------
    Mutant("judge/augment.py", "rotate by 25", "ROTATE = 15.0", "ROTATE = 25.0"),
    Mutant("judge/augment.py", "cutout of everything", "CUTOUT = 0.5", "CUTOUT = 1.0"),
    Mutant("judge/augment.py", "scale by 2", "SCALE = 1.2", "SCALE = 2.0"),
    Mutant("judge/augment.py", "crop by half", "CROP_PAD = 0.125", "CROP_PAD = 0.5"),
    Mutant(
        "judge/augment.py",
        "saturation up to 1",
        "BRIGHTNESS, SATURATION, CONTRAST = 1.0, 2.0, 0.5",
        "BRIGHTNESS, SATURATION, CONTRAST = 1.0, 1.0, 0.5",
    ),
    Mutant(
        "judge/augment.py",
        "flip upside down",
        "images.flip(-1), images",
        "images.flip(-2), images",
    ),
    Mutant(
        "judge/augment.py",
        "shear for rotation",
        "theta = [angle.cos(), -angle.sin(), zero",
        "theta = [angle.cos(), angle.sin(), zero",
    ),
    Mutant(
        "judge/augment.py",
        "siamese ignored",
        "rows = 1 if siamese else len(images)",
        "rows = len(images)",
    ),
    # --- protocols: schedules, batches, labels ---------------------------------------
    Mutant(
        "judge/protocols.py",
        "rate falls one step late",
        "return 1.0 if step < total // 2 else 0.1",
        "return 1.0 if step <= total // 2 else 0.1",
    ),
    Mutant(
        "judge/protocols.py",
        "warm-up of a hundredth",
        "(done + 1e-3) / 0.1)",
        "(done + 1e-3) / 0.01)",
    ),
    Mutant(
        "judge/protocols.py",
        "last batch of a pass not counted",
        "self.epochs * math.ceil(count / self.batch_size)",
        "self.epochs * max(1, count // self.batch_size)",
    ),
    Mutant(
        "judge/protocols.py",
        "batches overlap",
        "order = order[size:]",
        "order = order[size - 1 :]",
    ),
    Mutant(
        "judge/protocols.py",
        "learned rate for every judge",
        "if self.learned_lr and known == judge_name(PROXY) and train is not None:",
        "if self.learned_lr and train is not None:",
    ),
    Mutant(
        "judge/protocols.py",
        "multiplied by the std",
        "return (images - mean) / std",
        "return (images - mean) * std",
    ),
    Mutant(
        "judge/protocols.py",
        "softmax over the images",
        "soft.softmax(dim=1)",
        "soft.softmax(dim=0)",
    ),
    # --- compare: intervals and verdicts ---------------------------------------------
    Mutant(
        "judge/compare.py",
        "one-sided quantile",
        "stats.t.ppf((1 + CONFIDENCE) / 2, count - 1)",
        "stats.t.ppf(CONFIDENCE, count - 1)",
    ),
    Mutant(
        "judge/compare.py",
        "standard error over n",
        "stats.sem(values, axis=-1)",
        "stats.sem(values, axis=-1, ddof=0)",
    ),
    Mutant(
        "judge/compare.py",
        "baseline minus set",
        "(wide[a] - wide[b])",
        "(wide[b] - wide[a])",
    ),
    Mutant(
        "judge/compare.py",
        "seeds of failed trainings kept",
        "wide.mean(axis=1, skipna=False)",
        "wide.mean(axis=1, skipna=True)",
    ),
    Mutant(
        "judge/compare.py",
        "the proxy counts",
        'table["judge"].map(belongs).isin(wanted)',
        'table["judge"].map(belongs).ne("")',
    ),
    Mutant(
        "judge/compare.py",
        "the set with more draws decides",
        "draws = min(counts.tolist(), default=len(seeds))",
        "draws = max(counts.tolist(), default=len(seeds))",
    ),
    # --- formats: what is undone, and in which order ---------------------------------
    Mutant(
        "sets/normalisation.py",
        "mean added before the std",
        "return images.float() * std + mean",
        "return (images.float() + mean) * std",
    ),
    Mutant(
        "sets/formats/mtt.py",
        "GLaD's two means swapped",
        '_SPACES = {"wp": "glad", "p": "mtt"}',
        '_SPACES = {"wp": "mtt", "p": "glad"}',
    ),
    Mutant(
        "sets/formats/ncfm.py",
        "tiles block by block",
        "grid.permute(0, 2, 4, 1, 3, 5)",
        "grid.permute(2, 4, 0, 1, 3, 5)",
    ),
    Mutant(
        "sets/formats/ncfm.py",
        "labels of tiles block by block",
        "labels = labels.repeat_interleave(factor**2, dim=0)",
        "labels = labels.repeat(factor**2)",
    ),
    Mutant(
        "sets/formats/dc.py",
        "decoder's overshoot lost",
        "images = denormalise(images, RAW_OUTPUT)",
        "images = denormalise(images, RAW_OUTPUT).clamp(0, 1)",
    ),
    Mutant(
        "sets/normalisation.py",
        "covariance over n",
        "covariance * len(reference) / (len(reference) - 1), 0.1",
        "covariance, 0.1",
    ),
    Mutant(
        "sets/formats/job.py",
        "images dealt out class by class",
        "torch.arange(num_classes).repeat_interleave(count // num_classes)",
        "torch.arange(num_classes).repeat(count // num_classes)",
    ),
    Mutant(
        "sets/folder.py",
        "inverse order of WordNet ids",
        "[indices.index(i) for i in sorted(indices)]",
        "[sorted(indices).index(i) for i in indices]",
    ),
    Mutant(
        "sets/folder.py",
        "10.png before 2.png",
        'return [(int(p), "") if p.isdecimal() else (-1, p) for p in parts]',
        "return [(-1, p) for p in parts]",
    ),
    # --- imagenet: lists -------------------------------------------------------------
    Mutant(
        "sets/names.py",
        "classes in ImageNet's order",
        "[str(index)][1]) for index in indices)",
        "[str(index)][1]) for index in sorted(indices))",
    ),
    Mutant(
        "sets/names.py",
        "WordNet ids one class off",
        "{int(index): wnid for",
        "{int(index) - 1: wnid for",
    ),
    Mutant(
        "sets/names.py",
        "NCFM's lists last and lost",
        '"imagenet", *SUBSETS)',
        '"imagenet", *[*SUBSETS][:-2])',
    ),
    Mutant(
        "sets/names.py",
        "a spelling means itself",
        "alias: dataset\n",
        "alias: alias\n",
    ),
    Mutant(
        "sets/folder.py",
        "folders in sorted order",
        "ids = [WORDNET_IDS[index] for index in indices]",
        "ids = sorted(WORDNET_IDS[index] for index in indices)",
    ),
    # --- bookkit ---------------------------------------------------------------------
    Mutant(
        FEATURES,
        "cross term once",
        "squared + traces - 2 * cross",
        "squared + traces - cross",
    ),
    Mutant(
        FEATURES,
        "covariance over n",
        "root = (x - mean) / (len(x) - 1) ** 0.5",
        "root = (x - mean) / len(x) ** 0.5",
    ),
    Mutant(
        FEATURES,
        "diagonal kept",
        "within += (values.sum() - values.trace())",
        "within += values.sum()",
    ),
    Mutant(
        FEATURES,
        "features of unclipped images",
        "return predict(judge, images.clamp(0, 1), ",
        "return predict(judge, images, ",
    ),
    Mutant(
        FEATURES,
        "layouts compared the other way",
        "layout_lost=layout < layout_raw",
        "layout_lost=layout > layout_raw",
    ),
]


@dataclass(frozen=True)
class Outcome:
    """What the tests said about one copy: `killer` is the first that failed."""

    killed: bool
    killer: str
    seconds: float


def run_tests(tree: Path, tests: Iterable[str], limit: float) -> Outcome:
    """Run tests of a copy until the first fails, without leaving anything in it."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"]
    # files change within a second and keep their size: bytecode would be stale
    environment = os.environ | {
        "PYTHONPATH": str(tree),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",  # plugins cost more than some tests
        "OMP_NUM_THREADS": "1",
    }
    began = time.monotonic()
    try:
        done = subprocess.run(
            [*command, *(f"tests/{name}" for name in tests)],
            cwd=tree,
            env=environment,
            capture_output=True,
            text=True,
            timeout=limit,
        )
    except subprocess.TimeoutExpired:
        return Outcome(True, f"no end within {limit:.0f} s", limit)
    seconds = time.monotonic() - began
    if done.returncode == 0:
        return Outcome(False, "", seconds)
    failed = re.search(r"^(?:FAILED|ERROR) tests/(.+?)( - |$)", done.stdout, re.M)
    if failed is None:  # the tests didn't run: that says nothing about the mutant
        raise RuntimeError(f"pytest failed in {tree}:\n{done.stdout}\n{done.stderr}")
    return Outcome(True, failed[1], seconds)


def copy_package(target: Path, root: Path = ROOT) -> Path:
    """Copy package, tests and scripts; what ships with the package is linked."""
    target.mkdir()
    assets = root / "diver_lite/assets"
    shipped = [path.name for path in assets.iterdir() if path.is_dir()]

    def skip(folder: str, names: list[str]) -> list[str]:
        return shipped if Path(folder) == assets else ["__pycache__"]

    for folder in ("diver_lite", "scripts", "notebooks/bookkit", "tests"):
        shutil.copytree(root / folder, target / folder, ignore=skip)
    for name in shipped:
        if name != "__pycache__":
            (target / "diver_lite/assets" / name).symlink_to(assets / name)
    shutil.copy(root / "pyproject.toml", target)
    return target


def try_mutant(mutant: Mutant, tree: Path, limit: float) -> Outcome:
    """Make a mutant in a copy, run its tests, and undo it."""
    path = tree / "diver_lite" / mutant.file
    original = path.read_bytes()
    path.write_text(mutant.apply(tree / "diver_lite"), encoding="utf-8")
    try:
        return run_tests(tree, GUARDS[mutant.file], limit)
    finally:
        path.write_bytes(original)


def try_all(
    mutants: Sequence[Mutant], trees: Sequence[Path], limit: float
) -> dict[str, Outcome]:
    """Try every mutant, one at a time in each copy, and print a line for each."""
    for file in dict.fromkeys(mutant.file for mutant in mutants):
        outcome = run_tests(trees[0], GUARDS[file], limit)
        if outcome.killed:
            raise SystemExit(f"{outcome.killer} fails without any mutant of {file}")
        print(f"{'unchanged':<10}{outcome.seconds:5.0f} s  {file}", flush=True)
    free: queue.Queue[Path] = queue.Queue()
    for tree in trees:
        free.put(tree)

    def one(mutant: Mutant) -> Outcome:
        tree = free.get()
        try:
            outcome = try_mutant(mutant, tree, limit)
        finally:
            free.put(tree)
        verdict = "killed" if outcome.killed else "SURVIVED"
        took = f"{verdict:<10}{outcome.seconds:5.0f} s"
        print(f"{took}  {mutant.name:<50}  {outcome.killer}".rstrip(), flush=True)
        return outcome

    with ThreadPoolExecutor(len(trees)) as pool:
        outcomes = pool.map(one, mutants)
        return {m.name: o for m, o in zip(mutants, outcomes, strict=True)}


def main() -> None:
    """Run the mutants and print how many died."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="mutants whose name contains this")
    parser.add_argument("--jobs", type=int, default=1, help="mutants at a time")
    parser.add_argument("--limit", type=float, default=1800, help="seconds per mutant")
    arguments = parser.parse_args()
    chosen = [mutant for mutant in MUTANTS if arguments.only in mutant.name]
    if not chosen:
        raise SystemExit(f"no mutant's name contains {arguments.only!r}")
    for mutant in chosen:
        mutant.apply(ROOT / "diver_lite")
    with tempfile.TemporaryDirectory() as folder:
        trees = [
            copy_package(Path(folder, str(i))) for i in range(max(1, arguments.jobs))
        ]
        outcomes = try_all(chosen, trees, arguments.limit)
    survivors = [name for name, outcome in outcomes.items() if not outcome.killed]
    print(f"{len(outcomes) - len(survivors)} of {len(outcomes)} mutants were killed")
    for name in survivors:
        print(f"survived: {name}")
    sys.exit(1 if survivors else 0)


if __name__ == "__main__":
    main()
