"""The live explorers of the chapter on semantic fusion, driven without a browser."""

import matplotlib

matplotlib.use("Agg")

import ipywidgets as widgets
import pytest
import torch
from conftest import control

from diver_lite import explore
from diver_lite.distilled import DistilledSet
from diver_lite.errors import InputError
from diver_lite.recovery import RecoveryConfig


@pytest.fixture
def passes(tiny_prior, monkeypatch):
    """Count the calls of the network: each costs a reader time."""
    calls = []
    predict = tiny_prior.predict_noise

    def count(latents, timestep, *args, **kwargs):
        calls.append(timestep)
        return predict(latents, timestep, *args, **kwargs)

    monkeypatch.setattr(tiny_prior, "predict_noise", count)
    return calls


def test_reverse_process_walks_through_the_steps(drawn, passes, tiny_set, tiny_prior):
    box = explore.explore_reverse_process(tiny_set[:2], tiny_prior)
    assert isinstance(box, widgets.VBox)
    visited = RecoveryConfig().timesteps(tiny_prior)
    assert passes == visited

    rows, title = drawn[-1]
    assert list(rows) == ["distilled", "noisy latent", "predicted clean"]
    assert title == f"t = {visited[0]}: semantic phase, pulled"
    first = rows["predicted clean"]

    control(box, "timestep").value = 100
    rows, title = drawn[-1]
    assert title == "t = 100: refinement phase, not pulled"
    assert not torch.equal(rows["predicted clean"], first)
    assert passes == visited  # moving along the steps decodes, and no more


def test_reverse_process_ends_in_the_result(drawn, tiny_set, tiny_prior):
    few = tiny_set[:2]
    box = explore.explore_reverse_process(few, tiny_prior)
    control(box, "timestep").value = 0
    result = explore.recover(few, tiny_prior, progress=False)
    torch.testing.assert_close(
        drawn[-1][0]["noisy latent"], result.images, rtol=0, atol=1e-5
    )


def test_reverse_process_follows_level_and_window(drawn, passes, tiny_set, tiny_prior):
    box = explore.explore_reverse_process(tiny_set[:2], tiny_prior)
    control(box, "noise timestep").value = 300
    assert passes[-1] == 0
    # the step nearest to the timestep still asked for, 700, is the first one
    assert drawn[-1][1] == "t = 300: refinement phase, not pulled"
    control(box, "window").value = "late"
    assert drawn[-1][1] == "t = 300: semantic phase, pulled"
    count = len(passes)
    control(box, "window").value = "published"  # has been here before
    assert len(passes) == count
    control(box, "window").value = "none"
    assert drawn[-1][1].endswith("not pulled")


def test_window_changes_the_result(drawn, tiny_set, tiny_prior):
    few = tiny_set[:2]
    box = explore.explore_window(few, tiny_prior)
    rows, title = drawn[-1]
    assert list(rows) == ["distilled", "no pull", "pull in the window"]
    assert title == "pulled while 816 >= t > 510: 10 of 36 steps"
    expected = explore.recover(few, tiny_prior, RecoveryConfig(), progress=False)
    assert torch.equal(rows["pull in the window"], expected.images)
    assert not torch.equal(rows["pull in the window"], rows["no pull"])

    control(box, "window").value = (-1, 400)
    late, title = drawn[-1]
    assert title == "pulled while 400 >= t > -1: 21 of 36 steps"
    assert torch.equal(late["no pull"], rows["no pull"])
    assert not torch.equal(late["pull in the window"], rows["pull in the window"])


def test_window_above_the_start_never_acts(drawn, tiny_set, tiny_prior):
    box = explore.explore_window(tiny_set[:2], tiny_prior)
    control(box, "window").value = (816, 1000)
    rows, title = drawn[-1]
    assert title == "pulled while 1000 >= t > 816: 0 of 36 steps"
    assert torch.equal(rows["pull in the window"], rows["no pull"])
    control(box, "noise timestep").value = 900
    rows, title = drawn[-1]
    assert title == "pulled while 1000 >= t > 816: 5 of 46 steps"
    assert not torch.equal(rows["pull in the window"], rows["no pull"])


def test_window_without_a_factor_is_no_pull(drawn, passes, tiny_set, tiny_prior):
    box = explore.explore_window(tiny_set[:2], tiny_prior)
    once = len(RecoveryConfig().timesteps(tiny_prior))
    assert len(passes) == 2 * once
    control(box, "guidance factor").value = 0
    rows, _ = drawn[-1]
    assert torch.equal(rows["pull in the window"], rows["no pull"])
    assert len(passes) == 3 * once  # the row without a pull was kept


@pytest.mark.parametrize("name", ["explore_reverse_process", "explore_window"])
def test_classes_the_prior_does_not_know(name, tiny_prior):
    strange = DistilledSet(torch.rand(1, 3, 32, 32), [0], ["unicorn"])
    with pytest.raises(InputError, match="unicorn"):
        getattr(explore, name)(strange, tiny_prior)
