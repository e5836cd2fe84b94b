"""Advice on a set: what is asked, what is said of which numbers, and going on."""

import json
import shutil
from copy import copy
from dataclasses import replace
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

import pandas as pd
import pytest
import torch
from torch import nn
from toy_sets import toy

from diver_lite import advise
from diver_lite.advice.ask import QUICK_ROWS
from diver_lite.advice.rows import STAGE1, Rows, inheritance_of
from diver_lite.advice.words import (
    CHOICES,
    REAL,
    SAMPLES,
    advice_of,
    best_of,
    comparisons_of,
    in_half,
    points,
    second_half,
    sentence,
    word,
)
from diver_lite.checks import InputError
from diver_lite.judge.answers import packed
from diver_lite.judge.compare import group_of
from diver_lite.judge.protocols import get_protocol
from diver_lite.recovery import RecoveryConfig
from diver_lite.sets.distilled import DistilledSet

ROOT = Path(__file__).parents[1]
PROTOCOL = get_protocol("corrected")


def row(points, low, high, *, survives=True, verdict=None):
    if verdict is None:
        clear = low > 0 or high < 0
        verdict = ("better" if points > 0 else "worse") if clear else "no difference"
    return {
        "points": points,
        "low": low,
        "high": high,
        "survives": survives,
        "verdict": verdict,
    }


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (row(3, 2, 4), "gains"),
        (row(-3, -4, -2), "loses"),
        (row(3, 2, 4, survives=False), "not settled"),
        (row(0.9, 0.5, 1.3), "level"),  # real, but not worth a word
        (row(1.0, 0.5, 1.5), "gains"),
        (row(0, -2, 2, survives=False), "level"),
        (row(0, -2.1, 2, survives=False), "not settled"),
        (row(0, -2, 2.1, survives=False), "not settled"),
        (row(9, 8, 10, verdict="too few seeds"), "first look"),
        (row(9, 8, 10, verdict="1 draw for 5 seeds"), "first look"),
    ],
)
def test_like_differences_get_like_words(found, said):
    assert word(found) == said


def rows_of(**told):
    names = {"inheritance": "inheritance 700", "samples": SAMPLES}
    return pd.DataFrame(
        [
            {"row": names.get(name, name), **found, "word": word(found)}
            for name, found in told.items()
        ]
    )


def test_a_sentence_says_what_to_do():
    rows = rows_of(
        VAE=row(1.2, -0.3, 2.7, survives=False),
        inheritance=row(6.1, 3.2, 9.0),
        samples=row(-1, -1.5, -0.5),
    )
    assert sentence(rows, "inheritance 700") == (
        "recover by inheritance from 700: +6.1 [3.2, 9.0]* over the set. Else, VAE: "
        "+1.2 [-0.3, 2.7]; samples of the prior: -1.0 [-1.5, -0.5]*."
    )
    assert sentence(rows, SAMPLES).startswith("leave the set as it is: what seemed")
    assert sentence(rows, "VAE").startswith("not settled: ")
    assert sentence(rows, STAGE1).startswith("leave the set as it is, the best of its")
    level = rows_of(VAE=row(0.2, -0.3, 0.7, survives=False))
    assert "is level (+0.2 [-0.3, 0.7] over" in sentence(level, "VAE")
    few = rows_of(VAE=row(3, 1, 5, verdict="too few seeds", survives=False))
    assert sentence(few, "VAE").startswith("it looks as if one should send it")
    few = rows_of(VAE=row(3, -1, 7, verdict="too few seeds", survives=False))
    assert sentence(few, "VAE").startswith("a first look can't tell; best so far is")
    assert sentence(few, STAGE1).startswith("a first look finds no row better than")


STUDIES = {
    "fashion-mnist_ipc1": ("dm", "dm-real", "dsa", "mtt"),
    "cifar10_published-ipc1": [
        f"{method}_published" for method in ("dc", "dm", "dsa", "mtt")
    ],
}


def looks():
    """Yield what three of a stored set's seeds say, and what all ten say of that row.

    Of each study that trained for 300 steps, the rows that a first look has.
    """
    for study, sets in STUDIES.items():
        table = pd.read_csv(ROOT / f"results/recovery_{study}-steps300_trainings.csv")
        for name in sets:
            names = {f"{name}: {row}": row for row in QUICK_ROWS} | {"prior": SAMPLES}
            mine = table.assign(set=table["set"].map(names), error="")
            mine = mine.dropna(subset="set")
            whole = {
                judge: comparisons_of(each, judge, group_of(judge)).set_index("row")
                for judge, each in mine.groupby("judge")
            }
            for first in (5, 8, 11):
                few = mine[mine["seed"].between(first, first + 2)]
                advice = advice_of(few, Path(), PROTOCOL)
                for judge, said in advice.sentences.items():
                    yield said, whole[judge]


def test_a_first_look_agrees_with_ten_seeds():
    """It advises only what gains, or might, and leaves open what it can't see."""
    told = [*looks()]
    assert len(told) == 8 * 2 * 3
    left_open = 0
    for said, whole in told:
        advised = [row for row, words in CHOICES.items() if words in said]
        found = whole.loc[advised, "word"].tolist()
        if said.startswith("it looks as if"):
            assert found != ["loses"], said
            assert (whole.loc[advised, "points"] > 0).all(), said
        elif found == ["gains"]:
            assert said.startswith("a first look can't tell"), said
            left_open += 1
    assert left_open > 0


def test_points_have_signs():
    assert points(row(-1.25, -2, 0.04, survives=False)) == "-1.2 [-2.0, 0.0]"


def test_halves_share_no_picture():
    first, second = (in_half(101, half) for half in (0, 1))
    assert torch.equal(first, ~second)
    assert first.sum() == 50
    assert torch.equal(first, in_half(101, 0))


def test_real_pictures_are_never_recommended():
    means = pd.Series({REAL: 0.9, "VAE": 0.5, STAGE1: 0.4})
    assert best_of(means) == "VAE"


def table_of(accuracies, seeds):
    """Return trainings of one judge: row -> accuracy where rows are chosen, where
    they score."""
    rows = []
    for name, (first, second) in accuracies.items():
        for seed in range(seeds):
            right = torch.zeros(1000, dtype=torch.bool)
            for half, accuracy in enumerate((first, second)):
                mine = in_half(1000, half).nonzero().flatten()
                spread = torch.Generator().manual_seed(half)
                mine = mine[torch.randperm(500, generator=spread)]
                count = round(500 * accuracy) + seed % 3  # trainings differ
                right[mine[:count]] = True
            rows.append(
                {
                    "set": name,
                    "judge": "ConvNet",
                    "norm": "IN",
                    "unseen": False,
                    "seed": seed,
                    "draw": "" if name == STAGE1 else str(seed),
                    "accuracy": right.float().mean().item(),
                    "right": packed(right),
                    "curve": "",
                    "error": "",
                }
            )
    return pd.DataFrame(rows)


def test_what_chooses_does_not_score(tmp_path):
    """The row that is best on one half is told with its numbers on the other."""
    given = {STAGE1: (0.3, 0.3), "VAE": (0.6, 0.2), "inheritance 700": (0.4, 0.5)}
    advice = advice_of(table_of(given, 10), tmp_path, PROTOCOL)
    assert advice.best == "inheritance 700"  # of those that help
    assert advice.sentences["ConvNet"].startswith(
        "leave the set as it is: what seemed best, to send it through the VAE, loses"
    )
    vae = advice.comparisons.set_index("row").loc["VAE"]
    assert vae["points"] == pytest.approx(-10, abs=0.2)
    assert advice.notes == []


@pytest.mark.parametrize("seeds", [3, 10])
def test_where_nothing_helps_the_set_is_the_best(seeds, tmp_path):
    """A row that seemed best, and then loses or is level, isn't handed over."""
    level = {STAGE1: (0.3, 0.3), "VAE": (0.6, 0.3), "inheritance 700": (0.5, 0.2)}
    assert advice_of(table_of(level, seeds), tmp_path, PROTOCOL).best == STAGE1
    helps = level | {"clip": (0.4, 0.5)}
    assert advice_of(table_of(helps, seeds), tmp_path, PROTOCOL).best == "clip"


def test_few_seeds_are_told(tmp_path):
    given = {STAGE1: (0.3, 0.3), "VAE": (0.6, 0.6)}
    four = advice_of(table_of(given, 4), tmp_path, PROTOCOL)
    assert four.notes[0].startswith("A first look, with 4 seeds")
    six = advice_of(table_of(given, 6), tmp_path, PROTOCOL)
    assert six.notes[0].startswith("Rows were chosen by the trainings that score")
    assert six.sentences["ConvNet"].startswith("send it through the VAE: +30.0")


def test_the_order_of_rows_changes_nothing(tmp_path):
    given = {STAGE1: (0.3, 0.3), "VAE": (0.6, 0.5), "clip": (0.4, 0.5)}
    turned = {name: given[name] for name in reversed(given)}
    one, other = (
        advice_of(table_of(each, 10), tmp_path, PROTOCOL) for each in (given, turned)
    )
    assert one.sentences == other.sentences


def test_networks_that_still_learn_are_told(tmp_path):
    table = table_of({STAGE1: (0.5, 0.5), "VAE": (0.5, 0.5)}, 10)
    assert second_half(table, PROTOCOL) == []
    table["curve"] = "64:0.1000:2.0000 128:0.2000:1.0000 256:0.5000:1.0000"
    ((judge, gain),) = second_half(table, PROTOCOL)  # from 128 on, of 300
    assert judge == "ConvNet"
    assert 15 < gain < 45
    assert "still learning" in advice_of(table, tmp_path, PROTOCOL).notes[-1]


def test_a_failed_training_and_a_diagnosis(tmp_path):
    table = table_of({STAGE1: (0.5, 0.5), "VAE": (0.5, 0.5)}, 2)
    with pytest.raises(InputError, match="a training failed: it burst"):
        advice_of(table.assign(error="it burst"), tmp_path, PROTOCOL)
    table["judge"] = "ShuffleNetV2-AdaBN"
    with pytest.raises(InputError, match=r"judges: .*AdaBN.* are diagnoses"):
        advice_of(table, tmp_path, PROTOCOL)


@pytest.fixture(autouse=True)
def ten_steps(monkeypatch):
    """Recover in ten steps: what is asked is how the parts work together."""
    short = partial(inheritance_of, num_inference_steps=10)
    monkeypatch.setattr("diver_lite.advice.ask.inheritance_of", short)


def small(num_classes, image_size, channels):
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * image_size**2, num_classes))


small.fingerprint = "one layer"


@pytest.fixture
def asked(tiny_prior, tmp_path):
    """Return a function that asks for advice on a tiny set, in two steps."""
    images, labels, _ = toy(count=1)
    names = tiny_prior.class_names[:3]
    distilled = DistilledSet(images, labels, names)
    pictures, truth, _ = toy(count=8, seed=1)

    def ask(distilled=distilled, prior=tiny_prior, test=None, **options):
        options = {"judges": [small], "steps": 2, "seeds": 2, "n_jobs": 1} | options
        test = test or (pictures, truth, names)
        return advise(
            distilled, prior, test, tmp_path / "out", progress=False, **options
        )

    ask.distilled = distilled
    ask.test = (pictures, truth, names)
    ask.out = tmp_path / "out"
    return ask


def test_a_folder_of_advice(asked):
    advice = asked(real=asked.test)
    names = [STAGE1, "clip", "VAE", "inheritance 700", "DIVER 700", SAMPLES, REAL]
    assert advice.comparisons["row"].tolist() == names
    text = (asked.out / "advice.md").read_text("utf-8")
    assert advice.sentences["small"] in text
    assert advice._repr_markdown_() == text
    drawn = ElementTree.parse(asked.out / "figure.svg").getroot()
    assert len([each for each in drawn if each.tag.endswith("circle")]) == 6
    best = DistilledSet.load(asked.out / "best.safetensors")
    assert best.labels.tolist() == asked.distilled.labels.tolist()
    there = {item.name for item in asked.out.iterdir()}
    files = {"advice.md", "best.safetensors", "comparisons.csv", "made_of.json"}
    files |= {"comparisons.tex", "figure.svg"}
    assert there == files | {"recoveries", "trainings.csv"}
    table = pd.read_csv(asked.out / "trainings.csv")
    drawn = table[table["set"] == SAMPLES]
    assert drawn["draw"].nunique() == 2  # every seed has its own


def test_quick_asks_fewer_rows(asked, monkeypatch):
    short = partial(inheritance_of, num_inference_steps=2)
    monkeypatch.setattr("diver_lite.advice.ask.inheritance_of", short)
    advice = asked(quick=True, seeds=None, steps=2)
    settings = json.loads((asked.out / "made_of.json").read_text())["recovery"]
    assert settings["num_inference_steps"] == 2  # not more than is recommended
    rows = [STAGE1, "VAE", "inheritance 700", SAMPLES]
    assert advice.comparisons["row"].tolist() == rows
    assert "3 seeds" in advice.notes[0]


def test_rows_follow_what_a_prior_recommends(tiny_prior, tmp_path):
    """All but what names the row."""
    prior = copy(tiny_prior)
    of_it = {"num_inference_steps": 4, "guidance_scale": 2.0, "window": "late"}
    prior.info = {"recommended": of_it | {"noise_timestep": 400}}
    rows = Rows(prior, tmp_path)
    assert rows.plain == RecoveryConfig(**of_it, guidance_factor=0.0)
    assert rows.samples == replace(rows.plain, inheritance=False)
    assert rows.diver == RecoveryConfig(**of_it)
    prior.info["recommended"]["guidance_factor"] = 0.02
    assert Rows(prior, tmp_path).diver.guidance_factor == 0.02


def test_it_goes_on_and_is_asked_for_more(asked, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("diver_lite.advice.rows.recover", interrupted)
        asked()
    whole = asked()
    files = {path: path.stat().st_mtime_ns for path in asked.out.glob("recoveries/*")}
    again = asked(seeds=3)
    assert {path: path.stat().st_mtime_ns for path in files} == files
    assert len(again.comparisons) == len(whole.comparisons)
    told = [*(asked.out / "trainings.csv").read_text().splitlines()]
    assert len(told) == 1 + 3 * len(whole.comparisons)


def test_what_is_another_question_is_refused(asked, tiny_prior):
    asked()
    darker = asked.distilled.with_images(asked.distilled.images * 0.9, "darker")
    images, labels, names = asked.test
    cases = {
        "set": {"distilled": darker},
        "test images": {"test": (images.flip(-1), labels, names)},
        "protocol": {"steps": 3},
        "real images": {"real": asked.test},
        "quick": {"quick": True, "seeds": 2},
        "class map": {"class_map": [2, 1, 0]},
    }
    before = (asked.out / "made_of.json").read_text()
    for what, changed in cases.items():
        with pytest.raises(InputError, match=f"made with another .*{what}"):
            asked(**changed)
    assert (asked.out / "made_of.json").read_text() == before


def test_bad_input_ends_before_anything_long(asked, tiny_prior, monkeypatch):
    monkeypatch.setattr("diver_lite.advice.rows.recover", None)  # nothing is recovered
    images, labels, names = asked.test
    for options, words in [
        ({"judges": ["Convnet"]}, "Convnet"),
        ({"judges": ["nothing:there"]}, "nothing"),
        ({"test": (images, labels)}, "test: found no class names"),
        ({"test": (images[..., :8, :8], labels, names)}, "shape of an image"),
        ({"test": (images[:1], labels[:1], names)}, "number of images is 1; expected"),
        ({"real": (images, labels, ("a", "b", "c"))}, "class 'a' of set 'random real'"),
        ({"seeds": 1}, "seeds"),
        ({"seeds": 0}, "seeds"),
        ({"steps": 0, "quick": True}, "steps"),
        ({"protocol": "slow"}, "slow"),
    ]:
        with pytest.raises(InputError, match=words):
            asked(**options)
    assert not asked.out.exists() or not any(asked.out.glob("*.json"))
    asked.out.mkdir(exist_ok=True)
    (asked.out / "thesis.tex").touch()
    with pytest.raises(InputError, match="no folder of advice"):
        asked()
    assert [item.name for item in asked.out.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("state", ["meta", "float64"])
def test_what_is_set_around_changes_nothing(asked, state):
    """A default device or dtype: a judge of one's own is tried, and sets are made."""
    ask = partial(asked, quick=True, seeds=2, judges=[small, "ConvNet"])
    try:
        torch.set_default_dtype(torch.float64 if state == "float64" else torch.float32)
        with torch.device("meta" if state == "meta" else "cpu"):
            around = ask()
    finally:
        torch.set_default_dtype(torch.float32)
    best = (asked.out / "best.safetensors").read_bytes()
    shutil.rmtree(asked.out)
    assert str(ask()) == str(around)
    assert (asked.out / "best.safetensors").read_bytes() == best


def test_a_folder_of_something_else_is_refused(asked):
    asked.out.touch()
    with pytest.raises(InputError, match="out is a file; expected a folder"):
        asked()
    asked.out.unlink()
    asked.out.mkdir()
    (asked.out / "made_of.json").write_text("{")
    with pytest.raises(InputError, match=r"made_of\.json"):
        asked()
    (asked.out / "made_of.json").write_text(json.dumps({"set": "other"}))
    with pytest.raises(InputError, match="made with another set"):
        asked()


def test_epochs_are_steps_too():
    protocol = replace(PROTOCOL, steps=None, epochs=5)
    assert second_half(table_of({STAGE1: (0.5, 0.5)}, 2), protocol) == []
