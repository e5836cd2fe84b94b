"""A converted SiT answers as the original does, written again from its paper's code."""

import math

import pytest
import torch
import torch.nn.functional as F
from convert_sit import convert_sit, main
from diffusers.models.embeddings import get_2d_sincos_pos_embed
from safetensors.torch import save_file

from diver_lite.checks import InputError
from diver_lite.make.train_prior import PriorRecipe, build_vae
from diver_lite.priors.fast import FastPrior
from diver_lite.priors.loading import load_prior

WIDTH, DEPTH, HEADS, CLASSES, SIDE = 128, 2, 2, 5, 8


def sit_state(seed=0):
    """Return random weights under the names of the published code."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {"x_embedder.proj": (WIDTH, 4, 2, 2)}
    shapes |= {"t_embedder.mlp.0": (WIDTH, 256), "t_embedder.mlp.2": (WIDTH, WIDTH)}
    for i in range(DEPTH):
        shapes |= {
            f"blocks.{i}.attn.qkv": (3 * WIDTH, WIDTH),
            f"blocks.{i}.attn.proj": (WIDTH, WIDTH),
            f"blocks.{i}.mlp.fc1": (4 * WIDTH, WIDTH),
            f"blocks.{i}.mlp.fc2": (WIDTH, 4 * WIDTH),
            f"blocks.{i}.adaLN_modulation.1": (6 * WIDTH, WIDTH),
        }
    shapes |= {"final_layer.linear": (32, WIDTH)}
    shapes |= {"final_layer.adaLN_modulation.1": (2 * WIDTH, WIDTH)}
    state = {"y_embedder.embedding_table.weight": (CLASSES + 1, WIDTH)}
    for name, shape in shapes.items():
        state |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    state = {
        name: torch.randn(shape, generator=generator) / math.prod(shape[1:]) ** 0.5
        for name, shape in state.items()
    }
    table = get_2d_sincos_pos_embed(WIDTH, 4, base_size=4, output_type="pt")
    return state | {"pos_embed": table.float()[None]}


def sit(w, x, t, y):
    """Return SiT's velocity z_0 - noise: x (B, 4, 8, 8), t in [0, 1], y (B,)."""

    def linear(name, h):
        return F.linear(h, w[f"{name}.weight"], w[f"{name}.bias"])

    def modulated(h, shift, scale):
        h = F.layer_norm(h, (WIDTH,), eps=1e-6)
        return h * (1 + scale[:, None]) + shift[:, None]

    h = F.conv2d(x, w["x_embedder.proj.weight"], w["x_embedder.proj.bias"], stride=2)
    h = h.flatten(2).transpose(1, 2) + w["pos_embed"]
    angles = t[:, None] * torch.exp(-math.log(10000) * torch.arange(128) / 128)
    c = torch.cat([angles.cos(), angles.sin()], dim=1)
    c = linear("t_embedder.mlp.2", F.silu(linear("t_embedder.mlp.0", c)))
    c = F.silu(c + w["y_embedder.embedding_table.weight"][y])
    for i in range(DEPTH):
        parts = linear(f"blocks.{i}.adaLN_modulation.1", c).chunk(6, dim=1)
        qkv = linear(f"blocks.{i}.attn.qkv", modulated(h, parts[0], parts[1]))
        q, k, v = qkv.unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        scores = (q @ k.transpose(-1, -2) / math.sqrt(WIDTH / HEADS)).softmax(-1)
        attended = (scores @ v).transpose(1, 2).flatten(2)
        h = h + parts[2][:, None] * linear(f"blocks.{i}.attn.proj", attended)
        inner = linear(f"blocks.{i}.mlp.fc1", modulated(h, parts[3], parts[4]))
        inner = F.gelu(inner, approximate="tanh")
        h = h + parts[5][:, None] * linear(f"blocks.{i}.mlp.fc2", inner)
    shift, scale = linear("final_layer.adaLN_modulation.1", c).chunk(2, dim=1)
    h = linear("final_layer.linear", modulated(h, shift, scale))
    h = h.reshape(len(x), 4, 4, 2, 2, 8)
    return torch.einsum("nhwpqc->nchpwq", h).reshape(len(x), 8, SIDE, SIDE)[:, :4]


@pytest.fixture
def vae(tmp_path):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        build_vae(PriorRecipe(vae_channels=(16, 32))).save_pretrained(tmp_path / "vae")
    return tmp_path / "vae"


@pytest.mark.parametrize("holder", ["plain", "ema"])
def test_a_converted_sit_answers_as_the_original(
    tmp_path, vae, monkeypatch, capsys, holder
):
    state, file = sit_state(), tmp_path / "SiT-tiny.pt"
    torch.save(state if holder == "plain" else {"ema": state, "step": 3}, file)
    command = ["convert_sit.py", file, "--vae", vae, "-o", tmp_path / "sit"]
    monkeypatch.setattr("sys.argv", [*map(str, command)])
    main()
    assert "--prior" in capsys.readouterr().out
    prior = load_prior(tmp_path / "sit", device="cpu")
    assert (prior.info["name"], prior.num_classes) == ("SiT-tiny", CLASSES)
    generator = torch.Generator().manual_seed(1)
    z, y = torch.randn(3, 4, SIDE, SIDE, generator=generator), torch.tensor([0, 4, 2])
    for timestep in (30, 510, 970):
        alpha, sigma = prior.signal_and_noise(timestep)
        t = torch.full((3,), 1 - sigma.item())
        null = torch.full_like(y, CLASSES)
        cond, uncond = sit(state, z, t, y), sit(state, z, t, null)
        velocity = uncond + 3.0 * (cond - uncond)  # z_0 - noise
        for one in (prior, FastPrior(prior)):
            x_0, eps = one.denoise(z, timestep, y, 3.0)
            assert velocity.std() > 0.5
            torch.testing.assert_close(x_0 - eps, velocity, atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(alpha * x_0 + sigma * eps, z, atol=1e-4, rtol=0)


def another_shape(state):
    state["blocks.1.attn.proj.weight"] = torch.zeros(WIDTH, WIDTH + 1)


def another_table(state):
    state["pos_embed"] += 1


BAD = {
    "a bias less": (
        lambda s: s.pop("blocks.0.mlp.fc1.bias"),
        "net.0.proj.bias has noth",
    ),
    "another shape": (
        another_shape,
        r"to_out.0.weight has shape \[128, 129\]; expected",
    ),
    "a block more": (
        lambda s: s.update({"blocks.2.attn.proj.bias": torch.zeros(3)}),
        "transformer_blocks.2",
    ),
    "another table": (another_table, "another pos_embed"),
    "a ResNet": (
        lambda s: (s.clear(), s.update(a=torch.ones(1))),
        "no weights of a SiT",
    ),
    "words": (lambda s: s.update(a="b"), "can't be read"),
}


@pytest.mark.parametrize("name", BAD)
def test_checkpoints_that_are_no_sit(tmp_path, vae, name):
    """The weight that doesn't fit is named, and no folder remains."""
    damage, message = BAD[name]
    state = sit_state()
    damage(state)
    torch.save(state, tmp_path / "a.pt")
    with pytest.raises(InputError, match=message):
        convert_sit(tmp_path / "a.pt", tmp_path / "sit", vae=vae)
    assert not (tmp_path / "sit").exists()


def test_the_command_says_what_is_wrong_in_one_line(tmp_path, vae, monkeypatch, capsys):
    command = ["convert_sit.py", "none.pt", "--vae", str(vae), "-o", "sit"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", command)
    with pytest.raises(SystemExit) as exit:
        main()
    assert exit.value.code == 2
    assert "error: none.pt can't be read" in capsys.readouterr().err.splitlines()[-1]


def test_files_that_are_none(tmp_path, vae):
    save_file({"a": torch.ones(1)}, tmp_path / "b.pt")
    torch.save(sit_state(), tmp_path / "a.pt")
    for checkpoint, folder, message in (
        ("none.pt", vae, "none.pt.* can't be read"),
        ("b.pt", vae, "b.pt.* can't be read"),
        ("a.pt", tmp_path / "nowhere", "nowhere.*config.json: no such file"),
    ):
        with pytest.raises(InputError, match=message):
            convert_sit(tmp_path / checkpoint, tmp_path / "sit", vae=folder)
