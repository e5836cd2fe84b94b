"""The live explorer of ablations and galleries, driven without a browser."""

import matplotlib

matplotlib.use("Agg")

import ipywidgets as widgets
import pytest
import torch
from conftest import control

from diver_lite import explore
from diver_lite.distilled import DistilledSet
from diver_lite.errors import InputError
from diver_lite.recovery import RecoveryConfig, recover

METHODS = {
    "SI": RecoveryConfig(guidance_factor=0.0),
    "DIVER": RecoveryConfig(),
}


@pytest.fixture
def shown(monkeypatch):
    """Collect what the explorer draws: rows, column titles and title."""
    drawn = []
    image_grid = explore.image_grid

    def record(rows, titles, **options):
        drawn.append((dict(rows), list(titles), options["title"]))
        return image_grid(rows, titles, **options)

    monkeypatch.setattr(explore, "image_grid", record)
    return drawn


@pytest.fixture
def refined(monkeypatch):
    """Count the recoveries."""
    calls = []

    def count(*args, **options):
        calls.append(options["seed"])
        return recover(*args, **options)

    monkeypatch.setattr(explore, "recover", count)
    return calls


@pytest.fixture
def sets(tiny_set):
    other = DistilledSet(
        1 - tiny_set.images.clamp(0, 1), tiny_set.labels, tiny_set.class_names
    )
    return {"dm": tiny_set, "mtt": other}


@pytest.fixture
def box(shown, refined, sets, tiny_prior):
    return explore.explore_before_after(sets, tiny_prior, METHODS)


def test_first_picture_is_the_package_s_own_result(box, shown, tiny_set, tiny_prior):
    assert isinstance(box, widgets.VBox)
    rows, titles, title = shown[-1]
    labels = tiny_set.labels.tolist()
    first = [labels.index(label) for label in sorted(set(labels))]
    expected = recover(tiny_set, tiny_prior, METHODS["SI"], progress=False).images
    assert torch.equal(rows["before"], tiny_set.images[first])
    assert torch.equal(rows["after"], expected[first])
    assert titles == [tiny_set.class_names[labels[i]] for i in first]
    moved = (expected[first] - tiny_set.images[first].clamp(0, 1)).abs().mean()
    assert title == f"dm, SI: a pixel changes by {moved:.3f}"


def test_picture_follows_set_method_and_seed(box, shown):
    before = shown[-1][0]["after"]
    for description, value in {"set": "mtt", "method": "DIVER", "seed": 4}.items():
        control(box, description).value = value
        after = shown[-1][0]["after"]
        assert not torch.equal(after, before), description
        before = after
    assert shown[-1][2].startswith("mtt, DIVER:")


def test_another_class_shows_what_is_kept(box, shown, refined, tiny_set, tiny_prior):
    whole = recover(tiny_set, tiny_prior, METHODS["SI"], progress=False).images
    done = len(refined)
    label = int(tiny_set.labels[-1])
    control(box, "class").value = label
    rows, titles, _ = shown[-1]
    mine = tiny_set.labels == label
    assert torch.equal(rows["after"], whole[mine])
    assert set(titles) == {tiny_set.class_names[label]}
    assert len(refined) == done


def test_a_class_without_images_is_named(shown, sets, tiny_prior, capsys):
    tiny_set = sets["dm"]
    label = int(tiny_set.labels[-1])
    some = tiny_set[(tiny_set.labels != label).nonzero().flatten()]
    box = explore.explore_before_after({"dm": some}, tiny_prior, METHODS)
    drawn = len(shown)
    control(box, "class").value = label
    assert len(shown) == drawn
    said = str(box.children[-1].outputs) + capsys.readouterr().out
    assert f"dm has no image of {tiny_set.class_names[label]}" in said


def test_what_can_not_be_shown(tiny_set, tiny_prior):
    strange = DistilledSet(torch.rand(1, 3, 32, 32), [0], ["unicorn"])
    with pytest.raises(InputError, match="unicorn"):
        explore.explore_before_after({"x": strange}, tiny_prior, METHODS)
    with pytest.raises(InputError, match="0 sets and 2 methods"):
        explore.explore_before_after({}, tiny_prior, METHODS)
    with pytest.raises(InputError, match="1 sets and 0 methods"):
        explore.explore_before_after({"x": tiny_set}, tiny_prior, {})
