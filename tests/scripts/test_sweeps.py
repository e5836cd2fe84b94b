"""What a prior recommends must stand in the sweeps that it names, and not be beaten."""

import json
from pathlib import Path

import pandas as pd
import pytest

from diver_lite import RecoveryConfig, assets
from diver_lite.checks import InputError
from diver_lite.cli import Preset, parse_config
from diver_lite.judge.compare import paired_difference, verdict

ROOT = Path(__file__).parents[2]
CASES = [
    (prior, sweep)
    for prior in ("fashion-mnist", "cifar10")
    for sweep in json.loads(
        (assets.ROOT / f"priors/{prior}/diver_lite.json").read_text()
    )["recommended_from"]
]
# rows that are no settings of a recovery that begins with a picture
OTHERS = {"random real", "Stage I", "VAE only", "raw prior"}


def config_of(row: str) -> RecoveryConfig | None:
    """Return what a row of a sweep recovered with, None where no setting says so."""
    words = [] if row == "default" else row.replace(" = ", "=").split()
    try:
        return parse_config(Preset.default, words)
    except InputError:  # a name, or an option that is gone
        return None


@pytest.mark.parametrize(("prior", "sweep"), CASES)
def test_no_row_of_a_sweep_beats_what_the_prior_recommends(prior, sweep):
    path = ROOT / sweep
    assert json.loads(path.with_suffix(".json").read_text())["split"] == "validation"
    record = json.loads((assets.ROOT / f"priors/{prior}/diver_lite.json").read_text())
    recommended = RecoveryConfig(**record["recommended"])
    table = pd.read_csv(ROOT / f"{sweep.removesuffix('.csv')}_trainings.csv")
    rows = [*dict.fromkeys(table["set"])]
    (mine,) = [row for row in rows if config_of(row) == recommended]
    beaten_by = {
        row: paired_difference(table, row, mine)
        for row in rows
        if row not in {mine, *OTHERS} and verdict(table, row, mine) == "better"
    }
    assert not beaten_by
