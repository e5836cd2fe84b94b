"""One loader for every prior: shipped, a diffusers folder, a hub's, or one's own code.

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
import warnings
from pathlib import Path
from typing import Any, get_type_hints

import torch
from safetensors import safe_open

from diver_lite import checks
from diver_lite.assets import asset_path, list_assets
from diver_lite.checks import InputError, ensure, file_error, naming
from diver_lite.named_code import call_named, load_named, names_code
from diver_lite.priors.check import check_answers
from diver_lite.priors.dit import DiTPrior
from diver_lite.priors.text import TextPrior

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
# what the UNet of another kind of pipeline says, and that of Stable Diffusion doesn't
UNKNOWN = (
    "addition_embed_type", "class_embed_type", "encoder_hid_dim_type",
    "time_cond_proj_dim",
)  # fmt: skip
# their product is the size of a table that is built at once
POSITIONS = ("sample_size", "patch_size", "num_attention_heads", "attention_head_dim")
# what says more of a schedule than its betas do, and the values that don't
BETAS_ALONE = {
    "prediction_type": ("epsilon", "v_prediction"),  # files of 2022 may lack it
    "use_flow_sigmas": (False,),
    "snr_shift_scale": (1,),
}
SUPPORTED = (
    "supported are DiT and SiT (DiTTransformer2DModel: noise, v_prediction or flow), "
    "Stable Diffusion 1.x and 2.x, and turbo models (UNet2DConditionModel with one "
    "CLIPTextModel)"
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
) -> DiTPrior | Any:
    """Load a prior that ships, a diffusers folder, one from a hub, or an own one.

    Args:
        name: `"fashion-mnist"`, `"cifar10"`, a folder, or a hub id such as
            `"facebook/DiT-XL-2-256"` (its weights are CC BY-NC 4.0). Or code of one's
            own, which is run: `"package.module:factory"`, of an installed package or
            an absolute folder of PYTHONPATH, or `"path/to/file.py:factory"`. A factory
            is a function or class that is called without arguments, but for `device`
            and `dtype` where it has parameters of that name.
        device: default: CUDA if there is one, else the CPU.
        dtype: default: float32 on the CPU, bfloat16 on CUDA.
        text: of a prior told in words: `prompt`, with {name} for the class's name,
            `negative_prompt`, and `size`, height and width of its images in pixels.

    Raises:
        InputError: unknown name, missing or broken files, unsupported architecture,
            prediction or noise schedule, a device that is not there, a prompt without
            {name}, a size that the VAE can't halve, or `transformers` isn't installed.
            Of one's own code: it isn't there, it fails, it needs other arguments, or
            what it returns breaks the contract without being asked for a picture.
    """
    for option in text:
        checks.one_of(
            option, "option of load_prior", ("prompt", "negative_prompt", "size")
        )
    text = {name: value for name, value in text.items() if value is not None}
    if names_code(name):
        return _load_own(str(name), device, dtype, text)
    checks.path(name, "prior")
    device = resolve_device(device)
    if dtype is None:
        dtype = _usual_dtype(device)
    known = (torch.float32, torch.float16, torch.bfloat16)
    checks.require(dtype in known, "dtype", dtype, f"one of {known}")
    if str(name) in shipped_priors():
        if (Path(name) / "model_index.json").exists():
            warnings.warn(
                f"prior {name!r}: the shipped one is loaded, though a folder here has "
                f"its name; write ./{name} for that",
                stacklevel=2,
            )
        files = [asset_path(file) for file in list_assets(f"priors/{name}/")]
        root = next(file.parent for file in files if file.name == "model_index.json")
        for file in root.rglob("*"):
            ours = file.is_dir() or file in files
            ensure(ours, f"{file} is no part of what ships; delete it")
    elif Path(name).is_dir():
        root = Path(name)
    else:
        shipped = ", ".join(shipped_priors())
        ensure(
            str(name).count("/") == 1 and str(name)[0] not in "./~",
            f"prior {name!r} is neither shipped ({shipped}), nor an existing folder, "
            "nor a hub id of the form owner/name, nor code of the form file.py:factory",
        )
        root = _download(str(name), shipped)
    with naming(root):
        return _read_folder(root, text).to(device, dtype)


def make_own(name: str, device: Any, dtype: torch.dtype | None) -> Any:
    """Return what a factory of the user's own code gives, which may be no prior."""
    factory = load_named(name, "prior")
    options: dict[str, Any] = {}
    for option, value in {"device": device, "dtype": dtype}.items():
        if option in _parameters(factory, name):
            options[option] = value
        else:
            message = f"{option} was given, but prior {name!r} takes no {option}"
            ensure(value is None, message)
    if "device" in options:
        options["device"] = resolve_device(device)
    if "dtype" in options and dtype is None:
        options["dtype"] = _usual_dtype(options.get("device"))
    return call_named(factory, name, "prior", **options)


def _load_own(name: str, device: Any, dtype: torch.dtype | None, text: dict) -> Any:
    """Return the prior that the user's own code makes, or raise."""
    for option in text:
        raise InputError(
            f"{option} is for priors told in words that are loaded from a folder; "
            f"{name} is code of your own"
        )
    prior = make_own(name, device, dtype)
    wrong = check_answers(prior)
    ensure(
        not wrong,
        f"prior {name!r} breaks the contract: {next(iter(wrong), '')}; for all of it "
        f"run: diver-lite check --prior {name}",
    )
    return prior


def _usual_dtype(device: torch.device | None) -> torch.dtype:
    on_cuda = device is not None and device.type == "cuda"
    return torch.bfloat16 if on_cuda else torch.float32


def _parameters(factory: Any, name: str) -> set[str]:
    """Return the parameters of a factory; raise if it needs others than we give."""
    try:
        found = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):  # of some that are written in C
        return set()
    given = {"device", "dtype"}
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    needed = [
        each.name
        for each in found
        if each.default is each.empty
        and each.kind not in variadic
        and (each.name not in given or each.kind is each.POSITIONAL_ONLY)
    ]
    ensure(
        not needed,
        f"prior {name!r} needs the arguments {', '.join(needed)}; expected a factory "
        "that takes none, or device and dtype",
    )
    return {each.name for each in found} & given


def resolve_device(device: str | torch.device | None) -> torch.device:
    """Return the device asked for, or the best one; refuse one that is not there."""
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        found = torch.device(device)
        if found.type == "meta":  # without values
            raise ValueError
    except (RuntimeError, TypeError, ValueError):
        raise InputError(
            f"device {checks.describe(device)} is unknown; expected cpu, cuda or cuda:N"
        ) from None
    ensure(
        found.type != "cuda" or torch.cuda.is_available(),
        "device 'cuda' was asked for, but PyTorch sees no CUDA GPU here; use "
        "--device cpu",
    )
    there = torch.cuda.device_count()
    ensure(
        found.type != "cuda" or (found.index or 0) < there,
        f"device {str(found)!r} was asked for, but the GPUs that PyTorch sees here are "
        f"0 to {there - 1}",
    )
    try:
        if found.type != "cuda":
            torch.empty(0, device=found)
    except Exception:  # of another kind for each library behind a device
        raise InputError(
            f"device {str(found)!r} was asked for, but PyTorch can't use it here; "
            "expected cpu, or cuda or cuda:N where there is a GPU"
        ) from None
    return found


def _download(name: str, instead: str) -> Path:
    """Fetch a prior's folder from a model hub; an error names what to use instead."""
    from huggingface_hub import snapshot_download

    try:
        parts = {*NETWORKS, *TEXT_NETWORKS, "scheduler", "tokenizer"}
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
    schedule = _read_config(root, "scheduler")
    in_words = (root / "unet").is_dir() and not (root / "transformer").is_dir()
    networks = NETWORKS
    if in_words:
        networks = TEXT_NETWORKS
    index = _read_json(root / "model_index.json")
    for option in text:
        ensure(in_words, f"{option} is for priors told in words; {root} is none")
    for part, expected in networks.items():
        config = _read_config(root, part)
        _check_kind(part, config, expected)
        _check_numbers(part, config)
    info = _read_info(root)
    names = index.get("id2label") or {}
    checks.instance(names, "id2label in model_index.json", dict)
    ensure(
        not in_words or importlib.util.find_spec("transformers") is not None,
        "a prior told in words needs the package transformers; install it with pip "
        "install 'diver-lite[text]'",
    )
    scheduler, denoiser, vae, *words = _load_models(root, schedule, networks)
    channels = vae.config.latent_channels
    wanted = denoiser.config.in_channels
    ensure(
        channels == wanted,
        f"the VAE has {channels} latent channels, the transformer expects {wanted}",
    )
    if in_words:
        encoder, tokenizer = words
        width = encoder.config.hidden_size
        wanted = denoiser.config.cross_attention_dim
        ensure(
            width == wanted,
            f"the text encoder is {width} wide, the unet expects {wanted}",
        )
        return TextPrior(denoiser, vae, scheduler, (), info, tokenizer, encoder, **text)
    if info.get("timestep_embedding") == "sit":
        use_sit_timesteps(denoiser)
    count = denoiser.config.num_embeds_ada_norm
    class_names = tuple(str(names.get(str(i), f"class {i}")) for i in range(count))
    return DiTPrior(denoiser, vae, scheduler, class_names, info)


def _load_models(root: Path, schedule: dict, networks: dict) -> list[Any]:
    """Return a folder's scheduler, its networks in order, and the encoder's tokenizer.

    Whatever goes wrong is told in one line.
    """
    models = {}
    try:
        models["scheduler"] = _build_scheduler(schedule)
        for part, (kind, *_) in networks.items():
            # costs seconds, so only when a prior is loaded
            library = importlib.import_module(LIBRARY.get(part, "diffusers"))
            models[part] = load_network(getattr(library, kind), root, part)
        if "text_encoder" in models:
            models["tokenizer"] = _load_tokenizer(root, models["text_encoder"])
    except Exception as error:  # diffusers raises many kinds for broken weights
        raise file_error(
            root, f" can't be loaded: {checks.first_line(error)}"
        ) from None
    return [*models.values()]


def _check_kind(part: str, config: dict, expected: tuple[str, ...]) -> None:
    """Raise unless a part is what a prior has in its place."""
    found = config.get("_class_name")
    if found is None:  # as transformers calls it
        found = next(iter(config.get("architectures") or ()), None)
    ensure(
        found in expected,
        f"{part} is a {found}, expected a {expected[0]}; {SUPPORTED}",
    )
    for name in UNKNOWN:
        value = config.get(name)
        ensure(value is None, f"{part} has {name} {value!r}; {SUPPORTED}")


def _check_numbers(part: str, config: dict) -> None:
    """Raise unless the numbers by which a prior computes make sense.

    diffusers takes any, and doesn't look at some. What is missing has its default.
    """
    if part == "transformer":
        patch = config.get("patch_size", 2)
        checks.integer(patch, "patch_size of the transformer", 1)
        size = config.get("sample_size", 32)
        name = "sample_size of the transformer"
        checks.integer(size, name, 1)
        whole = size % patch == 0
        checks.require(whole, name, size, f"a multiple of patch_size ({patch})")
    if part == "vae":
        scale = config.get("scaling_factor", 1)
        checks.number(scale, "scaling_factor of the vae", 1e-4, 1e4)
        shift = config.get("shift_factor")
        if shift is not None:
            checks.number(shift, "shift_factor of the vae", -1e4, 1e4)
        _check_statistics(config)


def _check_statistics(config: dict) -> None:
    """Raise unless a VAE has mean and std of each channel, or neither."""
    lowest = {"latents_mean": -1e4, "latents_std": 1e-4}
    found = {name: config[name] for name in lowest if config.get(name) is not None}
    if not found:
        return
    lacking = ", ".join(lowest.keys() - found.keys())
    ensure(not lacking, f"the vae has {', '.join(found)} without {lacking}")
    ensure(
        not config.get("shift_factor"),
        "the vae has both shift_factor and latents_mean; expected one of them",
    )
    channels = config.get("latent_channels", 4)
    for name, values in found.items():
        fits = isinstance(values, list) and len(values) == channels
        what = f"{channels} numbers, one for each of latent_channels"
        checks.require(fits, f"{name} of the vae", checks.plain(values), what)
        for value in values:
            checks.number(value, f"a value in {name} of the vae", lowest[name], 1e4)


def _read_info(root: Path) -> dict:
    """Return what a folder says about itself in our own file, if it has one."""
    path = root / "diver_lite.json"
    if not os.path.lexists(path):
        return {}
    info = _read_json(path)
    checks.instance(info.get("name", ""), f"name in {path.name}", str)
    # settings of a recovery, by name
    checks.instance(info.get("recommended", {}), f"recommended in {path.name}", dict)
    how = info.get("image_fit", "resize")
    checks.one_of(how, f"image_fit in {path.name}", ("pad", "resize"))
    return info


def load_network(kind: Any, root: Path, part: str) -> Any:
    """Load one part, frozen; raise where weights or numbers don't fit its class."""
    config = _read_json(root / part / "config.json")
    for name, hint in get_type_hints(kind.__init__).items():
        if name in config and hint is float:
            checks.number(config[name], name, -1e6, 1e6)
        elif name in config and hint is int:
            checks.integer(config[name], name, 0)
    _check_weights(root / part, part)
    network, report = kind.from_pretrained(
        root / part, torch_dtype=torch.float32, output_loading_info=True
    )
    # the library would fill some with random numbers, and leave out others
    lacking = sorted(report["missing_keys"])
    ensure(not lacking, f"{part} lacks {', '.join(lacking[:9])}")
    left = [k for k in report["unexpected_keys"] if re.search(r"\.\d+\.", k)]
    ensure(not left, f"{part} has no place for the weights {min(left, default='')}")
    return network.eval().requires_grad_(False)


def _check_weights(folder: Path, part: str) -> None:
    """Raise unless weights are floats: others would be cast without a word."""
    # without those of a variant, such as model.fp16.safetensors, which isn't read; and
    # without pipes, which would be waited for: the library says that a file is missing
    files = [
        file
        for file in sorted(folder.iterdir())
        if file.name.count(".") == 1 and file.is_file()
    ]
    safe = [file for file in files if file.suffix == ".safetensors"]
    kinds: dict[str, str] = {}
    for file in safe:
        with safe_open(file, "pt") as weights:
            names = weights.keys()
            kinds |= {name: weights.get_slice(name).get_dtype() for name in names}
    for file in files:
        if safe or file.suffix != ".bin":
            continue
        try:
            weights = torch.load(file, map_location="meta", weights_only=True)
            whole = {k: w for k, w in weights.items() if not w.is_floating_point()}
        except Exception:  # torch's own message tells how to run what is in there
            raise InputError(f"{part}/{file.name} holds more than weights") from None
        kinds |= {name: str(weight.dtype) for name, weight in whole.items()}
    for name, kind in kinds.items():
        # old text encoders store the places of words beside their weights
        fits = kind.startswith(("F", "BF")) or name.endswith("position_ids")
        ensure(fits, f"weights of the {part} hold {name} as {kind}; expected floats")


def _load_tokenizer(root: Path, encoder: Any) -> Any:
    """Load a tokenizer that makes at most as many words as the encoder takes."""
    from transformers import CLIPTokenizer

    _read_json(root / "tokenizer/tokenizer_config.json")  # it is there, and is JSON
    tokenizer = CLIPTokenizer.from_pretrained(root / "tokenizer")
    # in real folders it may be missing, which means 1e30
    found = checks.number(tokenizer.model_max_length, "model_max_length", 3)
    tokenizer.model_max_length = min(int(found), encoder.config.max_position_embeddings)
    return tokenizer


def _build_scheduler(config: dict):
    """Build a `DDIMScheduler` with the noise schedule of any of diffusers' schedulers.

    Networks are trained with betas, not with a way to step along them: the class that
    the config names is never looked up. What else DDIM knows of it carries over.
    Straight paths have no betas, so flow matching keeps its own scheduler. Raises
    `InputError` and others for another schedule, or another prediction.
    """
    import diffusers

    kind = config.get("_class_name")
    if kind == "FlowMatchEulerDiscreteScheduler":
        return _build_flow(config)
    needed = ["num_train_timesteps"]
    if not config.get("trained_betas"):
        needed += ["beta_start", "beta_end", "beta_schedule"]
    lacking = ", ".join(name for name in needed if config.get(name) is None)
    ensure(not lacking, f"the scheduler, a {kind}, has no {lacking}; expected betas")
    for name, usual in BETAS_ALONE.items():
        value = config.get(name)
        ensure(
            not value or value in usual,
            f"the scheduler, a {kind}, has {name} {value!r}; expected {usual[0]!r} and "
            "the noise schedule that its betas give",
        )
    total = checks.integer(config["num_train_timesteps"], "num_train_timesteps", 2)
    known = inspect.signature(diffusers.DDIMScheduler).parameters
    # null is diffusers' word for what isn't set
    said = {name: value for name, value in config.items() if value is not None}
    shared = {name: value for name, value in said.items() if name in known}
    scheduler = diffusers.DDIMScheduler(**shared)
    alphas = scheduler.alphas_cumprod
    lowest = 0.0
    if config.get("prediction_type") == "v_prediction":
        lowest = -1e-9  # a velocity tells the image from pure noise, too
    within = bool(lowest < alphas[-1] < alphas[0] < 1)
    falling = bool((alphas.diff() < 0).all())
    ensure(
        within and falling and len(alphas) == total,
        f"the scheduler's betas give alphas_cumprod from {alphas[:1].tolist()} to "
        f"{alphas[-1:].tolist()} in {len(alphas)} timesteps; expected a fall between 1 "
        f"and 0 in num_train_timesteps ({total})",
    )
    checks.integer(scheduler.config["steps_offset"], "steps_offset", 0, total - 1)
    checks.one_of(
        scheduler.config["timestep_spacing"],
        "timestep_spacing",
        ("leading", "linspace", "trailing"),
    )
    return scheduler


def _build_flow(config: dict) -> Any:
    """Build the scheduler of straight paths, whose steps may be shifted, not more."""
    import diffusers

    for name, value in config.items():
        more = name.startswith(("use_", "invert_", "stochastic_")) and value
        ensure(not more, f"the scheduler of flow matching has {name} {value!r}")
    total = config.get("num_train_timesteps", 1000)
    return diffusers.FlowMatchEulerDiscreteScheduler(
        num_train_timesteps=checks.integer(total, "num_train_timesteps", 2),
        shift=checks.number(config.get("shift", 1.0), "shift", 1e-3, 1e3),
    )


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


def _read_config(root: Path, part: str) -> dict:
    """Return the config of a part; raise at sizes that nobody has.

    diffusers would make them before it looks.
    """
    path = root / part / "config.json"
    if part == "scheduler":
        path = root / part / "scheduler_config.json"
    config = _read_json(path, largest=2**17)
    with naming(path):
        for name, value in config.items():
            highest = 100_000
            if "layers" in name:
                highest = 1000
            for number in value if isinstance(value, list) else [value]:
                fits = not isinstance(number, int) or number <= highest
                checks.require(fits, name, number, f"at most {highest}")
        sides: list[Any] = [config.get(name) for name in POSITIONS]
        if all(isinstance(side, int) and side > 0 for side in sides):
            size, patch, heads, width = sides
            count = (size // patch) ** 2 * heads * width
            checks.integer(count, "positions x channels of the transformer", 1, 2**26)
    return config


def _read_json(path: Path, largest: int = 2**25) -> dict:
    layout = f"model_index.json, {'/, '.join(NETWORKS)}/, scheduler/"
    with naming(path, f"a JSON object of diffusers' layout ({layout})"):
        checks.integer(path.stat().st_size, "its size in bytes", 0, largest)
        content = json.loads(path.read_text("utf-8"))
        checks.instance(content, "the JSON", dict)
    return content
