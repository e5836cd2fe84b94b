"""Blanks: a chapter runs with them empty, and what is said of a line is true."""

import ast
from pathlib import Path

import nbformat
import pytest
import torch
from bookkit.blanks import MISTAKES, check_blank

from diver_lite import DistilledSet, RecoveryConfig, recovery
from diver_lite.make.train_prior import vae_loss
from diver_lite.priors.contract import Wrapped
from diver_lite.sets.classes import prior_classes

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
BLANK = "    return ...  # your line"
# what the reader of a chapter writes; in most of them a function of the package
WRITTEN = {"01": "inherit", "02": "matching_loss", "03": "predict_noise"}
WRITTEN |= {"04": "inherit", "05": "guide", "06": "phase", "06b": "prior_classes"}
WRITTEN |= {"11": "by_norm"}
WRITTEN |= {"appendix_a": "vae_loss", "appendix_b": "wall_seconds"}

LATENTS, NOISE = torch.randn(2, 2, 4, 8, 8, generator=torch.manual_seed(0))
MIXED = (LATENTS, NOISE, torch.tensor(0.4), torch.tensor(0.9))
PULLED = (LATENTS, NOISE, torch.tensor(0.3), 0.1)


class Guided(Wrapped):
    """Predicts one noise with a label, and another without."""

    def __init__(self):
        pass

    def predict_noise(self, latents, timestep, class_labels, guidance_scale):
        return latents + guidance_scale * (latents.square() - latents)


class Numbered:
    """As much of a prior as has classes."""

    class_names = ("a", "b", "c")


def matching_loss(target, found):
    return (target - found).square().sum()


def said(capsys, written, package, *cases):
    check_blank(written, package, *cases)
    return capsys.readouterr().out


def empty(*arguments):
    return ...


def test_a_right_line_is_called_right(capsys):
    text = said(capsys, recovery.inherit, recovery.inherit, MIXED)
    assert text == "right: inherit gives what the package's inherit gives.\n"


def test_where_the_package_has_none_it_is_ours(capsys):
    means = torch.randn(2, 10, 8, generator=torch.Generator().manual_seed(0))
    text = said(capsys, matching_loss, lambda a, b: ((b - a) ** 2).sum(), [*means])
    assert text == "right: matching_loss gives what ours gives.\n"


@pytest.mark.parametrize(
    "wanted, found", [(0.3, 0.1 + 0.2), (torch.tensor([2]), torch.tensor([2.0]))]
)
def test_rounding_and_the_kind_of_number_do_not_matter(wanted, found, capsys):
    text = said(capsys, lambda: found, lambda: wanted, ())
    assert text.startswith("right: ")
    text = said(capsys, lambda: found + 1e-3, lambda: wanted, ())
    assert text.startswith("not yet: ")


def test_an_empty_blank_is_no_mistake(capsys):
    text = said(capsys, empty, recovery.inherit, MIXED)
    assert text.startswith("not filled in yet: empty.")


FAULTS = {
    "returns nothing": lambda z, e, a, s: None,
    "stops with TypeError": lambda z, e, a, s: z + None,
    "returns a float": lambda z, e, a, s: 1.0,
    "it is (4, 8, 8), and should be (2, 4, 8, 8)": lambda z, e, a, s: z[0],
    "look at the sign: the result is": lambda z, e, a, s: -(a * z + s * e),
    "look for a factor: the result is 2 times": lambda z, e, a, s: 2 * (a * z + s * e),
    "weights have changed places": lambda z, e, a, s: s * z + a * e,
    "the noise has a weight": lambda z, e, a, s: a * z + e,
    "the two roots already": lambda z, e, a, s: a.sqrt() * z + s.sqrt() * e,
    "the numbers are off by up to 1": lambda z, e, a, s: a * z + s * e + 1,
}


@pytest.mark.parametrize("hint", FAULTS)
def test_a_fault_is_named(hint, capsys):
    text = said(capsys, renamed(FAULTS[hint], "inherit"), recovery.inherit, MIXED)
    assert text.startswith("not yet: ") and hint in text


def renamed(function, name):
    function.__name__ = name
    return function


def test_a_fault_of_a_phase_names_the_timestep(capsys):
    def phase(timestep):
        return (
            "concrete" if 510 <= timestep <= 816 else RecoveryConfig().phase(timestep)
        )

    text = said(capsys, phase, RecoveryConfig().phase, *[(t,) for t in range(1000)])
    assert "phase(510) is 'concrete', and should be 'refinement'" in text


@pytest.mark.parametrize(
    "name, hint", [(name, hint) for name in MISTAKES for hint in MISTAKES[name]]
)
def test_each_known_mistake_is_told_from_the_right_line(name, hint, capsys):
    asked = (LATENTS, 500, torch.tensor([0, 1]), 1.5)
    few = DistilledSet(torch.rand(2, 3, 8, 8), [0, 2], ("d", "e", "f"))
    cases = {"inherit": MIXED, "guide": PULLED, "predict_noise": asked}
    cases |= {
        "matching_loss": (LATENTS, NOISE),
        "prior_classes": (few, Numbered(), [1, 0, 0]),
    }
    cases |= {"vae_loss": (*LATENTS, *NOISE.exp(), 0.1)}
    cases |= {"by_norm": (LATENTS, NOISE)}
    packages = {"predict_noise": Guided().predict_noise, "vae_loss": vae_loss}
    packages |= {"matching_loss": matching_loss, "prior_classes": prior_classes}
    packages |= {"by_norm": lambda a, b: a[0] - a[1] - b[0] + b[1]}
    package = packages.get(name) or getattr(recovery, name)

    def written(*case):
        return MISTAKES[name][hint](package, *case)

    assert hint in said(capsys, renamed(written, name), package, cases[name])


# ---------------------------------------------------------------- in the chapters


def cells_from(path, tag):
    cells = nbformat.read(path, as_version=4).cells
    return [cells[k:] for k, c in enumerate(cells) if tag in c.metadata.get("tags", [])]


def names(cell):
    return [n.name for n in ast.parse(cell.source).body if hasattr(n, "name")]


@pytest.mark.parametrize("number", WRITTEN)
def test_these_chapters_leave_a_function_to_the_reader(number):
    (path,) = (p for p in NOTEBOOKS if p.stem.startswith(f"{number}_"))
    ((blank, *_),) = cells_from(path, "blank")
    assert names(blank) == [WRITTEN[number]]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_blank_is_empty_tried_and_then_filled_in(path):
    """What the chapter needs of it stands in a folded cell below the trial."""
    for blank, *below in cells_from(path, "blank"):
        (name,) = names(blank)
        assert BLANK in blank.source
        trial, solution = [c for c in below if c.cell_type == "code"][:2]
        assert f"check_blank({name}, " in trial.source
        assert trial.outputs[0].text.startswith(f"not filled in yet: {name}")
        assert names(solution) == [name]
        assert solution.source.startswith(f"# A solution: {name}")
        assert {"hide-cell"} == set(solution.metadata.tags)
