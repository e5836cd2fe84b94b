"""Live explorers for JupyterLab: sliders that recompute.

In the built book no kernel answers, so there `figures.frame_slider` shows precomputed
frames instead.
"""

from __future__ import annotations

import ipywidgets as widgets
import matplotlib.pyplot as plt
from IPython.display import display

from diver_lite.distilled import DistilledSet
from diver_lite.figures import image_grid
from diver_lite.prior import Prior
from diver_lite.recovery import RecoveryConfig, recover


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
