"""What the page "Play with DIVER" loads: the shipped priors and sets, and a runtime.

Nothing of it is committed. The networks are exported to ONNX from the shipped priors,
the runtime is onnxruntime-web out of npm's registry. A page that is opened from disk
may neither fetch nor import, but it may add scripts: so everything is packed into
bundles (files one behind the other, gzip), which travel as base64 in scripts of 1 MB.
"""

from __future__ import annotations

import base64
import functools
import gzip
import hashlib
import json
import re
import shutil
import subprocess
import tarfile
import tempfile
import warnings
from pathlib import Path

import filelock
import numpy as np
import platformdirs
import torch

from diver_lite.assets import ROOT as ASSETS
from diver_lite.assets import list_assets
from diver_lite.files import atomic_path
from diver_lite.priors.dit import DiTPrior
from diver_lite.priors.loading import load_prior
from diver_lite.priors.schedule import draw_noise
from diver_lite.sets.load import load_distilled

RUNTIME = "onnxruntime-web@1.30.0"  # its licence: MIT
# name of a bundle -> files in the package's dist/: the library, its glue, its machine
RUNTIMES = {
    "runtime-wasm": ["ort.wasm.min.js", "ort-wasm-simd-threaded"],
    "runtime-webgpu": ["ort.webgpu.min.js", "ort-wasm-simd-threaded.asyncify"],
}
TITLES = {"fashion-mnist": "garments", "cifar10": "photographs"}
PART = 1_000_000  # characters of base64 in one script; a multiple of 4
MANIFEST = "manifest.json"


class Unavailable(Exception):
    """Why the files can't be made here, in words for the reader of the page."""


def live_files() -> Path:
    """Return the folder with the bundles and their manifest, made if need be.

    It lies in the user's cache and is made once per version of what it is made of.
    Raises `Unavailable`.
    """
    folder = Path(platformdirs.user_cache_dir("diver_lite")) / "live" / _fingerprint()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Unavailable(f"{folder.parent} can't be written") from error
    with filelock.FileLock(f"{folder}.lock"):  # the tests and the book want it at once
        if not folder.is_dir():
            with atomic_path(folder) as unfinished:
                unfinished.mkdir()
                _make(unfinished)
    return folder


def _fingerprint() -> str:
    """Name the version of all that the files are made of."""
    made_of = [Path(__file__).read_bytes(), (ASSETS / "SHA256SUMS").read_bytes()]
    made_of.append(torch.__version__.encode())
    return hashlib.sha256(b"".join(made_of)).hexdigest()[:16]


def _make(folder: Path) -> None:
    runtimes = _runtimes()
    manifest: dict = {"bundles": {}, "priors": {}, "sets": {}}
    add = functools.partial(_add_bundle, folder, manifest["bundles"])
    for name, files in runtimes.items():
        add(name, files)
    for name, title in TITLES.items():
        prior = load_prior(name)
        add(f"prior-{name}", export_prior(prior))
        manifest["priors"][name] = {"title": title, **_describe(prior)}
    for asset in list_assets("distilled/"):
        name = Path(asset).stem
        distilled = load_distilled(name)
        images = distilled.images.half()
        grey = bool((images == images[:, :1]).all())
        images = images[:, :1] if grey else images
        add(f"set-{name}", {"images": images.numpy().tobytes()})
        prior_name = next(prior for prior in TITLES if name.startswith(prior))
        manifest["sets"][name] = {
            "prior": prior_name,
            "labels": distilled.labels.tolist(),
            "shape": list(images.shape),
        }
    (folder / MANIFEST).write_text(json.dumps(manifest))


def _add_bundle(
    folder: Path, bundles: dict, name: str, files: dict[str, bytes]
) -> None:
    """Write scripts `NAME-0.js`, ... and note where each file lies in the bundle."""
    offsets, position = {}, 0
    for file, content in files.items():
        offsets[file] = [position, position + len(content)]
        position += len(content)
    # mtime: or each build makes other files
    text = base64.b64encode(gzip.compress(b"".join(files.values()), 6, mtime=0))
    parts = [text[i : i + PART].decode() for i in range(0, len(text), PART)]
    for number, part in enumerate(parts):
        script = f'Live.part("{name}", {number}, "{part}");\n'
        (folder / f"{name}-{number}.js").write_text(script)
    bundles[name] = {"parts": len(parts), "bytes": len(text), "files": offsets}


# ---------------------------------------------------------------- the runtime


def _runtimes() -> dict[str, dict[str, bytes]]:
    """Get onnxruntime-web from npm's registry: bundle -> file -> content."""
    npm = shutil.which("npm")
    if npm is None:
        raise Unavailable("npm is not installed")
    with tempfile.TemporaryDirectory() as temporary:
        command = [npm, "pack", RUNTIME, "--silent", "--fetch-retries=0"]
        try:
            subprocess.run(
                command, cwd=temporary, check=True, capture_output=True, timeout=300
            )
            (archive,) = Path(temporary).glob("*.tgz")
            with tarfile.open(archive) as tar:
                return {
                    name: _read_runtime(tar, library, machine)
                    for name, (library, machine) in RUNTIMES.items()
                }
        except (subprocess.SubprocessError, OSError, ValueError, KeyError) as error:
            raise Unavailable(f"{RUNTIME} could not be fetched with npm") from error


def _read_runtime(tar: tarfile.TarFile, library: str, machine: str) -> dict[str, bytes]:
    def read(name: str) -> bytes:
        member = tar.extractfile(f"package/dist/{name}")
        assert member is not None  # extractfile is None for folders only
        return member.read()

    return {
        "library": read(library),
        "glue": read(f"{machine}.mjs"),
        "machine": read(f"{machine}.wasm"),
    }


# ---------------------------------------------------------------- the priors


class _Denoise(torch.nn.Module):
    def __init__(self, prior: DiTPrior) -> None:
        super().__init__()
        self.transformer = prior.transformer

    def forward(self, latents, timestep, class_labels):
        return self.transformer(
            latents, timestep=timestep, class_labels=class_labels
        ).sample


class _Encode(torch.nn.Module):
    """`DiTPrior.encode`, which itself checks its arguments and so can't be traced."""

    def __init__(self, prior: DiTPrior) -> None:
        super().__init__()
        self.vae, self.shift = prior.vae, prior._shift

    def forward(self, images):
        latents = self.vae.encode(images * 2 - 1).latent_dist.mode()
        return (latents - self.shift) * self.vae.config.scaling_factor


class _Decode(_Encode):
    """`DiTPrior.decode`, likewise."""

    def forward(self, latents):
        z = latents / self.vae.config.scaling_factor + self.shift
        return (self.vae.decode(z).sample / 2 + 0.5).clamp(0, 1)


def export_prior(prior: DiTPrior) -> dict[str, bytes]:
    """Export the three networks of a prior to ONNX, weights in 16 bits.

    "denoise": latents (B, C, h, w), timestep (B,), class_labels (B,) -> noise_pred, for
    any B; "encode": images (1, 3, S, S) in [0, 1] -> latents, scaled; "decode": back.
    """
    size = prior.image_size
    images, latents = torch.zeros(1, 3, size, size), torch.zeros(2, *prior.latent_shape)
    asked = (latents, torch.tensor([500, 500]), torch.tensor([0, prior.num_classes]))
    names = ("latents", "timestep", "class_labels")
    batch = {0: torch.export.Dim("batch", min=1, max=64)}
    return {
        "denoise": _export(_Denoise(prior), asked, names, (batch,) * 3),
        "encode": _export(_Encode(prior), (images,), ["images"]),
        "decode": _export(_Decode(prior), (latents[:1],), ["latents"]),
    }


def _export(network, inputs, names, dynamic_shapes=None) -> bytes:
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise Unavailable(
            f"the Python package {error.name} is not installed"
        ) from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's, about itself
        program = torch.onnx.export(
            network.eval(),
            inputs,
            dynamo=True,
            input_names=names,
            output_names=["output"],
            dynamic_shapes=dynamic_shapes,
            verbose=False,
        )
    assert program is not None  # it is only where a file is written
    model = program.model_proto
    _halve(model)
    return model.SerializeToString()


def _halve(model) -> None:
    """Store weights in 16 bits where that changes none, and cast them when loaded."""
    from onnx import TensorProto, helper, numpy_helper

    casts = []
    for weight in model.graph.initializer:
        if weight.data_type != TensorProto.FLOAT:
            continue
        values = numpy_helper.to_array(weight)
        with np.errstate(over="ignore"):
            halves = values.astype(np.float16)
        if (halves == values).all():
            name, stored = weight.name, f"{weight.name}.half"
            weight.CopyFrom(numpy_helper.from_array(halves, stored))
            casts.append(helper.make_node("Cast", [stored], [name], to=1))
    for cast in reversed(casts):
        model.graph.node.insert(0, cast)
    del model.graph.value_info[:]


def _describe(prior: DiTPrior) -> dict:
    """Return what the page's loop must know of a prior, and an answer to check with."""
    scheduler = prior.scheduler.config
    found = [scheduler[key] for key in ("timestep_spacing", "prediction_type")]
    assert found == ["leading", "epsilon"], found  # what live/diver.js is written for
    assert prior.scheduler.final_alpha_cumprod == 1
    noise = draw_noise(prior.latent_shape, [0], 0)
    answer = prior.predict_noise(noise, 500, torch.tensor([0]), 1.0)
    return {
        "classNames": list(prior.class_names),
        "imageFit": prior.info.get("image_fit", "resize"),
        "imageSize": prior.image_size,
        "latentShape": list(prior.latent_shape),
        "alphasCumprod": prior.scheduler.alphas_cumprod.tolist(),
        # predict_noise(draw_noise(..., [0], seed=0), 500, class 0, scale 1)
        "check": answer.flatten()[:16].tolist(),
        "recommended": in_script(prior.info.get("recommended", {})),
    }


def in_script(settings: dict) -> dict:
    """Return settings under the names that they have in JavaScript."""
    return {
        re.sub("_(.)", lambda match: match[1].upper(), name): value
        for name, value in settings.items()
    }
