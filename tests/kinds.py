"""Tiny random priors of every kind that isn't DiT's own: Stable Diffusion, flows."""

import json

import diffusers
import torch
import transformers
from conftest import randomise

from diver_lite.make.train_prior import PriorRecipe, build_dit, build_vae, export_prior

NAMES = ("tabby_cat", "fox", "goldfish")


def bytes_as_letters():
    """Return the 256 letters that stand for bytes in CLIP's vocabulary."""
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = (chr(256 + i) for i in range(256 - len(kept)))
    return [chr(b) if b in kept else next(rest) for b in range(256)]


def save_tokenizer(folder):
    """Write a tokenizer that knows letters alone: no merges."""
    letters = bytes_as_letters()
    words = [*letters, *(f"{x}</w>" for x in letters)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps({w: i for i, w in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    transformers.CLIPTokenizer(
        str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=40
    ).save_pretrained(folder)


def save_stable_diffusion(folder, scheduler=None, seed=0, **changes):
    """Write a random Stable Diffusion of a few thousand weights, as diffusers does."""
    save_tokenizer(folder / "tokenizer")
    tokenizer = transformers.CLIPTokenizer.from_pretrained(folder / "tokenizer")
    unet = {
        "sample_size": 8,
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": 16,
        "attention_head_dim": 4,
    }
    text = transformers.CLIPTextConfig(
        vocab_size=514,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=40,
        bos_token_id=512,
        eos_token_id=513,
        pad_token_id=513,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        parts = {
            "unet": diffusers.UNet2DConditionModel(**unet | changes),
            "text_encoder": transformers.CLIPTextModel(text),
            "vae": build_vae(PriorRecipe(vae_channels=(16, 32))),
        }
    parts["vae"].register_to_config(scaling_factor=2.0)
    with torch.no_grad():  # a random encoder says nearly the same to every prompt
        for weight in parts["text_encoder"].parameters():
            weight.mul_(20)
    parts["scheduler"] = scheduler or stable_scheduler()
    diffusers.StableDiffusionPipeline(
        **parts,
        tokenizer=tokenizer,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    return folder


def stable_scheduler(kind=diffusers.DDIMScheduler, **changes):
    """Return the noise schedule of Stable Diffusion 1.x."""
    usual = {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "steps_offset": 1,
    }
    if kind is diffusers.DDIMScheduler:
        usual |= {"clip_sample": False, "set_alpha_to_one": False}
    return kind(**usual | changes)


def save_flow(folder, shift=1.0):
    """Write a random DiT of velocities, with the VAE of the tiny priors."""
    recipe = PriorRecipe(
        vae_channels=(16, 32), heads=1, head_dim=16, layers=2, objective="flow"
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        vae, dit = build_vae(recipe), randomise(build_dit(recipe, 3), seed=3)
    export_prior(folder, vae, dit, NAMES, "tiny flow", recipe)
    config = folder / "scheduler/scheduler_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"shift": shift}))
    return folder


KINDS = {
    "epsilon": save_stable_diffusion,
    "v": lambda folder: save_stable_diffusion(
        folder, stable_scheduler(prediction_type="v_prediction")
    ),
    "turbo": lambda folder: save_stable_diffusion(
        folder, stable_scheduler(timestep_spacing="trailing", set_alpha_to_one=True)
    ),
    "flow": save_flow,
    "shifted flow": lambda folder: save_flow(folder, shift=3.0),
}
