"""Live explorers for JupyterLab: controls above a picture that follows them.

In the built book no kernel answers, so there `figures.frame_slider` shows precomputed
frames instead.

Every explorer returns a widget, and takes a few images, as it computes anew when a
slider is released; where it runs the reverse process, the picture shows the latents on
their way. Sets whose classes a prior doesn't know, and what else can't be shown, raise
`InputError` at once. Source of all: ours; what the paper shows is named.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from inspect import Parameter
from time import monotonic
from typing import Any, get_args, get_type_hints

import ipywidgets as widgets
import torch
from matplotlib.figure import Figure
from torch import Tensor
from traitlets import Unicode

from diver_lite.book.figures import duration_bars, encode_figure, image_grid
from diver_lite.checks import InputError, floats, require
from diver_lite.distilled import DistilledSet
from diver_lite.judge.augment import shift_colour
from diver_lite.prior import Prior, draw_noise
from diver_lite.recovery import (
    WINDOWS,
    RecoveryConfig,
    Step,
    inherit,
    recover,
    recover_steps,
)
from diver_lite.sets.classes import in_order_of, prior_classes

DEFAULT = RecoveryConfig()
HINTS = get_type_hints(RecoveryConfig)
# Controls are given as ipywidgets abbreviates them: (lowest, highest, step), or a list.
LEVEL, SCALE, FACTOR, SEED = (0, 980, 20), (1.0, 6.0, 0.5), (0.0, 0.5, 0.05), (0, 9)
WINDOW = [*WINDOWS]
# argument of `show` -> where its control begins, if not at the first or in the middle
STARTS = vars(DEFAULT) | {"timestep": DEFAULT.noise_timestep, "seed": 0}
# and what stands beside it, if not the argument's name
BESIDE = {
    "guidance_scale": "CFG scale",
    "class_label": "class",
    "name": "set",
    "gpus": "GPUs",
}


def explore_recovery(distilled: DistilledSet, prior: Prior) -> widgets.VBox:
    """Show what noise level, guidance and window make of a few distilled images."""

    def show(follow, **settings):
        rows = {"distilled": distilled.images}
        _refine(rows, "refined", follow, distilled, prior, RecoveryConfig(**settings))
        return image_grid(rows, scale=1.2)

    return _live(
        show,
        "Distilled images, and the same images refined",
        noise_timestep=LEVEL,
        guidance_scale=SCALE,
        guidance_factor=FACTOR,
        window=WINDOW,
    )


def explore_noise_level(distilled: DistilledSet, prior: Prior) -> widgets.VBox:
    """Show the noise level of inheritance, and both readings of where it starts.

    The title gives the share of signal that the first step is told, and the share that
    is there. Guidance towards the inherited latents is off. Source: the paper's sweep
    of forward steps, made to move.
    """
    z_0 = prior.encode(prior.fit_images(distilled.images).clamp(0, 1))
    alphas_cumprod = prior.scheduler.alphas_cumprod

    def show(follow, seed, **settings):
        config = RecoveryConfig(guidance_factor=0.0, **settings)
        told, there = config.timesteps(prior)[0], config.noise_timestep
        noise = _noise(prior, len(distilled), seed).to(z_0)
        noised = prior.decode(inherit(z_0, noise, alphas_cumprod[there]))
        rows = {"distilled": distilled.images, "noised latent": noised}
        _refine(rows, "recovered", follow, distilled, prior, config, seed=seed)
        title = f"signal: {alphas_cumprod[told]:.2%} told (t = {told}), "
        title += f"{alphas_cumprod[there]:.2%} there (t = {there})"
        return image_grid(rows, scale=1.2, title=title)

    return _live(
        show,
        "Distilled images, their noised latents, and what the prior makes of them",
        noise_timestep=widgets.IntSlider(500, *LEVEL),
        start=["matched", "published"],
        seed=SEED,
    )


def explore_reverse_process(distilled: DistilledSet, prior: Prior) -> widgets.VBox:
    """Walk through one refinement, step by step.

    Latents are decoded, those of the step nearest to the chosen timestep. A new noise
    level or window refines anew; moving along the steps only decodes what is kept.
    Source: the paper's figure on semantic evolution, made to move.
    """
    classes = prior_classes(distilled, prior)
    z_0 = prior.encode(prior.fit_images(distilled.images).clamp(0, 1))
    noise = _noise(prior, len(distilled), seed=0).to(z_0)
    kept: dict[tuple, list[Step]] = {}

    def show(follow, timestep, **settings):
        rows, key = {"distilled": distilled.images}, tuple(settings.values())
        if key not in kept:
            config = RecoveryConfig(**settings)
            followed = follow(prior, rows, "noisy latent")
            kept[key] = [*recover_steps(z_0, classes, followed, config, noise=noise)]
        step = min(kept[key], key=lambda step: abs(step.timestep - timestep))
        rows["noisy latent"] = prior.decode(step.latents)
        rows["predicted clean"] = prior.decode(step.pred_original)
        pull = "pulled" if step.guided else "not pulled"
        title = f"t = {step.timestep}: {step.phase} phase, {pull}"
        return image_grid(rows, scale=1.2, title=title)

    return _live(
        show,
        "Distilled images, and the noisy and the predicted clean latents of one step",
        timestep=LEVEL,
        noise_timestep=LEVEL,
        window=WINDOW,
    )


def explore_window(distilled: DistilledSet, prior: Prior) -> widgets.VBox:
    """Show what the window does in which semantic guidance acts, and at how many steps.

    Source: the paper's comparison of windows, made to move.
    """
    unguided: dict[int, Tensor] = {}

    def show(follow, window, noise_timestep, **settings):
        low, high = window
        settings |= {"noise_timestep": noise_timestep, "window": (high, low)}
        config = RecoveryConfig(**settings)
        rows = {"distilled": distilled.images}
        if noise_timestep not in unguided:
            plain = replace(config, guidance_factor=0.0)
            _refine(rows, "no pull", follow, distilled, prior, plain)
            unguided[noise_timestep] = rows["no pull"]
        rows["no pull"] = unguided[noise_timestep]
        _refine(rows, "pull in the window", follow, distilled, prior, config)
        visited = config.timesteps(prior)
        guided = sum(config.phase(t) == "semantic" for t in visited)
        title = f"pulled while {high} >= t > {low}: {guided} of {len(visited)} steps"
        return image_grid(rows, scale=1.2, title=title)

    high, low = WINDOWS["published"]
    return _live(
        show,
        "Distilled images, refined without a pull and with it inside the window",
        window=widgets.IntRangeSlider(value=(low, high), min=-1, max=1000),
        guidance_factor=FACTOR,
        noise_timestep=LEVEL,
    )


def explore_guidance_factor(distilled: DistilledSet, prior: Prior) -> widgets.VBox:
    """Show what the guidance factor does, and both readings of what it pulls.

    The title gives the mean absolute distance to the distilled images, in pixels on
    the [0, 1] scale. Source: the paper's sweep of the guidance factor, made to move.
    """
    everywhere = RecoveryConfig(window="full")
    plain = replace(everywhere, guidance_factor=0.0)
    unguided = recover(distilled, prior, plain, progress=False).images

    def show(follow, **settings):
        rows = {"distilled": distilled.images, "no pull": unguided}
        config = replace(everywhere, **settings)
        _refine(rows, "pulled", follow, distilled, prior, config)
        given = distilled.images
        pulled, without = _change(given, rows["pulled"]), _change(given, unguided)
        title = f"distance to the distilled images: {pulled:.3f} pulled, "
        title += f"{without:.3f} without"
        return image_grid(rows, scale=1.2, title=title)

    return _live(
        show,
        "Distilled images, refined without a pull and with it at every step",
        guidance_factor=(0.0, 1.0, 0.05),
        guidance_target=[*get_args(HINTS["guidance_target"])],
        guidance_sigma=[*get_args(HINTS["guidance_sigma"])],
    )


def explore_guidance_scale(
    prior: Prior, *, num_inference_steps: int = 20
) -> widgets.VBox:
    """Show what the scale of classifier-free guidance does to raw samples.

    All are of one draw of noise, so that only the controls change the picture. Fewer
    steps of each sample answer faster.
    """
    base = RecoveryConfig(
        num_inference_steps=num_inference_steps, inheritance=False, guidance_factor=0.0
    )

    def show(follow, guidance_scale, class_label, seed):
        mixed = torch.arange(10) % prior.num_classes
        labels = mixed if class_label is None else torch.full_like(mixed, class_label)
        noise = _noise(prior, len(labels), seed)
        nothing = torch.zeros_like(noise)  # without inheritance nobody reads it
        config = replace(base, guidance_scale=guidance_scale)
        titles = [prior.class_names[label] for label in labels.tolist()]
        name, look = f"scale {guidance_scale:g}", {"column_titles": titles, "scale": 1}
        followed = follow(prior, {}, name, **look)
        *_, last = recover_steps(nothing, labels, followed, config, noise=noise)
        return image_grid({name: prior.decode(last.latents)}, **look)

    return _live(
        show,
        "Ten samples of the prior",
        guidance_scale=SCALE,
        class_label=_classes("ten classes", prior.class_names),
        seed=SEED,
    )


def explore_colour(images: Tensor) -> widgets.VBox:
    """Show what `judge.augment.shift_colour` does to images (N, 3, H, W) in [0, 1].

    The title says which share of the values leaves the visible range.
    """
    floats(images, "images", ["N", 3, "H", "W"])

    def show(_, brightness, saturation, contrast):
        changed = shift_colour(images, brightness, saturation, contrast)
        outside = ((changed < 0) | (changed > 1)).float().mean()
        title = f"{outside:.0%} of the values outside [0, 1]"
        return image_grid({"before": images, "after": changed}, scale=1.2, title=title)

    return _live(
        show,
        "Images before and after a change of brightness, saturation and contrast",
        brightness=(-0.5, 0.5, 0.05),
        saturation=(0.0, 2.0, 0.1),
        contrast=(0.5, 1.5, 0.05),
    )


def explore_pixel_range(sets: Mapping[str, Tensor]) -> widgets.VBox:
    """Show which pixel values count as black and as white, and what that cuts off.

    Args:
        sets: name -> images (N,3,H,W) or (N,1,H,W), float of any range.
    """
    require(len(sets) > 0, "sets", sets, "at least one name with images")
    lowest = min(0.0, *(float(images.min()) for images in sets.values()))
    highest = max(1.0, *(float(images.max()) for images in sets.values()))

    def show(_, pixels, black_to_white):
        images, (black, white) = sets[pixels], black_to_white
        title = f"below black {(images < black).float().mean():.0%}, "
        title += f"above white {(images > white).float().mean():.0%}"
        visible = (images - black) / max(white - black, 1e-6)
        return image_grid({pixels: visible}, scale=1.2, title=title)

    return _live(
        show,
        "Images, drawn from black to white",
        pixels=widgets.SelectionSlider(options=[*sets], index=len(sets) - 1),
        black_to_white=widgets.FloatRangeSlider(
            value=(0.0, 1.0), min=lowest, max=highest, step=0.05
        ),
    )


def explore_cost(seconds_per_image: Mapping[str, float]) -> widgets.VBox:
    """Show how long each way to run takes, for any number of images, steps and GPUs.

    Args:
        seconds_per_image: name of a way to run -> its measured seconds per image, > 0,
            with 50 steps, on one GPU.
    """

    def show(_, images, steps, gpus):
        ways = seconds_per_image.items()
        times = {name: wall_seconds(s, images, steps, gpus) for name, s in ways}
        title = f"{images:,} images, {steps} steps, {gpus} GPU" + "s" * (gpus > 1)
        return duration_bars(times, title=title)

    sizes = [(f"{n:,}", n) for n in (10, 100, 500, 1_000, 10_000, 50_000)]
    return _live(
        show,
        "Bars of the time that each way takes",
        images=widgets.SelectionSlider(options=sizes, index=len(sizes) - 1),
        steps=widgets.IntSlider(50, 5, 250, 5),
        gpus=widgets.IntSlider(1, 1, 64),
    )


def wall_seconds(
    seconds_per_image: float, num_images: int, num_inference_steps: int, gpus: int
) -> float:
    """Return the time that the busiest GPU needs, start and disk left out.

    `seconds_per_image` is measured with 50 steps. Whole images are shared out among
    equal GPUs: images are independent, and the network is nearly all of a step.
    """
    return seconds_per_image * math.ceil(num_images / gpus) * num_inference_steps / 50


def explore_priors(
    distilled: DistilledSet,
    priors: Mapping[str, Prior],
    class_maps: Mapping[str, Sequence[int]] | None = None,
) -> widgets.VBox:
    """Show a few images as several priors recover them, one row each.

    Args:
        distilled: a few images.
        priors: name -> diffusion prior.
        class_maps: name of a prior -> its class for each class of the set, for those
            priors that don't know the set's class names.
    """
    require(len(priors) > 0, "priors", priors, "at least one name with a prior")

    def show(follow, seed, **settings):
        config = RecoveryConfig(guidance_factor=0.0, **settings)
        rows = {"distilled": distilled.images}
        for name, prior in priors.items():
            options = {"seed": seed, "class_map": (class_maps or {}).get(name)}
            _refine(rows, name, follow, distilled, prior, config, **options)
        title = f"recovered from {config.noise_timestep}"
        return image_grid(rows, scale=1.2, title=title)

    return _live(
        show,
        "Distilled images, and the same images as each prior recovers them",
        noise_timestep=widgets.IntSlider(500, *LEVEL),
        guidance_scale=SCALE,
        seed=SEED,
    )


def explore_before_after(
    sets: Mapping[str, DistilledSet],
    prior: Prior,
    methods: Mapping[str, RecoveryConfig],
) -> widgets.VBox:
    """Show what becomes of the images of one class, or of the first one of each.

    Args:
        sets: name -> distilled set, all with the same classes. A new set, method or
            seed refines a whole set; another class only shows what is kept.
        prior: the diffusion prior.
        methods: name -> settings, as `diver_lite.make.baselines.variants` returns them.

    Source: the paper's galleries, made to move.
    """
    require(len(sets) > 0, "sets", sets, "at least one name with a set")
    require(len(methods) > 0, "methods", methods, "at least one name with settings")
    names = next(iter(sets.values())).class_names
    sets = {
        name: in_order_of(distilled, names, f"set {name!r}", "the first set")
        for name, distilled in sets.items()
    }
    for distilled in sets.values():
        prior_classes(distilled, prior)  # fail here, not when it is chosen
    kept: dict[tuple, Tensor] = {}

    def show(follow, name, method, class_label, seed):
        distilled, key = sets[name], (name, method, seed)
        labels = distilled.labels.tolist()
        chosen = [i for i, label in enumerate(labels) if label == class_label]
        if class_label is None:
            chosen = [labels.index(label) for label in sorted(set(labels))]
        elif not chosen:
            raise InputError(f"{name} has no image of {names[class_label]}")
        if key not in kept:  # a batch at a time, so not always of the chosen ones
            whole, small = {}, partial(follow, scale=1)
            config = methods[method]
            _refine(whole, "under way", small, distilled, prior, config, seed=seed)
            kept[key] = whole["under way"]
        rows = {"before": distilled.images[chosen], "after": kept[key][chosen]}
        titles = [names[labels[i]] for i in chosen]
        moved = _change(rows["before"], rows["after"])
        title = f"{name}, {method}: a pixel changes by {moved:.3f}"
        return image_grid(rows, titles, scale=1, title=title)

    return _live(
        show,
        "Images before and after their recovery",
        name=[*sets],
        method=[*methods],
        class_label=_classes("one of each", names),
        seed=SEED,
    )


def _refine(rows, name, follow, distilled, prior, config, **options) -> None:
    """Recover a set as another row, which the picture shows on its way."""
    followed = follow(prior, rows, name)
    result = recover(distilled, followed, config, progress=False, **options)
    rows[name] = result.images


def _change(images: Tensor, others: Tensor) -> float:
    return (others - images.clamp(0, 1)).abs().mean().item()


def _noise(prior: Prior, count: int, seed: int) -> Tensor:
    return draw_noise(prior.latent_shape, range(count), seed)[0]


def _classes(several: str, names: Sequence[str]) -> list[tuple[str, int | None]]:
    return [(several, None), *((name, i) for i, name in enumerate(names))]


class _Followed(Prior):
    """A prior that shows, now and then, the latents about which it is asked.

    It answers as the prior does, so `recover` takes it. Pictures take at most a fifth
    of the time: after each one it waits four times as long.
    """

    def __init__(self, prior: Prior, see: Callable[[Tensor, str], None]) -> None:
        parts = (prior.transformer, prior.vae, prior.scheduler)
        super().__init__(*parts, prior.class_names, prior.info)
        self._prior, self._see, self._due = prior, see, 0.0

    def prepare(self, timesteps: Sequence[int], class_labels: Tensor) -> None:
        self._prior.prepare(timesteps, class_labels)

    def predict_noise(self, latents: Tensor, timestep: int, *args, **options) -> Tensor:
        if (started := monotonic()) >= self._due:
            self._see(self._prior.decode(latents), f"t = {int(timestep)} ...")
            self._due = monotonic() + 4 * (monotonic() - started)
        return self._prior.predict_noise(latents, timestep, *args, **options)


class _Picture(widgets.Image):
    """A picture whose tooltip is its text for readers who don't see it.

    In the browser an `Image` sets no `alt`, and a tooltip asks for a description.
    """

    description = Unicode("").tag(sync=True)

    def draw(self, figure: Figure, alt: str) -> None:
        title = figure.axes[0].get_title()
        with self.hold_sync():  # one message for both
            self.tooltip = f"{alt}. {title}" if title else alt
            self.value = encode_figure(figure, "webp")


def _live(show: Callable[..., Figure], alt: str, **given: Any) -> widgets.VBox:
    """Stack the controls above the figure that `show` returns for their values.

    The picture is an `Image`, not an `Output`: whoever runs a notebook without a
    browser answers each message of an `Output`, and may miss a reply meanwhile.

    Args:
        show: called as `show(follow, **values)`. `follow(prior, rows, name, **look)`
            returns a prior to recover with: while it is used, the picture shows
            `rows` and, as row `name`, the latents on their way.
        alt: what the picture shows, for readers who don't see it.
        given: argument of `show` -> its control, or what ipywidgets makes one of.
    """
    controls: dict[str, Any] = {}
    for name, abbreviation in given.items():
        start = STARTS.get(name, Parameter.empty)
        control: Any = widgets.interactive.widget_from_abbrev(abbreviation, start)
        controls[name] = control
        control.description = BESIDE.get(name, name.replace("_", " "))
        control.style.description_width, control.layout.width = "9em", "32em"
        if control.has_trait("continuous_update"):
            control.continuous_update = False  # call when released, not while it moves
    picture, message = _Picture(format="webp"), widgets.Label()
    picture.layout = {"align_self": "flex-start", "max_width": "100%"}  # not stretched

    def follow(prior, rows, name, scale=1.2, **look):
        def see(images, title):
            figure = image_grid(rows | {name: images}, scale=scale, title=title, **look)
            picture.draw(figure, alt)

        # nobody sees the first picture before it is finished
        return _Followed(prior, see) if picture.value else prior

    def update(_=None):
        values = {name: control.value for name, control in controls.items()}
        message.value, picture.layout.visibility = "", "visible"
        try:
            picture.draw(show(follow, **values), alt)
        except Exception as error:
            message.value, picture.layout.visibility = str(error), "hidden"
            if not picture.value or not isinstance(error, InputError):
                raise  # the first time to the caller, later into the log

    update()
    for control in controls.values():
        control.observe(update, "value")
    return widgets.VBox([*controls.values(), picture, message])
