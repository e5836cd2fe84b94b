"""diver_lite: DIVER in the open, as a runnable book with a companion package."""

from importlib import import_module

__version__ = "0.3.0"  # the one place: pyproject.toml reads it

TYPE_CHECKING = False  # type checkers take it for true; typing isn't imported here
if TYPE_CHECKING:
    from diver_lite.advice.ask import advise
    from diver_lite.advice.words import Advice
    from diver_lite.checks import InputError
    from diver_lite.judge.table import cross_architecture
    from diver_lite.judge.training import train_judge
    from diver_lite.make.distill import distill
    from diver_lite.priors.check import check_prior
    from diver_lite.priors.contract import Prior
    from diver_lite.priors.loading import load_prior
    from diver_lite.recovery import RecoveryConfig, recover_steps
    from diver_lite.run.in_memory import recover
    from diver_lite.run.to_file import recover_to
    from diver_lite.sets.distilled import DistilledSet
    from diver_lite.sets.folder import save_image_folder
    from diver_lite.sets.load import load_distilled
    from diver_lite.sets.real import load_dataset

# name -> where it is defined; read at first use, as torch and diffusers take seconds
_ADDRESSES = {
    "Advice": "advice.words",
    "DistilledSet": "sets.distilled",
    "InputError": "checks",
    "Prior": "priors.contract",
    "RecoveryConfig": "recovery",
    "advise": "advice.ask",
    "check_prior": "priors.check",
    "cross_architecture": "judge.table",
    "distill": "make.distill",
    "load_dataset": "sets.real",
    "load_distilled": "sets.load",
    "load_prior": "priors.loading",
    "recover": "run.in_memory",
    "recover_steps": "recovery",
    "recover_to": "run.to_file",
    "save_image_folder": "sets.folder",
    "train_judge": "judge.training",
}
__all__ = [
    "Advice",
    "DistilledSet",
    "InputError",
    "Prior",
    "RecoveryConfig",
    "advise",
    "check_prior",
    "cross_architecture",
    "distill",
    "load_dataset",
    "load_distilled",
    "load_prior",
    "recover",
    "recover_steps",
    "recover_to",
    "save_image_folder",
    "train_judge",
]


def __getattr__(name: str):
    if name not in _ADDRESSES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_ADDRESSES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
