"""Live explorers for JupyterLab: sliders that recompute.

In the built book no kernel answers, so there `figures.frame_slider` shows precomputed
frames instead.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import ipywidgets as widgets
import matplotlib.pyplot as plt
import torch
from IPython.display import display
from torch import Tensor

from diver_lite.augment import shift_colour
from diver_lite.classes import in_order_of, prior_classes
from diver_lite.distilled import DistilledSet
from diver_lite.errors import InputError
from diver_lite.figures import duration_bars, image_grid
from diver_lite.prior import Prior
from diver_lite.recovery import (
    CHOICES,
    WINDOWS,
    RecoveryConfig,
    Step,
    draw_noise,
    inherit,
    recover,
    recover_steps,
)


def explore_recovery(distilled: DistilledSet, prior: Prior) -> widgets.Widget:
    """Show sliders for noise level and guidance that recompute a refinement.

    Args:
        distilled: a few images; each change refines all of them anew.
        prior: the diffusion prior.

    Returns:
        A widget whose picture follows the sliders when they are released.

    Source: ours.
    """
    default = RecoveryConfig()
    options = {"continuous_update": False, "style": {"description_width": "9em"}}
    level = widgets.IntSlider(
        int(default.noise_timestep), 0, 980, 20, description="noise timestep", **options
    )
    scale = widgets.FloatSlider(
        default.guidance_scale,
        min=1,
        max=6,
        step=0.5,
        description="CFG scale",
        **options,
    )
    gamma = widgets.FloatSlider(
        default.guidance_factor,
        min=0,
        max=0.5,
        step=0.05,
        description="guidance factor",
        **options,
    )
    window = widgets.Dropdown(
        options=["published", "late", "early", "full", "none"],
        value=default.window if isinstance(default.window, str) else "full",
        description="window",
        style={"description_width": "9em"},
    )

    def show(noise_timestep, guidance_scale, guidance_factor, window):
        config = RecoveryConfig(
            noise_timestep=noise_timestep,
            guidance_scale=guidance_scale,
            guidance_factor=guidance_factor,
            window=window,
        )
        result = recover(distilled, prior, config, progress=False)
        figure = image_grid(
            {"distilled": distilled.images, "refined": result.images}, scale=1.2
        )
        display(figure)
        plt.close(figure)

    controls = {
        "noise_timestep": level,
        "guidance_scale": scale,
        "guidance_factor": gamma,
        "window": window,
    }
    picture = widgets.interactive_output(show, controls)
    return widgets.VBox([*controls.values(), picture])


def explore_noise_level(distilled: DistilledSet, prior: Prior) -> widgets.Widget:
    """Show a slider for the noise level of inheritance, and both readings of the start.

    Args:
        distilled: a few images; each change refines all of them anew, without guidance
            towards the inherited latents.
        prior: the diffusion prior.

    Returns:
        A widget that shows the noised latents, decoded, and what the prior makes of
        them; its title gives the share of signal that the first step is told, and the
        share that is there.

    Raises:
        InputError: classes that the prior doesn't know.

    Source: ours; the paper's sweep of forward steps, made to move.
    """
    prior_classes(distilled, prior)  # fail here, not inside a callback
    z_0 = prior.encode(prior.fit_images(distilled.images).clamp(0, 1))
    alphas_cumprod = prior.scheduler.alphas_cumprod

    def show(noise_timestep, start, seed):
        config = RecoveryConfig(
            noise_timestep=noise_timestep, start=start, guidance_factor=0.0
        )
        indices = range(len(distilled))
        (noise,) = draw_noise(prior.latent_shape, indices, seed)
        z = inherit(z_0, noise.to(z_0), alphas_cumprod[noise_timestep])
        rows = {
            "distilled": distilled.images,
            "noised latent": prior.decode(z),
            "recovered": recover(
                distilled, prior, config, seed=seed, progress=False
            ).images,
        }
        told = config.timesteps(prior)[0]
        title = f"signal: {alphas_cumprod[told]:.2%} told (t = {told}), "
        title += f"{alphas_cumprod[noise_timestep]:.2%} there (t = {noise_timestep})"
        figure = image_grid(rows, scale=1.2, title=title)
        display(figure)
        plt.close(figure)

    return _interactive(
        show,
        noise_timestep=_slider(widgets.IntSlider, 500, 0, 980, 20, "noise timestep"),
        start=widgets.Dropdown(
            options=["matched", "published"],
            value="matched",
            description="start",
            style={"description_width": "9em"},
        ),
        seed=_slider(widgets.IntSlider, 0, 0, 9, 1, "seed"),
    )


def explore_reverse_process(distilled: DistilledSet, prior: Prior) -> widgets.Widget:
    """Show a slider that walks through one refinement, step by step.

    Args:
        distilled: a few images; a new noise level or window refines all of them anew,
            moving along the steps only decodes what is kept.
        prior: the diffusion prior.

    Returns:
        A widget that shows, for the step nearest to the chosen timestep, the noisy
        latent and the clean one that the prior predicts, both decoded.

    Raises:
        InputError: classes that the prior doesn't know.

    Source: ours; the paper's figure on semantic evolution, made to move.
    """
    classes = prior_classes(distilled, prior)
    z_0 = prior.encode(prior.fit_images(distilled.images).clamp(0, 1))
    (noise,) = draw_noise(prior.latent_shape, range(len(distilled)), seed=0)
    kept: dict[tuple, list[Step]] = {}

    def show(timestep, noise_timestep, window):
        key = (noise_timestep, window)
        if key not in kept:
            config = RecoveryConfig(noise_timestep=noise_timestep, window=window)
            steps = recover_steps(z_0, classes, prior, config, noise=noise.to(z_0))
            kept[key] = list(steps)
        step = min(kept[key], key=lambda step: abs(step.timestep - timestep))
        rows = {
            "distilled": distilled.images,
            "noisy latent": prior.decode(step.latents),
            "predicted clean": prior.decode(step.pred_original),
        }
        pull = "pulled" if step.guided else "not pulled"
        title = f"t = {step.timestep}: {step.phase} phase, {pull}"
        figure = image_grid(rows, scale=1.2, title=title)
        display(figure)
        plt.close(figure)

    default = RecoveryConfig()
    level = int(default.noise_timestep)
    return _interactive(
        show,
        timestep=_slider(widgets.IntSlider, level, 0, 980, 20, "timestep"),
        noise_timestep=_slider(widgets.IntSlider, level, 0, 980, 20, "noise timestep"),
        window=_window_dropdown(),
    )


def explore_window(distilled: DistilledSet, prior: Prior) -> widgets.Widget:
    """Show a range slider for the window in which semantic guidance acts.

    Args:
        distilled: a few images; each change refines all of them anew.
        prior: the diffusion prior.

    Returns:
        A widget that shows the refinement without a pull and with the pull inside
        the window, and says at how many of the steps it acted.

    Raises:
        InputError: classes that the prior doesn't know.

    Source: ours; the paper's comparison of windows, made to move.
    """
    prior_classes(distilled, prior)  # fail here, not inside a callback
    unguided: dict[int, Tensor] = {}

    def show(window, guidance_factor, noise_timestep):
        low, high = window
        config = RecoveryConfig(
            noise_timestep=noise_timestep,
            guidance_factor=guidance_factor,
            window=(high, low),
        )
        if noise_timestep not in unguided:
            plain = replace(config, guidance_factor=0.0)
            result = recover(distilled, prior, plain, progress=False)
            unguided[noise_timestep] = result.images
        pulled = recover(distilled, prior, config, progress=False).images
        visited = config.timesteps(prior)
        guided = sum(config.phase(t) == "semantic" for t in visited)
        rows = {
            "distilled": distilled.images,
            "no pull": unguided[noise_timestep],
            "pull in the window": pulled,
        }
        title = f"pulled while {high} >= t > {low}: {guided} of {len(visited)} steps"
        figure = image_grid(rows, scale=1.2, title=title)
        display(figure)
        plt.close(figure)

    default = RecoveryConfig()
    high, low = WINDOWS["published"]
    gamma, level = default.guidance_factor, int(default.noise_timestep)
    return _interactive(
        show,
        window=_slider(widgets.IntRangeSlider, (low, high), -1, 1000, 1, "window"),
        guidance_factor=_slider(
            widgets.FloatSlider, gamma, 0, 0.5, 0.05, "guidance factor"
        ),
        noise_timestep=_slider(widgets.IntSlider, level, 0, 980, 20, "noise timestep"),
    )


def explore_guidance_factor(distilled: DistilledSet, prior: Prior) -> widgets.Widget:
    """Show a slider for the guidance factor, and both readings of what it pulls.

    Args:
        distilled: a few images; each change refines all of them anew, with guidance at
            every step.
        prior: the diffusion prior.

    Returns:
        A widget that shows the refinement without a pull and with it, and the mean
        absolute distance of both to the distilled images, in pixels on the [0, 1]
        scale.

    Raises:
        InputError: classes that the prior doesn't know.

    Source: ours; the paper's sweep of the guidance factor, made to move.
    """
    prior_classes(distilled, prior)  # fail here, not inside a callback
    default = RecoveryConfig(window="full")
    plain = replace(default, guidance_factor=0.0)
    unguided = recover(distilled, prior, plain, progress=False).images

    def show(guidance_factor, guidance_target, guidance_sigma):
        config = replace(
            default,
            guidance_factor=guidance_factor,
            guidance_target=guidance_target,
            guidance_sigma=guidance_sigma,
        )
        rows = {
            "distilled": distilled.images,
            "no pull": unguided,
            "pulled": recover(distilled, prior, config, progress=False).images,
        }
        away = {
            name: (images - distilled.images.clamp(0, 1)).abs().mean().item()
            for name, images in rows.items()
        }
        title = f"distance to the distilled images: {away['pulled']:.3f} pulled, "
        title += f"{away['no pull']:.3f} without"
        figure = image_grid(rows, scale=1.2, title=title)
        display(figure)
        plt.close(figure)

    return _interactive(
        show,
        guidance_factor=_slider(
            widgets.FloatSlider, default.guidance_factor, 0, 1, 0.05, "guidance factor"
        ),
        guidance_target=_dropdown("guidance_target", default.guidance_target),
        guidance_sigma=_dropdown("guidance_sigma", default.guidance_sigma),
    )


def explore_guidance_scale(
    prior: Prior, *, num_inference_steps: int = 20
) -> widgets.Widget:
    """Show a slider for the scale of classifier-free guidance on raw samples.

    Args:
        prior: the diffusion prior; each change draws ten samples anew.
        num_inference_steps: DDIM steps of each sample; fewer answer faster.

    Returns:
        A widget that shows samples from one draw of noise, ten different classes or
        ten of one class, so that only the controls change the picture.

    Raises:
        InputError: a number of steps that the schedule lacks.

    Source: ours.
    """
    base = RecoveryConfig(
        num_inference_steps=num_inference_steps, inheritance=False, guidance_factor=0.0
    )
    base.timesteps(prior)  # fail here, not inside a callback
    count = 10

    def show(guidance_scale, class_label, seed):
        mixed = torch.arange(count) % prior.num_classes
        labels = mixed if class_label is None else torch.full_like(mixed, class_label)
        (noise,) = draw_noise(prior.latent_shape, range(count), seed)
        config = replace(base, guidance_scale=guidance_scale)
        nothing = torch.zeros_like(noise)  # without inheritance nobody reads it
        *_, last = recover_steps(nothing, labels, prior, config, noise=noise)
        titles = [prior.class_names[label] for label in labels.tolist()]
        row = {f"scale {guidance_scale:g}": prior.decode(last.latents)}
        figure = image_grid(row, titles, scale=1.0)
        display(figure)
        plt.close(figure)

    names = [(name, index) for index, name in enumerate(prior.class_names)]
    return _interactive(
        show,
        guidance_scale=_slider(
            widgets.FloatSlider, base.guidance_scale, 1, 6, 0.5, "CFG scale"
        ),
        class_label=widgets.Dropdown(
            options=[("ten classes", None), *names],
            value=None,
            description="class",
            style={"description_width": "9em"},
        ),
        seed=_slider(widgets.IntSlider, 0, 0, 9, 1, "seed"),
    )


def explore_colour(images: Tensor) -> widgets.Widget:
    """Show sliders for the three colour operations of DSA.

    Args:
        images: (N, 3, H, W) float on the [0, 1] scale.

    Returns:
        A widget that shows the images before and after, and which share of the values
        the operation moves out of the visible range.

    Raises:
        InputError: not three channels.

    Source: ours; the operations: see `diver_lite.augment.shift_colour`.
    """
    if images.ndim != 4 or images.shape[1] != 3:
        raise InputError(f"images are {tuple(images.shape)}; expected (N, 3, H, W)")

    def show(brightness, saturation, contrast):
        changed = shift_colour(images, brightness, saturation, contrast)
        outside = ((changed < 0) | (changed > 1)).float().mean()
        rows = {"before": images, "after": changed}
        title = f"{outside:.0%} of the values outside [0, 1]"
        figure = image_grid(rows, scale=1.2, title=title)
        display(figure)
        plt.close(figure)

    return _interactive(
        show,
        brightness=_slider(widgets.FloatSlider, 0.0, -0.5, 0.5, 0.05, "brightness"),
        saturation=_slider(widgets.FloatSlider, 1.0, 0, 2, 0.1, "saturation"),
        contrast=_slider(widgets.FloatSlider, 1.0, 0.5, 1.5, 0.05, "contrast"),
    )


def explore_pixel_range(sets: Mapping[str, Tensor]) -> widgets.Widget:
    """Show a range slider for the pixel values that count as black and as white.

    Args:
        sets: name -> images (N,3,H,W) or (N,1,H,W), float of any range; a second slider
            chooses among them.

    Returns:
        A widget that shows the chosen images, and how many of their pixels are cut off
        at either end.

    Raises:
        InputError: no sets.

    Source: ours: distilled pixels run far outside the visible range.
    """
    if not sets:
        raise InputError("sets is empty; expected at least one name with images")
    lowest = min(float(images.min()) for images in sets.values())
    highest = max(float(images.max()) for images in sets.values())

    def show(name, shown):
        images, (black, white) = sets[name], shown
        title = f"below black {(images < black).float().mean():.0%}, "
        title += f"above white {(images > white).float().mean():.0%}"
        visible = (images - black) / max(white - black, 1e-6)
        figure = image_grid({name: visible}, scale=1.2, title=title)
        display(figure)
        plt.close(figure)

    names = list(sets)
    return _interactive(
        show,
        name=widgets.SelectionSlider(
            options=names,
            value=names[-1],
            description="pixels",
            continuous_update=False,
            style={"description_width": "9em"},
            layout={"width": "32em"},
        ),
        shown=_slider(
            widgets.FloatRangeSlider,
            (0.0, 1.0),
            min(lowest, 0.0),
            max(highest, 1.0),
            0.05,
            "black to white",
        ),
    )


def explore_cost(seconds_per_image: Mapping[str, float]) -> widgets.Widget:
    """Show sliders for images, steps and GPUs, and how long each way would take.

    Args:
        seconds_per_image: name of a way to run -> its measured seconds per image, with
            50 steps, on one GPU.

    Returns:
        A widget that shows the wall times as bars.

    Raises:
        InputError: nothing to show, or a time that isn't positive.

    Source: ours.
    """
    duration_bars(seconds_per_image)  # fail here, not inside a callback

    def show(num_images, num_inference_steps, gpus):
        times = {
            name: wall_seconds(each, num_images, num_inference_steps, gpus)
            for name, each in seconds_per_image.items()
        }
        title = f"{num_images:,} images, {num_inference_steps} steps, {gpus} GPU"
        figure = duration_bars(times, title=title + "s" * (gpus > 1))
        display(figure)
        plt.close(figure)

    sizes = [10, 100, 500, 1_000, 10_000, 50_000]
    return _interactive(
        show,
        num_images=widgets.SelectionSlider(
            options=[(f"{n:,}", n) for n in sizes],
            value=sizes[-1],
            description="images",
            continuous_update=False,
            style={"description_width": "9em"},
            layout={"width": "32em"},
        ),
        num_inference_steps=_slider(widgets.IntSlider, 50, 5, 250, 5, "steps"),
        gpus=_slider(widgets.IntSlider, 1, 1, 64, 1, "GPUs"),
    )


def wall_seconds(
    seconds_per_image: float, num_images: int, num_inference_steps: int, gpus: int
) -> float:
    """Return the time that the busiest GPU needs, start and disk left out.

    Args:
        seconds_per_image: measured with 50 steps.
        num_images: how many to recover, >= 1.
        num_inference_steps: steps that are taken of the reverse process, >= 1.
        gpus: equal ones, among which whole images are shared out, >= 1.

    Source: ours: images are independent, and the network is nearly all of a step.
    """
    return seconds_per_image * math.ceil(num_images / gpus) * num_inference_steps / 50


def explore_priors(
    distilled: DistilledSet,
    priors: Mapping[str, Prior],
    class_maps: Mapping[str, Sequence[int]] | None = None,
) -> widgets.Widget:
    """Show one set as several priors recover it, with a slider for the noise level.

    Args:
        distilled: a few images; each change refines all of them anew.
        priors: name -> diffusion prior.
        class_maps: name of a prior -> its class for each class of the set, for those
            priors that don't know the set's class names.

    Returns:
        A widget with one row per prior below the distilled images.

    Raises:
        InputError: no priors, or classes that one of them doesn't know.

    Source: ours.
    """
    if not priors:
        raise InputError("priors is empty; expected at least one name with a prior")
    maps = {name: (class_maps or {}).get(name) for name in priors}
    for name, prior in priors.items():
        prior_classes(distilled, prior, maps[name])  # fail here, not in a callback

    def show(noise_timestep, guidance_scale, seed):
        config = RecoveryConfig(
            noise_timestep=noise_timestep,
            guidance_scale=guidance_scale,
            guidance_factor=0.0,
        )
        rows = {"distilled": distilled.images}
        for name, prior in priors.items():
            options = {"seed": seed, "class_map": maps[name], "progress": False}
            rows[name] = recover(distilled, prior, config, **options).images
        figure = image_grid(rows, scale=1.2, title=f"recovered from {noise_timestep}")
        display(figure)
        plt.close(figure)

    return _interactive(
        show,
        noise_timestep=_slider(widgets.IntSlider, 500, 0, 980, 20, "noise timestep"),
        guidance_scale=_slider(widgets.FloatSlider, 1.5, 1, 6, 0.5, "CFG scale"),
        seed=_slider(widgets.IntSlider, 0, 0, 9, 1, "seed"),
    )


def explore_before_after(
    sets: Mapping[str, DistilledSet],
    prior: Prior,
    methods: Mapping[str, RecoveryConfig],
) -> widgets.Widget:
    """Show menus of sets, methods and classes, and what becomes of the images.

    Args:
        sets: name -> distilled set, all with the same classes; a new set, method or
            seed refines a whole set, another class only shows what is kept.
        prior: the diffusion prior.
        methods: name -> settings, as `diver_lite.baselines.variants` returns them.

    Returns:
        A widget that shows images before and after, of one class or the first one of
        each, and by how much a pixel has changed, on the [0, 1] scale.

    Raises:
        InputError: no sets, no methods, or classes that the prior doesn't know.

    Source: ours; the paper's galleries, made to move.
    """
    if not sets or not methods:
        raise InputError(
            f"found {len(sets)} sets and {len(methods)} methods; expected at least one "
            "of each"
        )
    names = next(iter(sets.values())).class_names
    sets = {
        name: in_order_of(distilled, names, f"set {name!r}", "the first set")
        for name, distilled in sets.items()
    }
    for distilled in sets.values():
        prior_classes(distilled, prior)  # fail here, not inside a callback
    kept: dict[tuple, Tensor] = {}

    def show(name, method, class_label, seed):
        distilled, config = sets[name], methods[method]
        if (name, method, seed) not in kept:
            result = recover(distilled, prior, config, seed=seed, progress=False)
            kept[name, method, seed] = result.images
        labels = distilled.labels.tolist()
        if class_label is None:
            chosen = [labels.index(label) for label in sorted(set(labels))]
        else:
            chosen = [i for i, label in enumerate(labels) if label == class_label]
        if not chosen:
            print(f"{name} has no image of {distilled.class_names[class_label]}")
            return
        rows = {
            "before": distilled.images[chosen],
            "after": kept[name, method, seed][chosen],
        }
        moved = (rows["after"] - rows["before"].clamp(0, 1)).abs().mean().item()
        titles = [distilled.class_names[labels[i]] for i in chosen]
        title = f"{name}, {method}: a pixel changes by {moved:.3f}"
        figure = image_grid(rows, titles, scale=1.0, title=title)
        display(figure)
        plt.close(figure)

    return _interactive(
        show,
        name=_menu([*sets], "set"),
        method=_menu([*methods], "method"),
        class_label=_menu(
            [("one of each", None), *((c, i) for i, c in enumerate(names))], "class"
        ),
        seed=_slider(widgets.IntSlider, 0, 0, 9, 1, "seed"),
    )


def _slider(kind, value, low, high, step, description) -> widgets.Widget:
    """Make a slider that calls back when it is released, not while it moves."""
    return kind(
        value=value,
        min=low,
        max=high,
        step=step,
        description=description,
        continuous_update=False,
        style={"description_width": "9em"},
        layout={"width": "32em"},
    )


def _window_dropdown() -> widgets.Dropdown:
    return widgets.Dropdown(
        options=[*WINDOWS, "none"],
        value="published",
        description="window",
        style={"description_width": "9em"},
    )


def _dropdown(field, value) -> widgets.Dropdown:
    return widgets.Dropdown(
        options=CHOICES[field],
        value=value,
        description=field.replace("_", " "),
        style={"description_width": "9em"},
    )


def _menu(options, description) -> widgets.Dropdown:
    return widgets.Dropdown(
        options=options,
        description=description,
        style={"description_width": "9em"},
    )


def _interactive(show, **controls: widgets.Widget) -> widgets.VBox:
    """Stack the controls above the picture that `show` draws from their values."""
    return widgets.VBox(
        [*controls.values(), widgets.interactive_output(show, controls)]
    )
