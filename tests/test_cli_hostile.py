"""Whatever a user types: exit code 2, one line that says what is wrong, no debris.

Each option of each command gets values that it can't have, the others stay good ones.
"""

import os
import re
import sys

import pytest
import torch
from cases import each
from PIL import Image

from diver_lite.sets.distilled import DistilledSet

LONG = "x" * 5000
NO_COUNT = ("0", "-1", "1.5", "x", "1e3", "True", str(2**31), str(10**30), "", "0x1")
NO_SEED = ("-1", "1.5", "x", str(10**30), "", "None")
NO_DEVICE = ("", "abacus", "cuda:99", "cpu:cpu", LONG, "meta", "cuda:-1")
NO_FOLDER = ("", "nowhere", "file.txt", "file.txt/deeper", LONG, "loop")
NO_SETTING = (
    "", "=", "lr", "=1", "nothing=1", "__class__=1", "steps=0", "steps=1.5", "steps=x",
    "steps=True", "steps=None", "steps=[1]", f"steps={10**30}", "lr=", "lr=x", "lr=-1",
    "lr=nan", "lr=1e999", "lr=1j", "lr={", "lr=(1, 2)", "init=zeros", "init=1",
    "init=None", "augment=1", "augment=yes", "inner_loops=-1", "expert_epochs=1",
    "real_batch=0", f"steps={LONG}", "lr=b'1'", "lr=\n", "lr='1'", "syn_steps=-3",
)  # fmt: skip
NO_RECIPE = (
    "", "layers", "nothing=1", "layers=0", "layers=1.5", "layers=x", "heads=-1",
    "flip=2", "flip=yes", "image_fit=crop", "vae_channels=16", "vae_channels=(0,)",
    "vae_channels=()", "vae_channels=(7,)", "vae_channels=x", "kl_weight=-1",
    "dit_lr=nan", "label_dropout=2", "ema_decay=2", "snr_gamma=x", "dataset=3",
    "patch_size=3", "dataset=nowhere", "vae_channels=(16,)*9", "head_dim=0",
    "vae_steps=0", "vae_steps=1.5", "dit_steps=x", "dit_steps=True", "objective=velo",
)  # fmt: skip
NO_PROTOCOL = (
    "", "=", "steps", "nothing=1", "steps=0", "steps=-1", "steps=1.5", "steps=x",
    f"steps={2**31}", "steps=None", "epochs=1", "labels=softer", "labels=1", "lr=0",
    "lr=x", "augment=flip", "augment=('spin',)", "statistics=1", "optimizer=adam",
    "judge_norm={'ConvNet': 'XN'}", "crops=1", "batch_size=0",
)  # fmt: skip
# a file of the user's, of a program's, a folder of the user's, nowhere, too long
NO_PLACE = (
    "", "file.txt/a{}", "folder{}", "/proc/nowhere/a{}", "a.pt", "none", "loop/a{}",
    "x" * 250 + "{}", LONG + "{}", f"{LONG}/a{{}}", "folder", ".", "..", "/",
)  # fmt: skip

DISTILL = ("distill", "dm", "--data", "data", "--split", "train", "--set", "steps=1",
           "--set", "real_batch=2", "--device", "cpu")  # fmt: skip
JUDGE = ("judge", "good.safetensors", "--data", "data", "--judges", "ConvNet",
         "--seeds", "1", "--set", "steps=1", "--device", "cpu")  # fmt: skip
TRAIN = ("train-prior", "fashion-mnist", "--set", "dataset=data", "--set",
         "dit_steps=1", "--set", "vae_steps=1", "--device", "cpu")  # fmt: skip
RECOVER = ("recover", "good.safetensors", "--prior", "nowhere", "--device", "cpu")


def turn(values, number, of):
    """Return a share of the values: each option of one kind gets another one."""
    return values[number::of]


def suffixed(places, suffix):
    return tuple(place.format(suffix) for place in places)


SAFE = suffixed(NO_PLACE, ".safetensors")
# command -> option -> values; "" is the argument without an option
HOSTILE = {
    (*DISTILL, "-o", "out.safetensors"): {
        "--ipc": (*NO_COUNT, "4"),
        "--seed": (*NO_SEED, str(2**31)),
        "--set": NO_SETTING,
        "--data": ("", "nowhere", "file.txt", "grey", LONG, "fashion-mnist "),
        "--split": ("", "dev", "TRAIN", "0"),
        "--device": turn(NO_DEVICE, 0, 3),
        "-o": (*SAFE, "there.safetensors", "good.safetensors"),
        "--turbo": ("1",),
    },
    ("distill", "mtt", *DISTILL[2:], "-o", "out.safetensors", "--experts", "experts"): {
        "--experts": (
            "",
            "file.txt",
            "out.safetensors",
            "out.checkpoint",
            LONG,
            "loop",
        ),
        "-o": ("experts/expert_000.safetensors",),
        "--set": ("expert_epochs=2", "num_experts=0", "target_epochs=-1"),
    },
    ("distill", "-o", "out.safetensors"): {"": ("gan", "DM", LONG)},
    (*JUDGE, "-o", "t.csv", "--table", "s.md"): {
        "": (
            "",
            "nowhere.pt",
            "=",
            "=good.safetensors",
            "good.safetensors",
            LONG,
            "a=",
            "file.txt",
            "folder",
            "a=nowhere.pt",
            "draw_{seed}.safetensors",
            "three.safetensors",
            "loop",
        ),
        "--data": ("", "nowhere", "file.txt", "folder", LONG, "mnist"),
        "--judges": ("", ",", "convnet", "ConvNet,", "ViT,nobody", LONG),
        "--seeds": turn(NO_COUNT, 0, 3),
        "--protocol": ("", "slow", "Quick", LONG),
        "--set": NO_PROTOCOL,
        "--baseline": ("", "b", "Good"),
        "--test-images": (*turn(NO_COUNT, 1, 3), "7"),
        "--jobs": turn(NO_COUNT, 2, 3),
        "--read": ("", "format", "format=zip", "format=DC", "format=1", "colour=1"),
        "--dataset": ("", "cifar11", LONG),
        "--device": turn(NO_DEVICE, 1, 3),
        "-o": (
            *suffixed(NO_PLACE, ".csv"),
            "other.csv",
            "binary.csv",
            "pipe.csv",
            "s.md",
        ),
        "--table": (
            *suffixed(NO_PLACE, ".md"),
            "t.csv",
            "./t.csv",
            "folder/../t.csv",
            "t.xls",
            "t.CSV",
            "t.csv/s.md",
        ),
        "--turbo": ("1",),
    },
    (*TRAIN, "-o", "out"): {
        "--minutes": ("", "-1", "x", "nan", "inf "),
        "--set": NO_RECIPE,
        "--device": turn(NO_DEVICE, 2, 3),
        "-o": ("", "file.txt", "file.txt/out", LONG, "loop", "busy", "/proc/nowhere"),
    },
    ("train-prior", "-o", "out"): {"": ("imagenet", "CIFAR10", LONG)},
    ("demo",): {
        "--ipc": ("0", "2", "x", ""),
        "--seeds": ("0", "1", "x", ""),
        "-o": ("folder", "file.txt", "file.txt/a", LONG, "/proc/nowhere/a", "loop/a"),
    },
    (*RECOVER, "-o", "run/out.safetensors"): {
        "--class-map": ("", "a", "1,,2", "1.5", ","),
        "--dataset": ("", "imagenot"),
        "--prior-set": ("", "prompt", "size=0", "colour=1"),
        "--images": (
            "",
            "run",
            "run/out.safetensors",
            "run/out.parts",
            ".",
            "run/out.safetensors/png",
            "folder",
            "file.txt/a",
        ),
        "--set": ("", "window", "nothing=1", "num_inference_steps=0"),
        "--preset": ("", "best"),
        "--prior": ("", "nowhere", "file.txt"),
        "--seed": ("", "x"),
        "-o": SAFE,
    },
    ("check",): {"--turbo": ("1",), "": ("more",)},
    (): {"": ("improve", "--turbo", LONG)},
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Return a folder with good and bad inputs, in which all commands run."""
    folder = tmp_path_factory.mktemp("hostile")
    generator = torch.Generator().manual_seed(0)
    for split in ("train", "test"):
        for name in ("a", "b"):
            for index in range(3):
                pixels = torch.randint(256, (32, 32, 3), generator=generator)
                path = folder / "data" / split / name / f"{index}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels.to(torch.uint8).numpy()).save(path)
                grey = folder / "grey" / split / name / path.name
                grey.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (32, 32), (9, 9, 9)).save(grey)
    images = torch.rand(3, 3, 32, 32, generator=generator)
    for name, classes in {"good": "ab", "there": "ab", "three": "abc"}.items():
        count = len(classes)
        DistilledSet(images[:count], torch.arange(count), tuple(classes)).save(
            folder / f"{name}.safetensors"
        )
    (folder / "file.txt").write_text("precious")
    (folder / "other.csv").write_text("a,b\n1,2\n")
    (folder / "binary.csv").write_bytes(bytes(range(256)))
    for name in ("folder", "folder.safetensors", "folder.csv", "folder.md"):
        (folder / name).mkdir()
        (folder / name / "precious.txt").touch()
    (folder / "busy" / "prior").mkdir(parents=True)
    (folder / "busy" / "prior" / "precious.txt").touch()
    (folder / "loop").symlink_to("loop")
    if hasattr(os, "mkfifo"):
        os.mkfifo(folder / "pipe.csv")
    return folder


def tree(folder):
    return {
        path: path.read_bytes() if path.is_file() and not path.is_symlink() else None
        for path in sorted(folder.rglob("*"))
    }


@pytest.fixture
def cli(cli, place, no_network, monkeypatch):
    """Return a function that runs the command line in the place: code, out, err."""
    monkeypatch.chdir(place)
    return cli


def test_every_command_meets_every_kind():
    """Options of one kind share their values, and none is left without."""
    assert all(values for options in HOSTILE.values() for values in options.values())
    for command in (DISTILL, JUDGE):
        (options,) = (o for c, o in HOSTILE.items() if c[: len(command)] == command)
        met = {value for name in options for value in options[name]}
        assert met >= {*NO_COUNT}, command[0]
    devices = {value for o in HOSTILE.values() for value in o.get("--device", ())}
    assert devices == {*NO_DEVICE}


@pytest.mark.skipif(sys.platform == "win32", reason="pipes and /proc")
@pytest.mark.parametrize("command", HOSTILE, ids=lambda command: " ".join(command[:2]))
def test_it_is_refused(cli, place, command):
    options = HOSTILE[command]
    rows = [(option, value) for option in options for value in options[option]]
    before = tree(place)
    each(("option", "value"), rows)(is_refused)(
        cli=cli, place=place, before=before, command=command
    )


def is_refused(cli, place, before, command, option, value):
    code, out, err = cli(*command, *([option] if option else []), value)
    assert code == 2, err
    assert out == ""
    *above, line = err.strip().splitlines()
    assert line.startswith("Error: " if above else "diver-lite: error: "), err
    assert not above or above[0].startswith("Usage: "), err
    word = option.strip("-").replace("-", "_").removesuffix("s")
    given = re.split(r"[=.{]", value)  # FIELD=VALUE, NAME=FILE.ENDING
    names = [
        option,
        word,
        "field of",
        "SET",
        "argument",
        *(part[:40] for part in given),
    ]
    assert any(name in line for name in names if name), err
    assert "Traceback" not in err
    assert tree(place) == before
