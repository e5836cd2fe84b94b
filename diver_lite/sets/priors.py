"""One loader for every prior: shipped, a folder in diffusers' format, or from a hub.

The folder is diffusers' own (`model_index.json`, `transformer/`, `vae/`,
`scheduler/`), so DiT-XL/2 and the small priors that ship load through the same lines.
"""

from __future__ import annotations

import inspect
import json
import os
from copy import deepcopy
from pathlib import Path

import torch

from diver_lite import checks
from diver_lite.assets import asset_path, list_assets
from diver_lite.checks import InputError, file_error, naming
from diver_lite.prior import Prior
from diver_lite.sets.reading import reading, told

NETWORKS = {
    # facebook/DiT-XL-2-256 was written when diffusers still called it by the second
    "transformer": ("DiTTransformer2DModel", "Transformer2DModel"),
    "vae": ("AutoencoderKL",),
}
PARTS = (*NETWORKS, "scheduler")


def shipped_priors() -> list[str]:
    """Return the names of the priors that came with the package."""
    return sorted({path.split("/")[1] for path in list_assets("priors/")})


def load_prior(
    name: str | Path,
    *,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> Prior:
    """Load a prior that ships, a local diffusers folder, or one from a model hub.

    Args:
        name: `"fashion-mnist"`, `"cifar10"`, a folder, or a hub id such as
            `"facebook/DiT-XL-2-256"` (its weights are CC BY-NC 4.0).
        device: default: CUDA if there is one, else the CPU.
        dtype: default: float32 on the CPU, bfloat16 on CUDA.

    Raises:
        InputError: unknown name, missing or broken files, unsupported architecture, a
            network that doesn't predict noise or a noise schedule without betas, or a
            device that is not there.
    """
    checks.path(name, "prior")
    device = resolve_device(device)
    if dtype is None:
        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    known = (torch.float32, torch.float16, torch.bfloat16)
    found = any(dtype is one for one in known)
    checks.require(found, "dtype", dtype, f"one of {known}")
    if str(name) in shipped_priors():
        files = [asset_path(file) for file in list_assets(f"priors/{name}/")]
        root = next(file.parent for file in files if file.name == "model_index.json")
        if strange := {f for f in root.rglob("*") if not f.is_dir()} - {*files}:
            raise InputError(f"{min(strange)} is no part of what ships; delete it")
    elif Path(name).is_dir():
        root = Path(name)
    else:
        shipped = ", ".join(shipped_priors())
        if str(name).count("/") != 1 or str(name)[0] in "./~":
            raise InputError(
                f"prior {name!r} is neither shipped ({shipped}), nor an existing "
                "folder, nor a hub id of the form owner/name"
            )
        root = _download(str(name), shipped)
    with told(root):
        return _read_folder(root).to(device, dtype)


def resolve_device(device: str | torch.device | None) -> torch.device:
    """Return the device asked for, or the best one; refuse one that is not there."""
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
        if found.type == "meta":  # without values
            raise ValueError
    except (RuntimeError, TypeError, ValueError):
        raise InputError(
            f"device {checks.describe(device)} is unknown; expected cpu, cuda or cuda:N"
        ) from None
    if found.type == "cuda" and not torch.cuda.is_available():
        raise InputError(
            "device 'cuda' was asked for, but PyTorch sees no CUDA GPU here; "
            "use --device cpu"
        )
    return found


def _download(name: str, instead: str) -> Path:
    """Fetch a prior's folder from a model hub; an error names what to use instead."""
    from huggingface_hub import snapshot_download

    try:
        patterns = ["model_index.json", *(f"{part}/*" for part in PARTS)]
        return Path(snapshot_download(name, allow_patterns=patterns))
    except Exception as error:  # every network failure ends here
        raise InputError(
            f"prior {name!r} could not be fetched ({type(error).__name__}). Without a "
            "network, put its files model_index.json, transformer/, vae/ and "
            "scheduler/ into a folder and pass that folder; or use a prior that "
            f"ships: {instead}"
        ) from None


def _read_folder(root: Path) -> Prior:
    """Read a folder of diffusers' format; broken ones raise `InputError`."""
    schedule = _read_json(root / "scheduler" / "scheduler_config.json", root)
    with naming(root / "scheduler" / "scheduler_config.json"):
        _bounded(schedule)
    for part, expected in NETWORKS.items():
        config = _read_json(root / part / "config.json", root)
        found = config.get("_class_name")
        if found not in expected:
            raise InputError(f"{part} is a {found}, expected a {expected[0]}")
        with naming(root / part / "config.json"):
            _bounded(config)
    index, own = _read_json(root / "model_index.json", root), root / "diver_lite.json"
    info = _read_json(own, root) if os.path.lexists(own) else {}
    names = index.get("id2label") or {}
    checks.instance(names, "id2label in model_index.json", dict)
    checks.instance(info.get("name", ""), "name in diver_lite.json", str)
    how = info.get("image_fit", "resize")
    checks.one_of(how, "image_fit in diver_lite.json", ("pad", "resize"))
    import diffusers  # costs seconds, so only when a prior is loaded

    models = {}
    try:
        scheduler = _build_scheduler(schedule)
        for part, (kind, *_) in NETWORKS.items():
            models[part], report = getattr(diffusers, kind).from_pretrained(
                root / part, torch_dtype=torch.float32, output_loading_info=True
            )
            # diffusers would fill some with random numbers, and leave out others
            if lacking := sorted(report["missing_keys"]):
                raise ValueError(f"{part} lacks {', '.join(lacking[:9])}")
            left = [k for k in report["unexpected_keys"] if "transformer_blocks" in k]
            if left:
                raise ValueError(f"{part} has no place for the weights {min(left)}")
    except Exception as error:  # diffusers raises many kinds for broken weights
        raise file_error(
            root, f" can't be loaded: {checks.first_line(error)}"
        ) from None
    transformer, vae = models["transformer"], models["vae"]
    if vae.config.latent_channels != transformer.config.in_channels:
        found = f"the VAE has {vae.config.latent_channels} latent channels"
        wanted = transformer.config.in_channels
        raise InputError(f"{found}, the transformer expects {wanted}")
    for module in (transformer, vae):
        module.eval().requires_grad_(False)
    count = transformer.config.num_embeds_ada_norm
    class_names = tuple(str(names.get(str(i), f"class {i}")) for i in range(count))
    return Prior(transformer, vae, scheduler, class_names, info)


def _bounded(config: dict) -> None:
    """Raise at sizes that nobody has: diffusers would make them before it looks."""
    for name, value in config.items():
        values = value if isinstance(value, list) else [value]
        length = 100 if "block" in name else 100_000
        checks.integer(len(values), f"length of {name}", 0, length)
        highest = 1000 if "layers" in name else 100_000
        for number in values:
            if isinstance(number, int):
                checks.require(number <= highest, name, number, f"at most {highest}")
    size, patch = config.get("sample_size", 0), config.get("patch_size", 0)
    heads = config.get("num_attention_heads", 0)
    width = config.get("attention_head_dim", 0)
    if all(isinstance(n, int) and n > 0 for n in (size, patch, heads, width)):
        table = (size // patch) ** 2 * heads * width  # of positions, built at once
        checks.integer(table, "positions x channels of the transformer", 1, 2**26)


def _build_scheduler(config: dict):
    """Build a `DDIMScheduler` with the noise schedule of any of diffusers' schedulers.

    Networks are trained with betas, not with a way to step along them: the class that
    the config names is never looked up. What else DDIM knows of it carries over.
    Raises `ValueError` and others unless betas are there and noise is predicted.
    """
    import diffusers

    kind = config.get("_class_name")
    needed = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule")
    for name in needed[:1] if config.get("trained_betas") else needed:
        if config.get(name) is None:
            raise ValueError(f"the scheduler, a {kind}, has no {name}; expected betas")
    # what says more of the schedule than its betas do, and the value that doesn't;
    # files of 2022 may lack the first
    usual = {"prediction_type": "epsilon", "use_flow_sigmas": False}
    for name, value in (usual | {"snr_shift_scale": 1}).items():
        if (config.get(name) or value) != value:
            raise ValueError(
                f"the scheduler, a {kind}, has {name} {config[name]!r}; expected "
                f"{value!r} and the noise schedule that its betas give"
            )
    known = inspect.signature(diffusers.DDIMScheduler).parameters
    shared = {name: value for name, value in config.items() if name in known}
    scheduler = diffusers.DDIMScheduler(**shared)
    alphas, total = scheduler.alphas_cumprod, config["num_train_timesteps"]
    falling = bool((alphas.diff() < 0).all())
    if not (len(alphas) == total > 1 and falling and 0 < alphas[-1] < alphas[0] < 1):
        raise ValueError(
            f"the scheduler's betas give alphas_cumprod from {alphas[:1].tolist()} to "
            f"{alphas[-1:].tolist()} in {len(alphas)} timesteps; expected a fall "
            f"between 1 and 0 in num_train_timesteps ({total})"
        )
    trial = deepcopy(scheduler)
    trial.set_timesteps(1)
    if not 0 <= trial.timesteps[0] < total:
        offset = config["steps_offset"]
        raise ValueError(f"the scheduler's steps_offset is {offset}, beyond {total}")
    return scheduler


def _read_json(path: Path, root: Path) -> dict:
    if not os.path.lexists(path):
        expected = f"diffusers' layout: model_index.json, {'/, '.join(PARTS)}/"
        raise file_error(root, f" lacks {path.relative_to(root)}; expected {expected}")
    with reading(path, "a JSON object"):
        checks.integer(path.stat().st_size, "its size in bytes", 0, 2**25)
        content = json.loads(path.read_text("utf-8"))
        checks.instance(content, "the JSON", dict)
    return content
