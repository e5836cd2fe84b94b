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
from inspect import Parameter
from time import monotonic
from typing import Any, get_args, get_type_hints

import ipywidgets as widgets
import torch
from matplotlib.figure import Figure
from torch import Tensor
from traitlets import Unicode

from bookkit.figures import duration_bars, encode_figure, image_grid
from diver_lite.checks import InputError, floats, require
from diver_lite.judge.augment import shift_colour
from diver_lite.priors.contract import Prior, Wrapped, fit_images
from diver_lite.priors.schedule import draw_noise
from diver_lite.recovery import (
    WINDOWS,
    RecoveryConfig,
    RecoveryJob,
    Step,
    recover,
    recover_steps,
)
from diver_lite.sets.classes import in_order_of, prior_classes
from diver_lite.sets.distilled import DistilledSet

HINTS = get_type_hints(RecoveryConfig)
# argument of `show` -> its control, as ipywidgets abbreviates it: (lowest, highest,
# step) or a list of choices
CONTROLS = {
    "noise_timestep": (0, 980, 20),
    "timestep": (0, 980, 20),
    "start": ["matched", "published"],
    "guidance_scale": (1.0, 6.0, 0.5),
    "guidance_factor": (0.0, 0.5, 0.05),
    "guidance_target": [*get_args(HINTS["guidance_target"])],
    "guidance_sigma": [*get_args(HINTS["guidance_sigma"])],
    "window": [*WINDOWS],
    "seed": (0, 9),
}
# and where it begins, if not at the first or in the middle
STARTS = vars(RecoveryConfig()) | {"timestep": 700, "seed": 0}
# and what stands beside it, if not the argument's name
BESIDE = {"guidance_scale": "CFG scale", "class_label": "class", "name": "set"}
BESIDE |= {"gpus": "GPUs"}


def explore_recovery(distilled: DistilledSet, prior: Prior) -> widgets.VBox:
    """Show what noise level, guidance and window make of a few distilled images."""

    def show(rows, **settings):
        rows["distilled"] = distilled.images
        rows.refine("refined", distilled, prior, RecoveryConfig(**settings))
        return rows.figure()

    names = ["noise_timestep", "guidance_scale", "guidance_factor", "window"]
    return _live(show, "Distilled images, and the same images refined", names)


def explore_noise_level(distilled: DistilledSet, prior: Prior) -> widgets.VBox:
    """Show the noise level of inheritance, and both readings of where it starts.

    The title gives the share of signal that the first step is told, and the share that
    is there. Guidance towards the inherited latents is off. Source: the paper's sweep
    of forward steps, made to move.
    """
    z_0 = prior.encode(fit_images(distilled.images, prior).clamp(0, 1))

    def signal(timestep):  # its share of the variance, as abar of DiT's schedule
        alpha, sigma = prior.signal_and_noise(timestep)
        return f"{alpha**2 / (alpha**2 + sigma**2):.2%}"

    def show(rows, seed, **settings):
        config = RecoveryConfig(guidance_factor=0.0, **settings)
        told = config.timesteps(prior)[0]
        there = config.noise_timestep
        noise = draw_noise(prior.latent_shape, range(len(z_0)), seed)
        alpha, sigma = prior.signal_and_noise(there)
        rows["distilled"] = distilled.images
        rows["noised latent"] = prior.decode(alpha * z_0 + sigma * noise.to(z_0))
        rows.refine("recovered", distilled, prior, config, seed=seed)
        title = f"signal: {signal(told)} told (t = {told:.0f}), "
        return rows.figure(f"{title}{signal(there)} there (t = {there})")

    return _live(
        show,
        "Distilled images, their noised latents, and what the prior makes of them",
        ["noise_timestep", "start", "seed"],
        noise_timestep=widgets.IntSlider(500, *CONTROLS["noise_timestep"]),
    )


def explore_reverse_process(distilled: DistilledSet, prior: Prior) -> widgets.VBox:
    """Walk through one refinement, step by step.

    Latents are decoded, those of the step nearest to the chosen timestep. A new noise
    level or window refines anew; moving along the steps only decodes what is kept.
    Source: the paper's figure on semantic evolution, made to move.
    """
    job = RecoveryJob(distilled, prior, RecoveryConfig())
    z_0 = prior.encode(fit_images(distilled.images, prior).clamp(0, 1))
    noise = draw_noise(prior.latent_shape, range(len(z_0)), seed=0).to(z_0)
    kept: dict[tuple, list[Step]] = {}

    def show(rows, timestep, **settings):
        rows["distilled"], key = distilled.images, tuple(settings.values())
        if key not in kept:
            config, followed = RecoveryConfig(**settings), rows.follow(job.prior)
            steps = recover_steps(z_0, job.classes, followed, config, noise=noise)
            kept[key] = [*steps]
        step = min(kept[key], key=lambda step: abs(step.timestep - timestep))
        rows["noisy latent"] = prior.decode(step.latents)
        rows["predicted clean"] = prior.decode(step.pred_original)
        pull = "pulled" if step.guided else "not pulled"
        return rows.figure(f"t = {step.timestep:.0f}: {step.phase} phase, {pull}")

    return _live(
        show,
        "Distilled images, and the noisy and the predicted clean latents of one step",
        ["timestep", "noise_timestep", "window"],
    )


def explore_window(distilled: DistilledSet, prior: Prior) -> widgets.VBox:
    """Show what the window does in which semantic guidance acts, and at how many steps.

    Source: the paper's comparison of windows, made to move.
    """
    unguided: dict[int, Tensor] = {}

    def show(rows, window, noise_timestep, **settings):
        low, high = window
        config = RecoveryConfig(
            noise_timestep=noise_timestep, window=(high, low), **settings
        )
        rows["distilled"] = distilled.images
        if noise_timestep not in unguided:
            plain = replace(config, guidance_factor=0.0)
            unguided[noise_timestep] = rows.refine("no pull", distilled, prior, plain)
        rows["no pull"] = unguided[noise_timestep]
        rows.refine("pull in the window", distilled, prior, config)
        visited = config.timesteps(prior)
        guided = sum(config.phase(t) == "concrete" for t in visited)
        steps = f"{guided} of {len(visited)} steps"
        return rows.figure(f"pulled while {high} >= t > {low}: {steps}")

    return _live(
        show,
        "Distilled images, refined without a pull and with it inside the window",
        ["window", "guidance_factor", "noise_timestep"],
        window=widgets.IntRangeSlider(
            value=WINDOWS["published"][::-1], min=-1, max=1000
        ),
    )


def explore_guidance_factor(distilled: DistilledSet, prior: Prior) -> widgets.VBox:
    """Show what the guidance factor does, and both readings of what it pulls.

    The title gives the mean absolute distance to the distilled images, in pixels on
    the [0, 1] scale. Source: the paper's sweep of the guidance factor, made to move.
    """
    everywhere = RecoveryConfig(window="full")
    plain = replace(everywhere, guidance_factor=0.0)
    unguided = recover(distilled, prior, plain, progress=False).images

    def show(rows, **settings):
        rows |= {"distilled": distilled.images, "no pull": unguided}
        config = replace(everywhere, **settings)
        pulled = rows.refine("pulled", distilled, prior, config)
        away, without = (_change(distilled.images, x) for x in (pulled, unguided))
        distances = f"{away:.3f} pulled, {without:.3f} without"
        return rows.figure(f"distance to the distilled images: {distances}")

    return _live(
        show,
        "Distilled images, refined without a pull and with it at every step",
        ["guidance_factor", "guidance_target", "guidance_sigma"],
        guidance_factor=(0.0, 1.0, 0.05),
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
    require(
        len(prior.class_names) > 0, "number of the prior's classes", 0, "at least one"
    )
    unseen = torch.zeros(10, 3, prior.image_size, prior.image_size)

    def show(rows, guidance_scale, class_label, seed):
        labels = torch.arange(10) % len(prior.class_names)
        labels = labels if class_label is None else labels * 0 + class_label
        asked = DistilledSet(unseen, labels, prior.class_names)
        titles = [prior.class_names[label] for label in labels.tolist()]
        rows.look = {"column_titles": titles, "scale": 1}
        config = replace(base, guidance_scale=guidance_scale)
        rows.refine(f"scale {guidance_scale:g}", asked, prior, config, seed=seed)
        return rows.figure()

    return _live(
        show,
        "Ten samples of the prior",
        ["guidance_scale", "class_label", "seed"],
        class_label=_classes("ten classes", prior.class_names),
    )


def explore_colour(images: Tensor) -> widgets.VBox:
    """Show what `judge.augment.shift_colour` does to images (N, 3, H, W) in [0, 1].

    The title says which share of the values leaves the visible range.
    """
    floats(images, "images", ["N", 3, "H", "W"])

    def show(rows, **shifts):
        rows |= {"before": images, "after": shift_colour(images, **shifts)}
        outside = ((rows["after"] < 0) | (rows["after"] > 1)).float().mean()
        return rows.figure(f"{outside:.0%} of the values outside [0, 1]")

    return _live(
        show,
        "Images before and after a change of brightness, saturation and contrast",
        brightness=(-0.5, 0.5, 0.05),
        saturation=(0.0, 2.0, 0.1),
        contrast=(0.5, 1.5, 0.05),
    )


def explore_pixel_range(sets: Mapping[str, Tensor]) -> widgets.VBox:
    """Show which pixel values count as black and as white, and what that cuts off.

    Sets are name -> images (N,3,H,W) or (N,1,H,W), float of any range.
    """
    require(len(sets) > 0, "sets", sets, "at least one name with images")
    lowest = min(0.0, *(float(images.min()) for images in sets.values()))
    highest = max(1.0, *(float(images.max()) for images in sets.values()))

    def show(rows, pixels, black_to_white):
        images, (black, white) = sets[pixels], black_to_white
        rows[pixels] = (images - black) / max(white - black, 1e-6)
        below, above = ((x.float().mean()) for x in (images < black, images > white))
        return rows.figure(f"below black {below:.0%}, above white {above:.0%}")

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
    """Show a few images as several priors (by name) recover them, one row each.

    `class_maps`: name of a prior -> its class for each class of the set, for those
    priors that don't know the set's class names.
    """
    require(len(priors) > 0, "priors", priors, "at least one name with a prior")
    maps = class_maps or {}

    def show(rows, seed, **settings):
        config = RecoveryConfig(guidance_factor=0.0, **settings)
        rows["distilled"] = distilled.images
        for name, prior in priors.items():
            how = {"seed": seed, "class_map": maps.get(name)}
            rows.refine(name, distilled, prior, config, **how)
        return rows.figure(f"recovered from {config.noise_timestep}")

    return _live(
        show,
        "Distilled images, and the same images as each prior recovers them",
        ["noise_timestep", "guidance_scale", "seed"],
        noise_timestep=widgets.IntSlider(500, *CONTROLS["noise_timestep"]),
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

    def show(rows, name, method, class_label, seed):
        distilled, key = sets[name], (name, method, seed)
        labels = distilled.labels.tolist()
        chosen = [i for i, label in enumerate(labels) if label == class_label]
        if class_label is None:
            chosen = [labels.index(label) for label in sorted(set(labels))]
        elif not chosen:
            raise InputError(f"{name} has no image of {names[class_label]}")
        rows.look = {"scale": 1}
        if key not in kept:  # a batch at a time, so not always of the chosen ones
            config = methods[method]
            kept[key] = rows.refine("under way", distilled, prior, config, seed=seed)
            del rows["under way"]
        rows |= {"before": distilled.images[chosen], "after": kept[key][chosen]}
        rows.look["column_titles"] = [names[labels[i]] for i in chosen]
        moved = _change(rows["before"], rows["after"])
        return rows.figure(f"{name}, {method}: a pixel changes by {moved:.3f}")

    return _live(
        show,
        "Images before and after their recovery",
        ["name", "method", "class_label", "seed"],
        name=[*sets],
        method=[*methods],
        class_label=_classes("one of each", names),
    )


def _change(images: Tensor, others: Tensor) -> float:
    return (others - images.clamp(0, 1)).abs().mean().item()


def _classes(several: str, names: Sequence[str]) -> list[tuple[str, int | None]]:
    return [(several, None), *((name, i) for i, name in enumerate(names))]


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


class _Rows(dict[str, Tensor]):
    """Rows of images, which may be shown before all are there."""

    def __init__(self, see: Callable[[Figure], None] | None) -> None:
        self.look: dict[str, Any] = {"scale": 1.2}
        self._see = see

    def figure(self, title: str | None = None, **more: Tensor) -> Figure:
        return image_grid(self | more, title=title, **self.look)

    def refine(self, name, distilled, prior, config, **options) -> Tensor:
        """Recover a set as another row, on its way from noise to the result."""
        followed = self.follow(prior, name)
        result = recover(distilled, followed, config, progress=False, **options)
        self[name] = result.images
        return result.images

    def follow(self, prior: Prior, name: str = "noisy latent") -> Prior:
        """Return a prior that shows, now and then, the latents about which it is asked.

        Pictures take at most a fifth of the time: after each one it waits four times as
        long.
        """
        see = self._see
        if see is None:
            return prior
        return _Followed(prior, lambda t, rows: see(self.figure(t, **rows)), name)


class _Followed(Wrapped):
    """A prior that shows, now and then, the latents about which it is asked."""

    def __init__(self, prior: Prior, show: Callable[..., None], name: str) -> None:
        super().__init__(prior)
        self.show = show
        self.name = name
        self.due = 0.0

    def denoise(
        self,
        latents: Tensor,
        timestep: float,
        class_labels: Tensor,
        guidance_scale: float,
    ) -> tuple[Tensor, Tensor]:
        started = monotonic()
        if started >= self.due:
            rows = {self.name: self.prior.decode(latents)}
            self.show(f"t = {int(timestep)} ...", rows)
            self.due = monotonic() + 4 * (monotonic() - started)
        return self.prior.denoise(latents, timestep, class_labels, guidance_scale)


class _Explorer(widgets.VBox):
    """What a stored notebook shows in its place, where no kernel has run, is a hint."""

    def __repr__(self) -> str:
        return "Run this cell: here come controls, and a picture that follows them."


def _live(
    show: Callable[..., Figure], alt: str, names: Sequence[str] = (), **given: Any
) -> widgets.VBox:
    """Stack the controls above the figure that `show` returns for their values.

    The picture is an `Image`, not an `Output`: whoever runs a notebook without a
    browser answers each message of an `Output`, and may miss a reply meanwhile.

    Args:
        show: called as `show(rows, **values)`, with `_Rows` to fill.
        alt: what the picture shows, for readers who don't see it.
        names: arguments of `show`, in the order of their controls; default: of `given`.
        given: argument -> its control, or what ipywidgets makes one of, where it is
            not that of `CONTROLS`.
    """
    controls: dict[str, Any] = {}
    for name in names or given:
        abbreviation = given.get(name, CONTROLS.get(name))
        start: Any = STARTS.get(name, Parameter.empty)
        control: Any = widgets.interactive.widget_from_abbrev(abbreviation, start)
        controls[name] = control
        control.description = BESIDE.get(name, name.replace("_", " "))
        control.style.description_width, control.layout.width = "9em", "32em"
        if control.has_trait("continuous_update"):
            control.continuous_update = False  # call when released, not while it moves
    picture, message = _Picture(format="webp"), widgets.Label()
    picture.layout = {"align_self": "flex-start", "max_width": "100%"}  # not stretched

    def see(figure):
        picture.draw(figure, alt)

    def update(_=None):
        values = {name: control.value for name, control in controls.items()}
        message.value, picture.layout.visibility = "", "visible"
        rows = _Rows(see if picture.value else None)  # the first one when finished
        try:
            see(show(rows, **values))
        except Exception as error:
            message.value, picture.layout.visibility = str(error), "hidden"
            if not picture.value or not isinstance(error, InputError):
                raise  # the first time to the caller, later into the log

    update()
    for control in controls.values():
        control.observe(update, "value")
    return _Explorer([*controls.values(), picture, message])
