"""The live explorers, driven without a browser."""

import functools
import io
import re
from copy import copy
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import ipywidgets as widgets
import pytest
import torch
from bookkit import explore
from bookkit.figures import duration, duration_bars
from drawing import no_figure_stays_open  # noqa: F401
from kinds import KINDS, NAMES
from PIL import Image

from diver_lite.checks import InputError
from diver_lite.judge import augment
from diver_lite.make.baselines import raw_prior
from diver_lite.priors.loading import load_prior
from diver_lite.priors.schedule import draw_noise
from diver_lite.recovery import RecoveryConfig, RecoveryJob, inherit, recover
from diver_lite.sets.distilled import DistilledSet

SI = RecoveryConfig(noise_timestep=500, guidance_factor=0.0)
METHODS = {"SI": RecoveryConfig(guidance_factor=0.0), "DIVER": RecoveryConfig()}
COLOUR = torch.rand(2, 3, 8, 8, generator=torch.manual_seed(0))
RAMP = torch.linspace(-1, 3, 64).view(1, 1, 8, 8)
PIXELS = {"flat": torch.full((1, 1, 8, 8), 0.5), "ramp": RAMP}
REVERSE = list(range(9, -1, -1))
OTHER_KINDS = ("flow", "turbo")  # the second is of Stable Diffusion's schedule


def scale(_, prior):
    return explore.explore_guidance_scale(prior, num_inference_steps=3)


def priors(few, prior):
    class_map = REVERSE[-prior.num_classes :]
    return explore.explore_priors(few, {"a": prior, "b": prior}, {"b": class_map})


def before_after(few, prior):
    other = DistilledSet(1 - few.images, few.labels, few.class_names)
    return explore.explore_before_after({"dm": few, "mtt": other}, prior, METHODS)


# Explorer -> how it is made of a set and a prior, and for each of its controls, in
# their order, a value that changes the picture.
REFINING = {
    "recovery": (
        explore.explore_recovery,
        {
            "noise timestep": 800,
            "CFG scale": 4,
            "guidance factor": 0.4,
            "window": "late",
        },
    ),
    "noise_level": (
        explore.explore_noise_level,
        {"noise timestep": 800, "start": "published", "seed": 3},
    ),
    "reverse_process": (
        explore.explore_reverse_process,
        {"timestep": 100, "noise timestep": 800, "window": "none"},
    ),
    "window": (
        explore.explore_window,
        {"window": (-1, 400), "guidance factor": 0.4, "noise timestep": 900},
    ),
    "guidance_factor": (
        explore.explore_guidance_factor,
        {"guidance factor": 0.8, "guidance target": "latent", "guidance sigma": "one"},
    ),
    "guidance_scale": (scale, {"CFG scale": 6, "class": 3, "seed": 5}),
    "priors": (priors, {"noise timestep": 800, "CFG scale": 4, "seed": 3}),
    "before_after": (
        before_after,
        {"set": "mtt", "method": "DIVER", "class": 0, "seed": 4},
    ),
}
OTHERS = {
    "colour": (
        lambda *_: explore.explore_colour(COLOUR),
        {"brightness": 0.3, "saturation": 2, "contrast": 1.5},
    ),
    "pixel_range": (
        lambda *_: explore.explore_pixel_range(PIXELS),
        {"pixels": "flat", "black to white": (-1, 3)},
    ),
    "cost": (
        lambda *_: explore.explore_cost({"slow": 1.8}),
        {"images": 100, "steps": 25, "GPUs": 8},
    ),
}
every_explorer = pytest.mark.parametrize(
    ("make", "changes"),
    [pytest.param(*case, id=name) for name, case in (REFINING | OTHERS).items()],
)
every_refining_one = pytest.mark.parametrize(
    ("make", "changes"),
    [pytest.param(*case, id=name) for name, case in REFINING.items()],
)


@pytest.fixture(scope="module")
def of_kind(tmp_path_factory):
    """Return a function that makes a tiny prior of a kind, told of three classes."""
    root = tmp_path_factory.mktemp("kinds")

    @functools.cache
    def load(kind):
        prior = load_prior(KINDS[kind](root / kind), device="cpu")
        few = DistilledSet(torch.zeros(1, 3, 16, 16), [0], NAMES)
        return RecoveryJob(few, prior, RecoveryConfig()).prior

    return load


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """Stand still before the first picture of a step is due: none is drawn."""
    clock = SimpleNamespace(now=-1.0)
    monkeypatch.setattr(explore, "monotonic", lambda: clock.now)
    return clock


@pytest.fixture(autouse=True)
def drawn(monkeypatch):
    """Collect what explorers draw: rows (or times), title, and titles of columns."""
    calls = []

    def record(function):
        def draw(rows, column_titles=(), *, title="", **options):
            calls.append((dict(rows), title, list(column_titles)))
            if column_titles:
                options["column_titles"] = column_titles
            return function(rows, title=title, **options)

        return draw

    for name in ("image_grid", "duration_bars"):
        monkeypatch.setattr(explore, name, record(getattr(explore, name)))
    return calls


@pytest.fixture
def passes(tiny_prior, monkeypatch):
    """Collect the timesteps of all calls of the network: each costs a reader time."""
    calls = []
    forward = tiny_prior.transformer.forward

    def count(latents, timestep, *args, **options):
        calls.append(int(timestep[0]))
        return forward(latents, timestep, *args, **options)

    monkeypatch.setattr(tiny_prior.transformer, "forward", count)
    return calls


@pytest.fixture
def few_steps(monkeypatch):
    """Let every recovery take 8 steps instead of 36: the rest looks the same."""
    new = RecoveryConfig.__init__
    monkeypatch.setattr(new, "__defaults__", (10, *new.__defaults__[1:]))
    assert RecoveryConfig().num_inference_steps == 10


@pytest.fixture
def few(tiny_set):
    """Return two images of two classes."""
    return tiny_set[[0, 2]]


def control(box, description):
    """Return the control of an explorer that has this description."""
    (found,) = (
        child
        for child in box.children
        if getattr(child, "description", None) == description
    )
    return found


def last_row(drawn):
    """Return the row of the latest picture that its controls change."""
    return torch.as_tensor([*drawn[-1][0].values()][-1])


# ------------------------------------------------------------------- every explorer


@every_explorer
def test_controls_stand_above_a_picture(make, changes, few, tiny_prior, drawn):
    box = make(few, tiny_prior)
    assert isinstance(box, widgets.VBox)
    assert repr(box).startswith("Run this cell")  # what a stored notebook shows
    *controls, picture, message = box.children
    assert [c.description for c in controls] == [*changes]
    assert not any(getattr(c, "continuous_update", False) for c in controls)
    # an Output makes whoever runs notebooks without a browser miss replies
    assert isinstance(picture, widgets.Image)
    assert Image.open(io.BytesIO(picture.value)).format == "WEBP"
    assert picture.format == "webp"
    assert len(drawn) == 1
    alt, _, title = picture.tooltip.partition(". ")
    assert len(alt) > 15
    assert title == (drawn[-1][1] or "")
    # ipywidgets asks a tooltip's widget for the length of its description
    assert picture.get_state()["description"] == ""
    assert message.value == ""


@every_explorer
def test_every_control_changes_the_picture(
    make, changes, few, tiny_prior, drawn, few_steps
):
    box = make(few, tiny_prior)
    picture = box.children[-2]
    for description, value in changes.items():
        rows, shown, before = drawn[-1][0], picture.value, last_row(drawn)
        control(box, description).value = value
        assert not torch.equal(last_row(drawn), before), description
        assert picture.value != shown, description
        if "distilled" in rows:
            assert torch.equal(drawn[-1][0]["distilled"], few.images)


@every_refining_one
def test_the_picture_follows_the_steps(
    make, changes, few, tiny_prior, drawn, clock, monkeypatch, few_steps
):
    """Frames show latents on their way, one per step here, and change no result."""
    # a change after which every explorer refines anew
    description, value = [item for item in changes.items() if item[0] != "class"][-1]
    control(make(few, tiny_prior), description).value = value
    expected = drawn[-1]

    clock.now = 0.0  # always due
    drawn.clear()
    box, shown = make(few, tiny_prior), []
    assert len(drawn) == 1  # nobody sees the first picture before it is finished
    # encoding takes most of the time
    title = lambda figure, _: figure.axes[0].get_title().encode()  # noqa: E731
    monkeypatch.setattr(explore, "encode_figure", title)
    box.children[-2].observe(lambda change: shown.append(change.new), "value")
    drawn.clear()
    control(box, description).value = value
    *frames, last = drawn
    assert torch.equal(last_row(drawn), [*expected[0].values()][-1])
    assert last[1:] == expected[1:]
    steps = [int(re.fullmatch(r"t = (\d+) \.\.\.", title)[1]) for _, title, _ in frames]
    assert steps[-1] == 0
    rises = sum(a <= b for a, b in pairwise(steps))
    assert rises == (make in (explore.explore_window, priors))  # these refine twice
    pictures = [[*rows.values()][-1] for rows, _, _ in frames]
    assert not any(torch.equal(a, b) for a, b in pairwise(pictures))
    assert shown == [(title or "").encode() for _, title, _ in drawn]


@every_refining_one
def test_priors_of_another_kind_are_shown_and_followed(
    make, changes, of_kind, drawn, clock, monkeypatch, few_steps
):
    prior = of_kind("turbo")
    images = torch.rand(2, 3, 16, 16, generator=torch.manual_seed(0))
    box = make(DistilledSet(images, [0, 2], prior.class_names), prior)
    # Stable Diffusion's schedule ends below the noise levels that others change to
    names = [name for name in changes if name not in ("class", "noise timestep")]
    clock.now = 0.0  # a picture is always due
    monkeypatch.setattr(explore, "encode_figure", lambda *_: b"")  # takes most time
    drawn.clear()
    control(box, names[-1]).value = changes[names[-1]]
    assert box.children[-1].value == ""
    *frames, _ = drawn
    assert len(frames) >= (3 if make is scale else 8)
    assert all(re.fullmatch(r"t = \d+ \.\.\.", title) for _, title, _ in frames)


@pytest.mark.parametrize("kind", OTHER_KINDS)
def test_noise_level_means_the_same_on_any_schedule(kind, of_kind, drawn):
    """At t = 500 of DiT's schedule 7.78% are signal, and the loop begins from there."""
    prior = of_kind(kind)
    images = torch.rand(2, 3, 32, 32, generator=torch.manual_seed(0))
    few = DistilledSet(images, [0, 2], prior.class_names)
    box = explore.explore_noise_level(few, prior)
    assert drawn[-1][1] == "signal: 7.78% told (t = 500), 7.78% there (t = 500)"
    noisy, config = [], RecoveryConfig(noise_timestep=500, guidance_factor=0.0)
    with pytest.MonkeyPatch.context() as patch:
        real = prior.denoise
        patch.setattr(prior, "denoise", lambda z, *a: noisy.append(z) or real(z, *a))
        recover(few, prior, config, progress=False)
    begun = prior.decode(noisy[0])
    torch.testing.assert_close(drawn[-1][0]["noised latent"], begun)
    control(box, "noise timestep").value = 980
    said = box.children[-1].value
    if kind == "flow":
        assert said == ""
    else:
        assert "noise_timestep: timestep is 980; expected a noise level" in said


def test_a_prior_of_words_needs_some(of_kind):
    silent = replace(of_kind("turbo"), class_names=())
    with pytest.raises(InputError, match=r"classes is 0; expected at least"):
        explore.explore_guidance_scale(silent)


def test_following_takes_a_fifth_of_the_time(tiny_prior, clock, monkeypatch):
    """A picture takes 1 s here, a step 0.5 s."""

    def answer(*_):
        clock.now += 0.5

    def see(figure):
        clock.now += 1.0
        seen.append(figure.axes[0].get_title())

    clock.now, seen = 0.0, []
    monkeypatch.setattr(tiny_prior, "denoise", answer)
    followed = copy(explore._Rows(see).follow(tiny_prior))  # copies are followed, too
    z = torch.zeros(1, *tiny_prior.latent_shape)
    for timestep in range(39, -1, -1):
        followed.denoise(z, timestep, torch.tensor([0]), 1.0)
    assert seen == [f"t = {t} ..." for t in (39, 31, 23, 15, 7)]
    assert followed.class_names is tiny_prior.class_names


def test_what_fails_later_is_said_below_the_controls(few, tiny_prior, monkeypatch):
    box = explore.explore_recovery(few, tiny_prior)
    picture, message = box.children[-2:]

    def fail(*_, **__):
        raise error

    error = InputError("seed is None")
    with monkeypatch.context() as patch:
        patch.setattr(explore, "recover", fail)
        control(box, "window").value = "late"
        assert (message.value, picture.layout.visibility) == ("seed is None", "hidden")
        error = RuntimeError("out of memory")  # of which a log should have the rest
        with pytest.raises(RuntimeError, match="out of memory"):
            control(box, "window").value = "early"
        assert message.value == "out of memory"
    control(box, "window").value = "full"
    assert (message.value, picture.layout.visibility) == ("", "visible")


@pytest.mark.parametrize("name", [n for n in REFINING if n != "guidance_scale"])
def test_classes_the_prior_does_not_know(name, tiny_prior):
    strange = DistilledSet(torch.rand(1, 3, 32, 32), [0], ["unicorn"])
    with pytest.raises(InputError, match="unicorn"):
        REFINING[name][0](strange, tiny_prior)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s, p: explore.explore_before_after({}, p, METHODS), "sets is {}"),
        (lambda s, p: explore.explore_before_after({"x": s}, p, {}), "methods is {}"),
        (lambda s, p: explore.explore_priors(s, {}), "priors is {}"),
        (lambda s, p: explore.explore_pixel_range({}), "sets is {}"),
        (
            lambda s, p: explore.explore_colour(torch.rand(2, 1, 8, 8)),
            r"\(N, 3, H, W\)",
        ),
        *(
            (lambda s, p, t=times: explore.explore_cost(t), "seconds")
            for times in ({}, {"a": 0.0}, {"a": float("nan")})
        ),
        *(
            (
                lambda s, p, n=steps: explore.explore_guidance_scale(
                    p, num_inference_steps=n
                ),
                "num_inference_steps",
            )
            for steps in (0, 2.5, 1001)
        ),
    ],
)
def test_what_can_not_be_shown(call, message, few, tiny_prior):
    with pytest.raises(InputError, match=message):
        call(few, tiny_prior)


# ------------------------------------------------------------------ one after another


def test_recovery_shows_the_package_s_own_result(few, tiny_prior, drawn):
    explore.explore_recovery(few, tiny_prior)
    rows, _, _ = drawn[-1]
    assert [*rows] == ["distilled", "refined"]
    expected = recover(few, tiny_prior, progress=False).images
    assert torch.equal(rows["refined"], expected)


def test_noise_level_shows_both_ends_of_the_reverse_process(few, tiny_prior, drawn):
    box = explore.explore_noise_level(few, tiny_prior)
    rows, title, _ = drawn[-1]
    assert [*rows] == ["distilled", "noised latent", "recovered"]
    expected = recover(few, tiny_prior, SI, progress=False).images
    assert torch.equal(rows["recovered"], expected)
    alphas_cumprod = tiny_prior.scheduler.alphas_cumprod
    z_0 = tiny_prior.encode(few.images.clamp(0, 1))
    noise = draw_noise(tiny_prior.latent_shape, range(2), seed=0)
    shares = tiny_prior.signal_and_noise(500)
    noised = tiny_prior.decode(inherit(z_0, noise, *shares))
    assert torch.equal(rows["noised latent"], noised)
    there = f"{alphas_cumprod[500]:.2%} there (t = 500)"
    assert title == f"signal: {alphas_cumprod[500]:.2%} told (t = 500), {there}"

    control(box, "start").value = "published"
    rows, title, _ = drawn[-1]
    assert title == f"signal: {alphas_cumprod[980]:.2%} told (t = 980), {there}"
    # where the reverse process starts changes nothing before it
    assert torch.equal(rows["noised latent"], noised)
    for description, value in {"noise timestep": 800, "seed": 3}.items():
        before = drawn[-1][0]["noised latent"]
        control(box, description).value = value
        assert not torch.equal(drawn[-1][0]["noised latent"], before)


def test_reverse_process_walks_through_the_steps(few, tiny_prior, drawn, passes):
    box = explore.explore_reverse_process(few, tiny_prior)
    visited = RecoveryConfig().timesteps(tiny_prior)
    assert passes == visited
    rows, title, _ = drawn[-1]
    assert [*rows] == ["distilled", "noisy latent", "predicted clean"]
    assert title == f"t = {visited[0]}: concrete phase, pulled"
    control(box, "timestep").value = 100
    assert drawn[-1][1] == "t = 100: refinement phase, not pulled"
    assert passes == visited  # moving along the steps decodes, and no more

    control(box, "timestep").value = 0
    result = recover(few, tiny_prior, progress=False)
    last = drawn[-1][0]["noisy latent"]
    torch.testing.assert_close(last, result.images, rtol=0, atol=1e-5)


def test_reverse_process_follows_level_and_window(few, tiny_prior, drawn, passes):
    box = explore.explore_reverse_process(few, tiny_prior)
    control(box, "noise timestep").value = 300
    assert passes[-1] == 0
    # the step nearest to the timestep still asked for, 700, is the first one
    assert drawn[-1][1] == "t = 300: refinement phase, not pulled"
    control(box, "window").value = "late"
    assert drawn[-1][1] == "t = 300: concrete phase, pulled"
    count = len(passes)
    control(box, "window").value = "published"  # has been here before
    assert len(passes) == count
    control(box, "window").value = "none"
    assert drawn[-1][1].endswith("not pulled")


def test_window_changes_the_result(few, tiny_prior, drawn):
    box = explore.explore_window(few, tiny_prior)
    rows, title, _ = drawn[-1]
    assert [*rows] == ["distilled", "no pull", "pull in the window"]
    assert title == "pulled while 816 >= t > 510: 10 of 36 steps"
    expected = recover(few, tiny_prior, RecoveryConfig(), progress=False)
    assert torch.equal(rows["pull in the window"], expected.images)
    assert not torch.equal(rows["pull in the window"], rows["no pull"])

    control(box, "window").value = (-1, 400)
    late, title, _ = drawn[-1]
    assert title == "pulled while 400 >= t > -1: 21 of 36 steps"
    assert torch.equal(late["no pull"], rows["no pull"])


def test_window_above_the_start_never_acts(few, tiny_prior, drawn):
    box = explore.explore_window(few, tiny_prior)
    control(box, "window").value = (816, 1000)
    rows, title, _ = drawn[-1]
    assert title == "pulled while 1000 >= t > 816: 0 of 36 steps"
    assert torch.equal(rows["pull in the window"], rows["no pull"])
    control(box, "noise timestep").value = 900
    rows, title, _ = drawn[-1]
    assert title == "pulled while 1000 >= t > 816: 5 of 46 steps"
    assert not torch.equal(rows["pull in the window"], rows["no pull"])


def test_window_without_a_factor_is_no_pull(few, tiny_prior, drawn, passes):
    box = explore.explore_window(few, tiny_prior)
    once = len(RecoveryConfig().timesteps(tiny_prior))
    assert len(passes) == 2 * once
    control(box, "guidance factor").value = 0
    rows, _, _ = drawn[-1]
    assert torch.equal(rows["pull in the window"], rows["no pull"])
    assert len(passes) == 3 * once  # the row without a pull was kept


def test_guidance_factor_measures_distances(few, tiny_prior, drawn):
    box = explore.explore_guidance_factor(few, tiny_prior)
    first, title, _ = drawn[-1]
    assert [*first] == ["distilled", "no pull", "pulled"]
    config = RecoveryConfig(window="full")
    expected = recover(few, tiny_prior, config, progress=False).images
    assert torch.equal(first["pulled"], expected)
    away = (expected - few.images.clamp(0, 1)).abs().mean().item()
    assert f"{away:.3f} pulled" in title
    assert not torch.equal(first["pulled"], first["no pull"])

    control(box, "guidance factor").value = 0
    rows, title, _ = drawn[-1]
    assert torch.equal(rows["no pull"], first["no pull"])
    assert torch.equal(rows["pulled"], rows["no pull"])
    pulled, without = re.findall(r"\d\.\d{3}", title)
    assert pulled == without
    readings = {
        "guidance_target": ("latent", "x0"),
        "guidance_sigma": ("posterior", "marginal", "signal", "one"),
    }
    for field, choices in readings.items():
        offered = control(box, field.replace("_", " ")).options
        assert tuple(offered) == choices


def test_guidance_scale_shows_samples_of_the_raw_prior(few, tiny_prior, drawn):
    box = scale(few, tiny_prior)
    control(box, "CFG scale").value = 4.0
    mixed, _, titles = drawn[-1]
    assert titles == list(tiny_prior.class_names)
    names, labels = tiny_prior.class_names, torch.arange(10)
    request = DistilledSet(torch.zeros(10, 3, 32, 32), labels, names)
    config = RecoveryConfig(num_inference_steps=3, guidance_scale=4.0)
    expected = raw_prior(request, tiny_prior, config, seed=0, progress=False).images
    torch.testing.assert_close(mixed["scale 4"], expected)

    control(box, "class").value = 3
    one, _, titles = drawn[-1]
    assert titles == [names[3]] * 10
    # the same noise: the image that was of class 3 before has not changed
    torch.testing.assert_close(one["scale 4"][3], expected[3])
    assert (one["scale 4"][4] - expected[4]).abs().max() > 1e-3


def test_guidance_scale_refuses_more_steps_than_a_short_schedule_has(
    tiny_prior, monkeypatch
):
    import diffusers

    short = diffusers.DDIMScheduler(num_train_timesteps=10, clip_sample=False)
    monkeypatch.setattr(tiny_prior, "scheduler", short)
    with pytest.raises(InputError, match="at most T = 10"):
        explore.explore_guidance_scale(tiny_prior, num_inference_steps=20)


def test_priors_have_a_row_each(few, tiny_prior, drawn):
    priors(few, tiny_prior)
    rows, title, _ = drawn[-1]
    assert [*rows] == ["distilled", "a", "b"]
    assert title == "recovered from 500"
    for name, class_map in {"a": None, "b": REVERSE}.items():
        options = {"class_map": class_map, "progress": False}
        expected = recover(few, tiny_prior, SI, **options).images
        assert torch.equal(rows[name], expected)
    assert not torch.equal(rows["a"], rows["b"])


def test_before_after_shows_one_image_of_each_class(tiny_set, tiny_prior, drawn):
    box = explore.explore_before_after({"dm": tiny_set}, tiny_prior, METHODS)
    rows, titles = drawn[-1][0], drawn[-1][2]
    first = range(0, 20, 2)
    whole = recover(tiny_set, tiny_prior, METHODS["SI"], progress=False).images
    assert torch.equal(rows["before"], tiny_set.images[first])
    assert torch.equal(rows["after"], whole[first])
    assert titles == [*tiny_set.class_names]
    moved = (whole[first] - tiny_set.images[first].clamp(0, 1)).abs().mean()
    assert drawn[-1][1] == f"dm, SI: a pixel changes by {moved:.3f}"

    with pytest.MonkeyPatch.context() as patch:  # another class shows what is kept
        patch.delattr(explore, "recover")
        control(box, "class").value = 9
    rows, _, titles = drawn[-1]
    assert torch.equal(rows["after"], whole[18:])
    assert titles == [tiny_set.class_names[9]] * 2


def test_before_after_names_a_class_without_images(few, tiny_prior, drawn):
    box = before_after(few, tiny_prior)
    control(box, "class").value = 9
    assert len(drawn) == 1
    assert box.children[-1].value == f"dm has no image of {few.class_names[9]}"


def test_colour_changes_brightness_saturation_and_contrast(drawn):
    box = explore.explore_colour(COLOUR)
    rows, title, _ = drawn[-1]  # at first nothing is changed
    torch.testing.assert_close(rows["after"], COLOUR)
    assert title == "0% of the values outside [0, 1]"
    for description, value in OTHERS["colour"][1].items():
        control(box, description).value = value
    rows, title, _ = drawn[-1]
    expected = augment.shift_colour(COLOUR, 0.3, 2.0, 1.5)
    torch.testing.assert_close(rows["after"], expected)
    outside = ((expected < 0) | (expected > 1)).float().mean()
    assert title == f"{outside:.0%} of the values outside [0, 1]"
    assert outside > 0.1


def test_saturation_means_nothing_to_grey_images():
    """A third of DSA's family "color" is idle on grey images, three channels or not."""
    grey = torch.rand(2, 1, 8, 8).expand(-1, 3, -1, -1)
    for saturation in (0.0, 0.5, 2.0):
        torch.testing.assert_close(augment.shift_colour(grey, 0, saturation, 1), grey)
    changed = augment.shift_colour(COLOUR, 0, 0.0, 1)
    grey = COLOUR.mean(1, True).expand(-1, 3, -1, -1)
    torch.testing.assert_close(changed, grey)


def test_pixel_range_chooses_what_is_black_and_white(drawn):
    box = explore.explore_pixel_range(PIXELS)
    shown = control(box, "black to white")
    assert (shown.min, shown.max) == (-1, 3)
    rows, title, _ = drawn[-1]  # the last set, cut off where a screen would
    torch.testing.assert_close(rows["ramp"], RAMP)
    below, above = (RAMP < 0).float().mean(), (RAMP > 1).float().mean()
    assert title == f"below black {below:.0%}, above white {above:.0%}"
    shown.value = (-1, 3)
    rows, title, _ = drawn[-1]
    torch.testing.assert_close(rows["ramp"], (RAMP + 1) / 4)
    assert title == "below black 0%, above white 0%"
    shown.value = (0.5, 0.5)
    assert torch.isfinite(drawn[-1][0]["ramp"]).all()
    control(box, "pixels").value = "flat"
    assert [*drawn[-1][0]] == ["flat"]

    box = explore.explore_pixel_range({"ordinary": torch.rand(1, 3, 8, 8)})
    shown = control(box, "black to white")
    assert (shown.min, shown.max) == (0, 1)


def test_cost_multiplies(drawn):
    box = explore.explore_cost({"slow": 1.8, "fast": 0.05})
    times = {"slow": 90_000, "fast": 2_500}
    assert drawn[-1][:2] == (times, "50,000 images, 50 steps, 1 GPU")
    control(box, "GPUs").value = 8
    control(box, "steps").value = 25
    times, title, _ = drawn[-1]
    assert times["slow"] == pytest.approx(90_000 / 16)
    assert title == "50,000 images, 25 steps, 8 GPUs"
    control(box, "images").value = 10  # two images for the busiest GPU
    assert drawn[-1][0]["slow"] == pytest.approx(1.8)


@pytest.mark.parametrize(
    ("arguments", "seconds"),
    [((10, 50, 4), 6.0), ((10, 50, 100), 2.0), ((10, 100, 1), 40.0)],
)
def test_whole_images_are_shared_out(arguments, seconds):
    assert explore.wall_seconds(2.0, *arguments) == seconds


def test_bars_say_their_times():
    figure = duration_bars({"a": 0.3, "b": 90_000}, title="two")
    texts = {text.get_text() for text in figure.axes[0].texts}
    assert texts == {"0.3 s", "25 h"}


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.03, "0.03 s"),
        (75, "75 s"),
        (120, "2 min"),
        (5_400, "1.5 h"),
        (129_600, "1.5 days"),
    ],
)
def test_units_of_time(seconds, text):
    assert duration(seconds) == text
