"""The live explorer of the guidance scale, driven without a browser."""

import matplotlib

matplotlib.use("Agg")

import ipywidgets as widgets
import pytest
import torch

from diver_lite import explore
from diver_lite.baselines import raw_prior
from diver_lite.distilled import DistilledSet
from diver_lite.errors import InputError
from diver_lite.recovery import RecoveryConfig

STEPS = 3


@pytest.fixture
def shown(monkeypatch):
    """Collect what the explorer draws: name of the row, images, column titles."""
    drawn = []
    image_grid = explore.image_grid

    def record(rows, titles, **options):
        ((name, images),) = rows.items()
        drawn.append((name, images, list(titles)))
        return image_grid(rows, titles, **options)

    monkeypatch.setattr(explore, "image_grid", record)
    return drawn


def controls(box):
    """Return the scale's slider, the choice of class, and the seed's slider."""
    return box.children[:3]


def test_shows_samples_of_the_raw_prior(shown, tiny_prior):
    box = explore.explore_guidance_scale(tiny_prior, num_inference_steps=STEPS)
    assert isinstance(box, widgets.VBox)
    scale, _, _ = controls(box)
    scale.value = 4.0
    name, images, titles = shown[-1]
    assert name == "scale 4"
    assert titles == list(tiny_prior.class_names)
    labels = torch.arange(10)
    request = DistilledSet(torch.zeros(10, 3, 32, 32), labels, tiny_prior.class_names)
    config = RecoveryConfig(num_inference_steps=STEPS, guidance_scale=4.0)
    expected = raw_prior(request, tiny_prior, config, seed=0, progress=False)
    torch.testing.assert_close(images, expected.images)


def test_every_control_changes_the_picture(shown, tiny_prior):
    box = explore.explore_guidance_scale(tiny_prior, num_inference_steps=STEPS)
    scale, label, seed = controls(box)
    for control, value in ((scale, 6.0), (label, 3), (seed, 5)):
        before = shown[-1][1]
        control.value = value
        assert (shown[-1][1] - before).abs().max() > 1e-3, control.description


def test_one_class_is_asked_for_ten_times(shown, tiny_prior):
    box = explore.explore_guidance_scale(tiny_prior, num_inference_steps=STEPS)
    _, label, _ = controls(box)
    mixed = shown[-1][1]
    label.value = 3
    _, images, titles = shown[-1]
    assert titles == [tiny_prior.class_names[3]] * 10
    # the same noise: the image that was of class 3 before has not changed
    torch.testing.assert_close(images[3], mixed[3])
    assert (images[4] - mixed[4]).abs().max() > 1e-3


def test_leaves_no_figure_open(shown, tiny_prior):
    before = explore.plt.get_fignums()
    explore.explore_guidance_scale(tiny_prior, num_inference_steps=STEPS)
    assert explore.plt.get_fignums() == before


@pytest.mark.parametrize("steps", [0, 2.5, 1001])
def test_refuses_steps_that_the_schedule_lacks(tiny_prior, steps):
    with pytest.raises(InputError, match="num_inference_steps"):
        explore.explore_guidance_scale(tiny_prior, num_inference_steps=steps)


def test_refuses_more_steps_than_a_short_schedule_has(tiny_prior, monkeypatch):
    import diffusers

    short = diffusers.DDIMScheduler(num_train_timesteps=10, clip_sample=False)
    monkeypatch.setattr(tiny_prior, "scheduler", short)
    with pytest.raises(InputError, match="at most T = 10"):
        explore.explore_guidance_scale(tiny_prior, num_inference_steps=20)
