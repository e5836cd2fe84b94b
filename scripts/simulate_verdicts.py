"""How often is "better" or "worse" said where nothing differs? Simulated.

Run: python scripts/simulate_verdicts.py [--runs 20000]

Nothing is trained: paired differences, one per seed, are drawn from distributions of
mean zero, and each interval that excludes zero is a false verdict. Two intervals: the t
interval, which `judge.compare` takes, and the percentile bootstrap, which it once
took. Four distributions: normal; heavy-tailed (t with 3 degrees of freedom); skewed
(exponential); and "stored", the seeds' differences of results/choices_*, ten of each
row to DIVER, every comparison centred and divided by its standard deviation.

Where there are fewer draws of noise than seeds, draws are used in turns, and a
difference is normal: a draw's part, shared by its seeds, plus a seed's own.
`draw_share` is the draw's share of the variance.

Writes results/false_verdicts.json: its `table` has a row per case, with the share of
false verdicts.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from provenance import begin, write_result  # and bookkit

# isort: split
from bookkit.copying import wilson

from diver_lite.judge.compare import seed_differences, t_interval

SEEDS = (5, 10, 15)
DRAWS = (1, 2)  # and one for each seed
# Points², pooled over the 28 comparisons of Fashion-MNIST at 1 image per class that had
# two draws for five seeds (results/ at commit dbf6ee1): variance of the draws' means
# beyond what the seeds explain, and of seeds within a draw. Few draws: a rough figure.
BETWEEN_DRAWS, WITHIN_DRAWS = 3.3, 16.1
SHARES = (round(BETWEEN_DRAWS / (BETWEEN_DRAWS + WITHIN_DRAWS), 2), 0.5)
RESAMPLES = 2_000
BASELINE = "dm: DIVER 700"  # of the stored training runs


def bootstrap_interval(
    values: np.ndarray, resamples: int = RESAMPLES
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return mean and 95 % percentile bootstrap interval over the last axis.

    Source: Efron 1979. Too narrow for a few values: a resample's variance is theirs,
    smaller than the estimate of the true one by (N - 1) / N, and its tails are normal.
    """
    count = values.shape[-1]
    rng = np.random.default_rng(0)
    weights = rng.multinomial(count, np.full(count, 1 / count), resamples).T / count
    bounds = [
        np.percentile(block @ weights, [2.5, 97.5], axis=-1)
        for block in np.array_split(values, 1 + len(values) // 1_000)
    ]
    low, high = np.concatenate(bounds, axis=1)
    return values.mean(axis=-1), low, high


INTERVALS = {"t": t_interval, "percentile bootstrap": bootstrap_interval}


def stored_differences(folder: Path) -> np.ndarray:
    """Return differences of trained judges without what their settings differ by."""
    pool = []
    for path in sorted(folder.glob("choices_*_trainings.csv")):
        table = pd.read_csv(path)
        for name in dict.fromkeys(table["set"]):
            if name != BASELINE:
                found = seed_differences(table, name, BASELINE).to_numpy()
                pool.append((found - found.mean()) / found.std(ddof=1))
    return np.concatenate(pool)


def cases(
    runs: int, stored: np.ndarray, rng: np.random.Generator
) -> Iterator[tuple[dict, np.ndarray]]:
    """Yield what each case is, and its differences, (runs, seeds)."""
    for seeds in SEEDS:
        shape = (runs, seeds)
        for name, values in {
            "normal": rng.standard_normal(shape),
            "heavy-tailed": rng.standard_t(3, shape),
            "skewed": rng.standard_exponential(shape) - 1,
            "stored": rng.choice(stored, shape),
        }.items():
            yield {"differences": name, "seeds": seeds, "draws": seeds}, values
        for share in SHARES:
            for draws in DRAWS:
                of_draws = rng.standard_normal((runs, draws))
                shared = of_draws[:, np.arange(seeds) % draws]
                own = rng.standard_normal(shape)
                what = {"differences": "normal", "seeds": seeds, "draws": draws}
                yield (
                    what | {"draw_share": share},
                    np.sqrt(share) * shared + np.sqrt(1 - share) * own,
                )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=20_000, help="per case")
    args = parser.parse_args(arguments)
    started = begin()
    stored = stored_differences(Path("results"))
    rows = []
    for what, values in cases(args.runs, stored, np.random.default_rng(0)):
        for name, interval in INTERVALS.items():
            _, low, high = interval(values)
            false = int(((low > 0) | (high < 0)).sum())
            bounds = dict(zip(("low", "high"), wilson(false, args.runs), strict=True))
            rows.append(what | {"interval": name, "share": false / args.runs} | bounds)
    columns = ("differences", "seeds", "draws", "draw_share", "interval", "share")
    table = pd.DataFrame(rows, columns=[*columns, "low", "high"]).round(4)
    print(table.to_string(index=False))
    facts = {
        "data": "simulated",
        "runs": args.runs,
        "resamples": RESAMPLES,
        "stored_differences": len(stored),
        "variance_between_draws": BETWEEN_DRAWS,
        "variance_within_draws": WITHIN_DRAWS,
        "table": table,
    }
    write_result("results/false_verdicts.json", facts, vars(args), started=started)


if __name__ == "__main__":
    main()
