"""Turn a published SiT checkpoint into a folder in diffusers' format.

Run: python scripts/convert_sit.py SiT-XL-2-256x256.pt --vae sd-vae-ft-ema -o sit

SiT has DiT's network, trained on straight paths: z = (1 - s) z_0 + s noise. It counts
time from noise (0) to clean (1), and predicts z_0 - noise; the folder's weights predict
noise - z_0, as diffusers' flow matching does, and `diver_lite.json` says that time is
embedded SiT's way (`priors.loading.use_sit_timesteps`).

Source: SiT, Ma et al. 2024, whose code names the weights; the mapping: ours.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diver_lite.checks import InputError, describe, file_error, first_line, path
from diver_lite.files import atomic_path, check_writable
from diver_lite.priors.loading import load_network
from diver_lite.sets.names import class_names

HEAD_DIM = {1152: 72}  # SiT-XL; all smaller ones have 64


def convert_sit(checkpoint: str | Path, out: str | Path, *, vae: str | Path) -> None:
    """Write the folder of a prior from a SiT checkpoint (a .pt file).

    Args:
        checkpoint: the state of the network, or a training's with its "ema"; read
            without running any code that is in it.
        out: the folder to write.
        vae: a prior's folder, or one of an `AutoencoderKL`, whose latents it knows.

    Raises:
        InputError: no such file, not a SiT's weights, or of a shape that doesn't fit.
    """
    file, out = path(checkpoint, "checkpoint"), path(out, "out")
    check_writable(out, overwrite=False)
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
        state = state.get("ema", state)
        state = {name: weight.float() for name, weight in state.items()}
    except Exception as error:
        raise file_error(file, f" can't be read: {first_line(error)}") from None
    transformer = build_transformer(state, str(file))
    import diffusers

    folder = path(vae, "vae")
    if (folder / "vae").is_dir():
        folder /= "vae"
    try:
        kind = diffusers.AutoencoderKL
        autoencoder = load_network(kind, folder.parent, folder.name)
    except Exception as error:  # diffusers raises many kinds
        raise file_error(folder, f" can't be loaded: {first_line(error)}") from None
    scheduler: Any = diffusers.FlowMatchEulerDiscreteScheduler()
    with atomic_path(out) as temporary:
        diffusers.DiTPipeline(
            transformer=transformer,
            vae=autoencoder,
            scheduler=scheduler,
        ).save_pretrained(temporary)
        file = temporary / "model_index.json"
        index = json.loads(file.read_text())
        if transformer.config.num_embeds_ada_norm == 1000:
            names = class_names("imagenet")
            index["id2label"] = {str(i): name for i, name in enumerate(names)}
        file.write_text(json.dumps(index, indent=1) + "\n")
        info = {"name": Path(checkpoint).stem, "timestep_embedding": "sit"}
        (temporary / "diver_lite.json").write_text(json.dumps(info, indent=1) + "\n")


def build_transformer(state: dict[str, Tensor], name: str) -> Any:
    """Return diffusers' DiT with these weights of a SiT; its sizes follow from them."""
    import diffusers

    try:
        weight = state["x_embedder.proj.weight"]  # (D, C, patch, patch)
        width, channels, patch, _ = weight.shape
        blocks = {
            int(m[1]) for key in state if (m := re.match(r"blocks\.(\d+)\.", key))
        }
        tokens = state["pos_embed"].shape[1]
        classes = len(state["y_embedder.embedding_table.weight"]) - 1
        outputs = len(state["final_layer.linear.weight"]) // patch**2
    except (KeyError, ValueError, AttributeError) as error:
        raise InputError(
            f"{name} holds no weights of a SiT: {first_line(error)}; expected those of "
            "the published SiT-XL/2 or of its smaller kin"
        ) from None
    head = HEAD_DIM.get(width, 64 if width % 64 == 0 else width)
    transformer: Any = diffusers.DiTTransformer2DModel(
        num_attention_heads=width // head,
        attention_head_dim=head,
        in_channels=channels,
        out_channels=outputs,
        num_layers=len(blocks),
        sample_size=round(tokens**0.5) * patch,
        patch_size=patch,
        num_embeds_ada_norm=classes,
        norm_eps=1e-6,
    )
    weights = dict(_renamed(state))
    wanted = transformer.state_dict()
    for key, tensor in wanted.items():
        found = weights.get(key)
        if found is None or found.shape != tensor.shape:
            shape = "nothing" if found is None else f"shape {[*found.shape]}"
            expected = f"shape {[*tensor.shape]}"
            raise InputError(f"{name}: {key} has {shape}; expected {expected}")
    if left := sorted(weights.keys() - wanted.keys()):
        raise InputError(f"{name} has a weight {describe(left[0])} that no SiT has")
    transformer.load_state_dict(weights)
    table = transformer.pos_embed.pos_embed
    if (table - state["pos_embed"]).abs().max() > 1e-4:
        raise InputError(f"{name} has another pos_embed than SiT's sines and cosines")
    return transformer.eval()


def _renamed(state: dict[str, Tensor]):
    """Yield diffusers' names and weights; each block has its own embedding there."""
    final = {"weight": -state["final_layer.linear.weight"]}  # noise - z_0
    final["bias"] = -state["final_layer.linear.bias"]
    modulation = "final_layer.adaLN_modulation.1"
    for kind in ("weight", "bias"):
        yield f"pos_embed.proj.{kind}", state[f"x_embedder.proj.{kind}"]
        yield f"proj_out_1.{kind}", state[f"{modulation}.{kind}"]
        yield f"proj_out_2.{kind}", final[kind]
    names = {
        "attn.proj": "attn1.to_out.0",
        "mlp.fc1": "ff.net.0.proj",
        "mlp.fc2": "ff.net.2",
        "adaLN_modulation.1": "norm1.linear",
    }
    for key, weight in state.items():
        match = re.fullmatch(r"blocks\.(\d+)\.(.+)\.(weight|bias)", key)
        if not match:
            continue
        block, part, kind = match.groups()
        ours = f"transformer_blocks.{block}"
        if part == "attn.qkv":
            for letter, piece in zip("qkv", weight.chunk(3), strict=True):
                yield f"{ours}.attn1.to_{letter}.{kind}", piece
            continue
        yield f"{ours}.{names.get(part, part)}.{kind}", weight
        if (part, kind) == ("adaLN_modulation.1", "weight"):
            emb, table = f"{ours}.norm1.emb", "embedding_table.weight"
            yield f"{emb}.class_embedder.{table}", state[f"y_embedder.{table}"]
            for one, two in {"mlp.0": "linear_1", "mlp.2": "linear_2"}.items():
                for each in ("weight", "bias"):
                    where = f"{emb}.timestep_embedder.{two}.{each}"
                    yield where, state[f"t_embedder.{one}.{each}"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path, help="a .pt file of SiT's weights")
    vae = "a folder with the VAE whose latents it knows"
    parser.add_argument("--vae", type=Path, required=True, help=vae)
    out = "the prior's folder to write"
    parser.add_argument("-o", "--out", type=Path, required=True, help=out)
    arguments = parser.parse_args()
    try:
        convert_sit(arguments.checkpoint, arguments.out, vae=arguments.vae)
    except InputError as error:
        parser.error(str(error))
    print(f"wrote {arguments.out}/, for --prior {arguments.out}")


if __name__ == "__main__":
    main()
