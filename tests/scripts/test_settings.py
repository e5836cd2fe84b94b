"""What a prior recommends stands in the study that it names, and is never beaten."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from bookkit.studies import stored_comparisons

from diver_lite import RecoveryConfig, assets
from diver_lite.judge.compare import GROUPS, verdict

ROOT = Path(__file__).parents[2]
RECORDS = {
    prior: json.loads((assets.ROOT / f"priors/{prior}/diver_lite.json").read_text())
    for prior in ("fashion-mnist", "cifar10")
}


def config_of(row, recommended):
    """Return what a row recovered with, None where it isn't a recovery."""
    found = re.search(r": noise (\d+), pull ([\d.]+)$", row)
    if found is None:
        return None
    level, pull = found.groups()
    changes = {"noise_timestep": int(level), "guidance_factor": float(pull)}
    return replace(recommended, **changes)


@pytest.mark.parametrize("prior", RECORDS)
def test_no_setting_that_was_tried_beats_what_is_recommended(prior):
    """For either kind of stranger, on validation pictures and seeds of their own."""
    record = RECORDS[prior]
    assert "batch norm" in record["recommended_for"]
    recommended = RecoveryConfig(**record["recommended"])
    (study,) = record["recommended_from"]
    facts = json.loads((ROOT / study.replace("_trainings.csv", ".json")).read_text())
    assert facts["split"] == "validation"
    assert facts["guidance_scale"] == recommended.guidance_scale
    table = pd.read_csv(ROOT / study)
    assert max(table["seed"]) < 5  # the studies that confirm it take 5 to 14
    tried = {row: config_of(row, recommended) for row in table["set"].unique()}
    (mine,) = [row for row, config in tried.items() if config == recommended]
    others = [row for row in tried if row != mine]
    assert len(others) >= 10
    for group in GROUPS[1:]:
        beaten_by = [r for r in others if verdict(table, r, mine, group) == "better"]
        assert not beaten_by, group


# of each prior: its recommended setting among the study's rows, and its equal for less
ROWS = {
    "fashion-mnist": ("DIVER 700", "VAE"),
    "cifar10": ("inheritance 700", "prior"),
}


@pytest.mark.parametrize("prior", RECORDS)
def test_who_gains_stands_in_the_study_that_confirms_it(prior):
    """Of networks that know their set: those with batch norm, and from less as much."""
    record = RECORDS[prior]
    (study,) = record["confirmed_by"]
    table = stored_comparisons(Path(study).stem.removesuffix("_trainings"))
    table = table[table["set"] == "all, pooled"]
    surely = table[table["survives"]]
    table = table.set_index(["judges", "row", "against"])["points"]
    surely = set(zip(surely["judges"], surely["row"], surely["against"], strict=True))
    mine, less = ROWS[prior]
    _, with_bn, without = GROUPS
    assert (with_bn, mine, "Stage I") in surely
    assert table[with_bn, mine, "Stage I"] > 0
    assert table[with_bn, mine, less] < 0.5, "less gives as much"
    gains = table[without, mine, "Stage I"] > 0
    assert not (gains and (without, mine, "Stage I") in surely)
    assert "batch norm" in record["recommended_for"]
    assert {"VAE": "VAE", "prior": "samples of the prior"}[less] in (
        record["recommended_for"]
    )
