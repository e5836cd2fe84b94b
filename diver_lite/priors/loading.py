"""One loader for every prior: shipped, a folder in diffusers' format, or from a hub.

The folder is diffusers' own (`model_index.json`, `transformer/` or `unet/`, `vae/`,
`scheduler/`), so DiT-XL/2 and the small priors that ship load through the same lines.
What kind of prior it is, its networks and its scheduler say.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import json
import os
import re
from copy import deepcopy
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import torch

from diver_lite import checks
from diver_lite.assets import asset_path, list_assets
from diver_lite.checks import InputError, file_error, naming
from diver_lite.priors.dit import DiTPrior
from diver_lite.priors.text import LCM_SAYS, ConsistencyPrior, TextPrior

NETWORKS = {
    # facebook/DiT-XL-2-256 was written when diffusers still called it by the second
    "transformer": ("DiTTransformer2DModel", "Transformer2DModel"),
    "vae": ("AutoencoderKL",),
}
TEXT_NETWORKS = {
    "unet": ("UNet2DConditionModel",),
    "vae": NETWORKS["vae"],
    "text_encoder": ("CLIPTextModel",),
}
LIBRARY = {"text_encoder": "transformers"}
PARTS = (*NETWORKS, "scheduler")
SUPPORTED = (
    "supported are DiT and SiT (DiTTransformer2DModel: noise, v_prediction or flow), "
    "Stable Diffusion 1.x and 2.x, turbo and latent consistency models "
    "(UNet2DConditionModel with one CLIPTextModel)"
)


def shipped_priors() -> list[str]:
    """Return the names of the priors that came with the package."""
    return sorted({path.split("/")[1] for path in list_assets("priors/")})


def load_prior(
    name: str | Path,
    *,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    **text: Any,
) -> DiTPrior:
    """Load a prior that ships, a local diffusers folder, or one from a model hub.

    Args:
        name: `"fashion-mnist"`, `"cifar10"`, a folder, or a hub id such as
            `"facebook/DiT-XL-2-256"` (its weights are CC BY-NC 4.0).
        device: default: CUDA if there is one, else the CPU.
        dtype: default: float32 on the CPU, bfloat16 on CUDA.
        text: of a prior told in words: `prompt`, with {name} for the class's name,
            `negative_prompt`, and `size`, height and width of its images in pixels.

    Raises:
        InputError: unknown name, missing or broken files, unsupported architecture,
            prediction or noise schedule, a device that is not there, a prompt without
            {name}, a size that the VAE can't halve, or `transformers` isn't installed.
    """
    for option in text:
        checks.one_of(
            option, "option of load_prior", ("prompt", "negative_prompt", "size")
        )
    text = {name: value for name, value in text.items() if value is not None}
    checks.path(name, "prior")
    device = resolve_device(device)
    if dtype is None:
        dtype = {"cuda": torch.bfloat16}.get(device.type, torch.float32)
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
    with naming(root):
        return _read_folder(root, text).to(device, dtype)


def resolve_device(device: str | torch.device | None) -> torch.device:
    """Return the device asked for, or the best one; refuse one that is not there."""
    if device is None:
        device = {True: "cuda", False: "cpu"}[torch.cuda.is_available()]
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
        parts = dict.fromkeys((*PARTS, *TEXT_NETWORKS, "tokenizer"))
        patterns = ["model_index.json", *(f"{part}/*" for part in parts)]
        others = ["*.fp16.*", "*non_ema*", "*flax*", "*.onnx*", "*.msgpack"]
        return Path(
            snapshot_download(name, allow_patterns=patterns, ignore_patterns=others)
        )
    except Exception as error:  # every network failure ends here
        raise InputError(
            f"prior {name!r} could not be fetched ({type(error).__name__}). Without a "
            "network, put its files model_index.json, transformer/, vae/ and "
            "scheduler/ into a folder and pass that folder; or use a prior that "
            f"ships: {instead}"
        ) from None


def _read_folder(root: Path, text: dict) -> DiTPrior:
    """Read a folder of diffusers' format; broken ones raise `InputError`."""
    schedule = _read_config(root, "scheduler/scheduler_config.json")
    in_words = (root / "unet").is_dir() and not (root / "transformer").is_dir()
    index = _read_json(root / "model_index.json", root)
    if text and not in_words:
        raise InputError(f"{min(text)} is for priors told in words; {root} is none")
    if (root / "text_encoder_2").is_dir() or (root / "text_encoder_3").is_dir():
        kind = checks.describe(index.get("_class_name"))
        raise InputError(f"{root} is a {kind} of several text encoders; {SUPPORTED}")
    networks = NETWORKS
    if in_words:
        networks = TEXT_NETWORKS
    for part, expected in networks.items():
        config = _read_config(root, f"{part}/config.json")
        found = config.get("_class_name")
        if found is None:  # as transformers calls it
            found = next(iter(config.get("architectures") or ()), None)
        if found not in expected:
            raise InputError(
                f"{part} is a {found}, expected a {expected[0]}; {SUPPORTED}"
            )
    info = _read_info(root)
    names = index.get("id2label") or {}
    checks.instance(names, "id2label in model_index.json", dict)
    if in_words:
        _need_transformers()
    models = {}
    try:
        scheduler = _build_scheduler(schedule)
        for part, (kind, *_) in networks.items():
            # costs seconds, so only when a prior is loaded
            library = importlib.import_module(LIBRARY.get(part, "diffusers"))
            models[part] = _load_network(getattr(library, kind), root, part)
        if in_words:
            longest = models["text_encoder"].config.max_position_embeddings
            models["tokenizer"] = _load_tokenizer(root, longest)
    except Exception as error:  # diffusers raises many kinds for broken weights
        raise file_error(
            root, f" can't be loaded: {checks.first_line(error)}"
        ) from None
    for part in networks:
        models[part].eval().requires_grad_(False)
    vae = models["vae"]
    denoiser = models[next(iter(networks))]
    if vae.config.latent_channels != denoiser.config.in_channels:
        found = f"the VAE has {vae.config.latent_channels} latent channels"
        wanted = denoiser.config.in_channels
        raise InputError(f"{found}, the transformer expects {wanted}")
    if in_words:
        return _text_prior(models, scheduler, schedule, info, text)
    if info.get("timestep_embedding") == "sit":
        use_sit_timesteps(denoiser)
    count = denoiser.config.num_embeds_ada_norm
    class_names = tuple(str(names.get(str(i), f"class {i}")) for i in range(count))
    return DiTPrior(denoiser, vae, scheduler, class_names, info)


def _read_info(root: Path) -> dict:
    """Return what a folder says about itself in our own file, if it has one."""
    path = root / "diver_lite.json"
    if not os.path.lexists(path):
        return {}
    info = _read_json(path, root)
    checks.instance(info.get("name", ""), f"name in {path.name}", str)
    advice = info.get("recommended", {})  # settings of a recovery, by name
    checks.instance(advice, f"recommended in {path.name}", dict)
    how = info.get("image_fit", "resize")
    checks.one_of(how, f"image_fit in {path.name}", ("pad", "resize"))
    return info


def _load_network(kind: Any, root: Path, part: str) -> Any:
    """Load the weights of one part; raise `ValueError` where some don't fit."""
    _typed(kind, _read_json(root / part / "config.json", root))
    network, report = kind.from_pretrained(
        root / part, torch_dtype=torch.float32, output_loading_info=True
    )
    # the library would fill some with random numbers, and leave out others
    if lacking := sorted(report["missing_keys"]):
        raise ValueError(f"{part} lacks {', '.join(lacking[:9])}")
    left = [k for k in report["unexpected_keys"] if re.search(r"\.\d+\.", k)]
    if left:
        raise ValueError(f"{part} has no place for the weights {min(left)}")
    return network


def load_vae(folder: str | Path) -> Any:
    """Load the `AutoencoderKL` of a prior's folder, or of a folder of its own."""
    import diffusers

    root = checks.path(folder, "vae")
    if (root / "vae").is_dir():
        root /= "vae"
    config = _read_config(root, "config.json")
    checks.one_of(config.get("_class_name"), "class of the VAE", NETWORKS["vae"])
    try:
        return _load_network(diffusers.AutoencoderKL, root.parent, root.name)
    except Exception as error:
        raise file_error(
            root, f" can't be loaded: {checks.first_line(error)}"
        ) from None


def _need_transformers() -> None:
    if importlib.util.find_spec("transformers") is None:
        raise InputError(
            "a prior told in words needs the package transformers; install it with "
            "pip install 'diver-lite[text]'"
        )


def _load_tokenizer(root: Path, longest: int) -> Any:
    """Load a tokenizer that makes at most as many words as the encoder takes."""
    from transformers import CLIPTokenizer

    if not (root / "tokenizer").is_dir():
        raise ValueError("it lacks tokenizer/, with vocab.json and merges.txt")
    tokenizer = CLIPTokenizer.from_pretrained(root / "tokenizer")
    # in real folders it may be missing, which means 1e30
    found = checks.number(tokenizer.model_max_length, "model_max_length", 3)
    tokenizer.model_max_length = min(int(found), longest)
    return tokenizer


def _text_prior(models: dict, scheduler: Any, schedule: dict, info: dict, text: dict):
    """Return the prior of a Stable Diffusion folder; refuse what else a UNet takes."""
    unet, encoder = models["unet"], models["text_encoder"]
    for name in ("addition_embed_type", "class_embed_type", "encoder_hid_dim_type"):
        if found := unet.config.get(name):
            raise InputError(f"unet has {name} {found!r}, as SDXL has; {SUPPORTED}")
    width = encoder.config.hidden_size
    wanted = unet.config.cross_attention_dim
    if width != wanted:
        raise InputError(f"the text encoder is {width} wide, the unet expects {wanted}")
    kind = TextPrior
    if schedule.get("_class_name") == "LCMScheduler" or unet.config.time_cond_proj_dim:
        kind = ConsistencyPrior
    given = {name: schedule.get(name) for name in LCM_SAYS}
    info = info | {name: value for name, value in given.items() if value is not None}
    return kind(
        unet, models["vae"], scheduler, (), info, models["tokenizer"], encoder, **text
    )


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
    table = ("sample_size", "patch_size", "num_attention_heads", "attention_head_dim")
    numbers: list[Any] = [config.get(name) for name in table]
    if all(isinstance(number, int) and number > 0 for number in numbers):
        size, patch, heads, width = numbers  # of the positions, built at once
        count = (size // patch) ** 2 * heads * width
        checks.integer(count, "positions x channels of the transformer", 1, 2**26)


def _typed(kind: Any, config: dict) -> None:
    """Raise where a number isn't what a class of diffusers declares it to be."""
    for name, hint in get_type_hints(kind.__init__).items():
        kinds = {hint}
        if get_origin(hint) in (Union, UnionType):
            kinds = {*get_args(hint)}
        value = config.get(name)
        if value is None and (name not in config or NoneType in kinds):
            continue
        if isinstance(value, list) and kinds - {int, float, NoneType}:  # of tuples
            continue
        if float in kinds:
            checks.number(value, name, -1e6, 1e6)
        elif int in kinds:
            checks.integer(value, name, 0)


def _build_scheduler(config: dict):
    """Build a `DDIMScheduler` with the noise schedule of any of diffusers' schedulers.

    Networks are trained with betas, not with a way to step along them: the class that
    the config names is never looked up. What else DDIM knows of it carries over.
    Straight paths have no betas, so flow matching keeps its own scheduler. Raises
    `ValueError` and others for another schedule, or another prediction.
    """
    import diffusers

    kind = config.get("_class_name")
    if kind == "FlowMatchEulerDiscreteScheduler":
        return _build_flow(config)
    needed = ["num_train_timesteps"]
    if not config.get("trained_betas"):
        needed += ["beta_start", "beta_end", "beta_schedule"]
    for name in needed:
        if config.get(name) is None:
            raise ValueError(f"the scheduler, a {kind}, has no {name}; expected betas")
    # what says more of the schedule than its betas do, and the value that doesn't;
    # files of 2022 may lack the first
    velocity = config.get("prediction_type") == "v_prediction"
    usual = {"use_flow_sigmas": False, "snr_shift_scale": 1}
    if not velocity:
        usual["prediction_type"] = "epsilon"
    for name, value in usual.items():
        if (config.get(name) or value) != value:
            raise ValueError(
                f"the scheduler, a {kind}, has {name} {config[name]!r}; expected "
                f"{value!r} and the noise schedule that its betas give"
            )
    known = inspect.signature(diffusers.DDIMScheduler).parameters
    shared = {name: value for name, value in config.items() if name in known}
    scheduler = diffusers.DDIMScheduler(**shared)
    alphas = scheduler.alphas_cumprod
    total = config["num_train_timesteps"]
    falling = bool((alphas.diff() < 0).all())
    lowest = 0.0
    if velocity:  # which tells the image from pure noise, too
        lowest = -1e-9
    if not (
        len(alphas) == total > 1 and falling and lowest < alphas[-1] < alphas[0] < 1
    ):
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


def _build_flow(config: dict) -> Any:
    """Build the scheduler of straight paths, whose steps may be shifted, not more."""
    import diffusers

    kind = diffusers.FlowMatchEulerDiscreteScheduler
    known = {"num_train_timesteps": 1000, "shift": 1.0}
    unusual = {
        name: value
        for name, value in config.items()
        if name.startswith(("use_", "invert_", "stochastic_")) and value
    }
    if unusual:
        name, value = min(unusual.items())
        raise ValueError(f"the scheduler, a {kind.__name__}, has {name} {value!r}")
    given = {name: config.get(name, usual) for name, usual in known.items()}
    total = checks.integer(given["num_train_timesteps"], "num_train_timesteps", 2)
    shift = checks.number(given["shift"], "shift", 1e-3, 1e3)
    return kind(num_train_timesteps=total, shift=shift)


def use_sit_timesteps(transformer: Any) -> None:
    """Let a DiT embed time as SiT does: 0 is noise, 1 is clean, and not in thousands.

    diffusers' DiT is given 1000 s, s = 1 - t, and has other frequencies. Source: SiT,
    Ma et al. 2024, whose published weights were trained so.
    """
    for block in transformer.transformer_blocks:
        block.norm1.emb.time_proj = SiTTimesteps()


class SiTTimesteps(torch.nn.Module):
    """Sinusoids of t = 1 - timestep / 1000: (B,) -> (B, 256)."""

    def forward(self, timesteps: torch.Tensor) -> torch.Tensor:
        from diffusers.models.embeddings import get_timestep_embedding

        t = 1 - timesteps.float() / 1000
        return get_timestep_embedding(t, 256, True, downscale_freq_shift=0)


def _read_config(root: Path, name: str) -> dict:
    """Return the config of a part, whose numbers are such as somebody may have."""
    config = _read_json(root / name, root)
    with naming(root / name):
        _bounded(config)
    return config


def _read_json(path: Path, root: Path) -> dict:
    if not os.path.lexists(path):
        expected = f"diffusers' layout: model_index.json, {'/, '.join(PARTS)}/"
        raise file_error(root, f" lacks {path.relative_to(root)}; expected {expected}")
    with naming(path, "a JSON object"):
        checks.integer(path.stat().st_size, "its size in bytes", 0, 2**25)
        content = json.loads(path.read_text("utf-8"))
        checks.instance(content, "the JSON", dict)
    return content
