"""The command line: good runs end to end, and one clear line for every bad input."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
import typer
from PIL import Image

from diver_lite import __version__, assets
from diver_lite.cli import Preset, app, parse_config
from diver_lite.files import sha256
from diver_lite.sets.distilled import DistilledSet
from diver_lite.sets.names import FASHION_MNIST_CLASSES

ROOT = Path(__file__).parents[1]
COMMANDS = sorted(typer.main.get_command(app).commands)
FAST = ("--set", "num_inference_steps=2", "--device", "cpu")

pytestmark = pytest.mark.usefixtures("no_network")


def tree(folder):
    """Return every file and folder below, with the files' contents."""
    return {
        path.relative_to(folder): path.read_bytes() if path.is_file() else None
        for path in Path(folder).rglob("*")
    }


def pixels(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def save_dc(
    name="res_DM_FashionMNIST_ConvNet_2ipc.pt", images=None, labels=None, data=None
):
    """Write a file of DatasetCondensation's format, with what is to be wrong in it."""
    images = pixels(20, 1, 28, 28) if images is None else images
    labels = torch.arange(10).repeat_interleave(2) if labels is None else labels
    torch.save({"data": [[images, labels]] if data is None else data}, name)
    return name


def class_folders(root="folders", names=FASHION_MNIST_CLASSES, size=32):
    for label, name in enumerate(names):
        place = Path(root, name)
        place.mkdir(parents=True)
        for index in range(2):
            colour = (label * 25, index * 100, 50)
            Image.new("RGB", (size, size), colour).save(place / f"{index}.png")
    return root


# --- Good runs ----------------------------------------------------------------------


def test_recover_a_published_file(cli, tiny_prior_folder):
    """A DC file in, a .safetensors file and a PNG folder out, labels kept."""
    source = save_dc()
    arguments = ["recover", source, "--prior", tiny_prior_folder, *FAST, "--seed", 5]
    code, out, _ = cli(*arguments, "-o", "new/a.safetensors", "--images", "png")
    assert code == 0
    assert "wrote new/a.safetensors" in out
    result = DistilledSet.load("new/a.safetensors")
    assert result.images.shape == (20, 3, 28, 28)
    assert result.labels.tolist() == [i // 2 for i in range(20)]
    assert result.class_names == FASHION_MNIST_CLASSES
    assert 0 <= result.images.min() < result.images.max() <= 1
    assert result.provenance["seed"] == 5
    assert result.provenance["config"]["num_inference_steps"] == 2
    assert result.provenance["source"]["format"] == "dc"
    png = sorted(Path("png").glob("*/*.png"))
    assert len(png) == 20
    assert Image.open(png[0]).size == (28, 28)
    code, _, _ = cli(*arguments, "-o", "b.safetensors", "--batch-size", 7)
    assert code == 0
    again = DistilledSet.load("b.safetensors")
    assert torch.allclose(again.images, result.images, atol=1e-5)
    leftovers = {path.name for path in Path().iterdir()} - {"new", "png"}
    assert leftovers == {source, "b.safetensors"}


def test_recover_an_image_folder(cli, tiny_prior_folder):
    """Class folders are classes by their names; settings come from --set."""
    source = class_folders()
    code, out, _ = cli(
        *("recover", source, "--prior", tiny_prior_folder, *FAST),
        *("--preset", "published", "--set", "window=(900,100)"),
        *("--set", "clip_input=True", "--set", "noise_timestep=400"),
        *("-o", "a.safetensors"),
    )
    assert code == 0
    assert "20 images 3x32x32" in out
    result = DistilledSet.load("a.safetensors")
    names = [result.class_names[label] for label in result.labels]
    assert sorted(set(names)) == sorted(FASHION_MNIST_CLASSES)
    config = result.provenance["config"]
    assert config["start"] == "published"
    assert config["window"] == [900, 100]
    assert config["clip_input"] is True
    assert config["noise_timestep"] == 400


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("noise_timestep=1", 1),
        ("window=(1000, -1)", (1000, -1)),
        ("window=816,510", (816, 510)),
        ("window=full", "full"),
        ("start=999", 999),
        ("guidance_factor=1", 1),
        ("guidance_factor=0.5", 0.5),
        ("start=matched", "matched"),
        ("num_inference_steps=3", 3),
    ],
)
def test_a_setting_keeps_its_type(text, value):
    """A timestep is an integer, so a change must not blur them."""
    name = text.partition("=")[0]
    found = getattr(parse_config(Preset.default, [text]), name)
    assert repr(found) == repr(value)
    assert getattr(parse_config(Preset.quick, [text]), name) == value
    assert parse_config(Preset.quick, []).num_inference_steps == 10


@pytest.mark.parametrize(
    ("options", "scale", "steps"),
    [
        ((), 2.5, 4),
        (("--preset", "recommended", "--set", "guidance_scale=3"), 3, 4),
        (("--preset", "quick"), 2.5, 4),  # ten at most
        (("--preset", "default", "--set", "num_inference_steps=2"), 1.5, 2),
    ],
)
def test_the_priors_own_settings_are_used(
    cli, tiny_prior_folder, tmp_path, options, scale, steps
):
    """A prior's folder says what measured best with it; a preset says otherwise."""
    folder = shutil.copytree(tiny_prior_folder, tmp_path / "prior")
    record = json.loads((folder / "diver_lite.json").read_text())
    record["recommended"] = {"guidance_scale": 2.5, "num_inference_steps": 4}
    (folder / "diver_lite.json").write_text(json.dumps(record))
    command = ("recover", save_dc(), "--prior", folder, "--device", "cpu")
    code, *_ = cli(*command, "-o", "a.safetensors", *options)
    assert code == 0
    config = DistilledSet.load("a.safetensors").provenance["config"]
    assert (config["guidance_scale"], config["num_inference_steps"]) == (scale, steps)


def test_recover_replaces_only_when_told_to(cli, tiny_prior_folder):
    """--overwrite replaces a result, and the default keeps it."""
    arguments = ["recover", save_dc(), "--prior", tiny_prior_folder, *FAST]
    assert cli(*arguments, "-o", "a.safetensors")[0] == 0
    first = Path("a.safetensors").read_bytes()
    other = [*arguments, "-o", "a.safetensors", "--seed", 1]
    assert cli(*other)[0] == 2
    assert Path("a.safetensors").read_bytes() == first
    assert cli(*other, "--overwrite")[0] == 0
    second = DistilledSet.load("a.safetensors")
    assert second.provenance["seed"] == 1
    Path("b.safetensors").write_bytes(first)
    first = DistilledSet.load("b.safetensors")
    assert not torch.allclose(first.images, second.images, atol=1e-3)


def test_distill_the_packaged_sample(cli, tiny_prior_folder):
    """Stage I on what ships, and its result goes straight into recover."""
    code, out, _ = cli(
        *("distill", "dm", "--split", "sample", "--ipc", 1, "--set", "steps=2"),
        *("--set", "real_batch=4", "--device", "cpu", "-o", "mine.safetensors"),
    )
    assert code == 0
    assert "wrote mine.safetensors" in out
    assert DistilledSet.load("mine.safetensors").labels.tolist() == list(range(10))
    code, _, _ = cli(
        *("recover", "mine.safetensors", "--prior", tiny_prior_folder, *FAST),
        *("-o", "refined.safetensors"),
    )
    assert code == 0
    source = DistilledSet.load("refined.safetensors").provenance["source"]
    assert source["method"] == "DM"


def test_check(cli):
    """`check` verifies every shipped file and reports versions."""
    code, out, err = cli("check")
    assert (code, err) == (0, "")
    for part in ("python", "torch", "diffusers", "CUDA GPUs", "sha256 ok", "priors"):
        assert part in out


@pytest.mark.parametrize("arguments", [(), *((name,) for name in COMMANDS)])
def test_help(cli, arguments):
    """--help works everywhere, says what a command does, and costs nothing."""
    code, out, err = cli(*arguments, "--help")
    assert (code, err) == (0, "")
    assert "Usage:" in out
    assert len(out.splitlines()) > 5
    if not arguments:
        assert all(name in out for name in COMMANDS)


def test_the_version_is_told(cli):
    code, said, err = cli("--version")
    assert (code, said.splitlines()[0], err) == (0, f"diver-lite {__version__}", "")


@pytest.mark.skipif(sys.platform == "win32", reason="PowerShell has no HOME")
def test_completion_is_installed(tmp_path):
    """It needs a shell's own files, and then names commands and their options."""
    home = tmp_path / "home"
    home.mkdir()
    command = Path(sys.executable).with_name("diver-lite")
    environment = os.environ | {"HOME": str(home), "PYTHONPATH": str(ROOT)}
    # else the shell is looked for among this process's parents: there may be none
    environment["_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION"] = "1"
    run = partial(subprocess.run, capture_output=True, text=True, check=True)
    run([command, "--install-completion", "bash"], env=environment)
    assert list(home.rglob("diver-lite*"))
    words = {"COMP_WORDS": "diver-lite rec", "COMP_CWORD": "1"}
    asked = environment | words | {"_DIVER_LITE_COMPLETE": "complete_bash"}
    assert run([command], env=asked).stdout.split() == ["recover"]


def test_an_interrupted_run_leaves_nothing(cli, tiny_prior_folder, monkeypatch):
    """Ctrl-C: exit code 130, one line, no half-written file."""
    source = save_dc()
    before = tree(".")

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("diver_lite.priors.dit.DiTPrior.decode", interrupted)
    code, out, err = cli(
        *("recover", source, "--prior", tiny_prior_folder, *FAST),
        *("-o", "out.safetensors"),
    )
    assert (code, out) == (130, "")
    assert "interrupted" in err.splitlines()[-1]  # below the progress bar
    assert tree(".") == before


# --- Bad inputs ---------------------------------------------------------------------
# A row: what to do before, the arguments after "recover", what the message holds.
# {prior} is the tiny prior's folder; output goes to out/a.safetensors unless -o is
# given; out/ doesn't exist before and must not exist afterwards.


class Attack:
    """Leaves a trace if a pickle that holds it is executed."""

    def __reduce__(self):
        return (os.mkdir, ("executed",))


def write(name, content):
    def prepare(_):
        Path(name).write_bytes(content)

    return prepare


def dc(**wrong):
    def prepare(_):
        save_dc("set.pt", **wrong)

    return prepare


def cut(fraction):
    def prepare(_):
        content = Path(save_dc("set.pt")).read_bytes()
        Path("set.pt").write_bytes(content[: int(fraction * len(content))])

    return prepare


def spoiled(value):
    images = pixels(20, 1, 28, 28)
    images[3, 0, 5, 5] = value
    return dc(images=images)


def folders(damage=None, **options):
    def prepare(_):
        class_folders(**options)
        if damage:
            damage(Path("folders/Bag/1.png"))

    return prepare


def good(_):
    save_dc("set.pt")


def existing(_):
    good(_)
    Path("there.safetensors").write_bytes(b"precious")


def prior_without(part):
    def prepare(prior):
        good(prior)
        shutil.copytree(prior, "prior")
        shutil.rmtree(Path("prior", part))

    return prepare


def truncated_prior(prior):
    good(prior)
    shutil.copytree(prior, "prior")
    path = Path("prior/vae/diffusion_pytorch_model.safetensors")
    path.write_bytes(path.read_bytes()[:1000])


FM = ("set.pt", "--dataset", "fashion-mnist")
DC = (*FM, "--read", "format=dc")
ONE_HOT = torch.eye(10).repeat_interleave(2, dim=0)

BAD_SETS = {
    "missing file": (None, ("set.pt",), r"set\.pt.*no such file"),
    "empty file": (write("set.pt", b""), FM, r"set\.pt.*empty \(0 bytes\)"),
    "truncated file": (cut(0.5), FM, r"set\.pt.*damaged or truncated"),
    "almost whole file": (cut(0.99), FM, r"set\.pt.*damaged"),
    "text file": (write("set.pt", b"hello, world"), FM, r"set\.pt.*not a torch file"),
    "a PNG for a set": (
        write("set.png", b"\x89PNG\r\n\x1a\n"),
        ("set.png",),
        "set.png",
    ),
    "truncated .safetensors": (
        write("a.safetensors", b"\x10\0\0\0\0\0\0\0{"),
        ("a.safetensors",),
        r"a\.safetensors.*a whole \.safetensors",
    ),
    "malicious pickle": (
        write("set.pt", pickle.dumps({"data": Attack()})),
        FM,
        r"set\.pt.*holds code .*not executed",
    ),
    "malicious torch file": (
        lambda _: torch.save({"data": [Attack()]}, "set.pt"),
        FM,
        r"set\.pt.*holds code .*not executed",
    ),
    "wrong structure": (
        lambda _: torch.save([1, 2, 3], "set.pt"),
        DC,
        r"found a list of 3.*'dc' expects a dict",
    ),
    "another format": (
        good,
        (*FM, "--read", "format=ncfm"),
        r"expected \[images, labels\]",
    ),
    "unknown format": (
        good,
        (*FM, "--read", "format=zip"),
        r"format is 'zip'; expected one of \('auto'",
    ),
    "no dataset": (good, ("set.pt", "--read", "format=dc"), r"pass dataset="),
    "unknown dataset": (good, ("set.pt", "--dataset", "mnist3d"), r"'mnist3d'"),
    "NaN pixels": (spoiled(float("nan")), DC, r"NaN or infinite.*row 3"),
    "infinite pixels": (spoiled(float("inf")), DC, r"NaN or infinite.*row 3"),
    "two channels": (
        dc(images=pixels(20, 2, 28, 28)),
        DC,
        r"images is .*20, 2, 28, 28",
    ),
    "integer pixels": (
        dc(images=torch.ones(20, 3, 28, 28, dtype=torch.uint8)),
        DC,
        r"images are a torch\.uint8 tensor",
    ),
    "zero images": (
        dc(images=pixels(0, 1, 28, 28), labels=torch.zeros(0, dtype=torch.long)),
        DC,
        r"images is .*\(0, 1, 28, 28\)",
    ),
    "labels too large": (
        dc(labels=torch.arange(20)),
        DC,
        r"labels are 0 \.\. 19; expected 0 \.\. 9",
    ),
    "negative labels": (dc(labels=torch.arange(20) - 12), DC, r"labels are -12 \.\. 7"),
    "too few labels": (
        dc(labels=torch.arange(10)),
        DC,
        r"labels is .*\(10,\); expected .*\(20,\)",
    ),
    "one-hot integers": (dc(labels=ONE_HOT.long()), DC, r"labels is .*\(20, 10\)"),
    "soft labels for classes": (dc(labels=ONE_HOT), DC, "labels"),
    "too many soft labels": (dc(labels=pixels(20, 12)), DC, r"labels: .*20, 12"),
    "float labels": (dc(labels=torch.rand(20)), DC, r"labels is .*float32"),
    "classes of another dataset": (
        dc(images=pixels(20, 3, 32, 32)),
        ("set.pt", "--dataset", "cifar100", "--read", "format=dc"),
        r"'apple' of the set is not among.*100 in all.*class-map",
    ),
    "fewer classes than the prior's": (
        folders(names=("Bag", "Coat", "Gown")),
        ("folders",),
        r"'Gown' of the set is not among those of the prior.*class-map",
    ),
    "mixed sizes in a folder": (
        folders(lambda path: Image.new("RGB", (16, 16)).save(path)),
        ("folders",),
        r"differ in size: .*16x16.*32x32",
    ),
    "corrupt image in a folder": (
        folders(lambda path: path.write_bytes(path.read_bytes()[:40])),
        ("folders",),
        r"Bag/1\.png can't be read",
    ),
    "text for an image": (
        folders(lambda path: path.write_text("not an image")),
        ("folders",),
        r"Bag/1\.png can't be read",
    ),
    "empty folder": (lambda _: Path("folders").mkdir(), ("folders",), "folders"),
    "folder of empty classes": (
        lambda _: Path("folders/Bag").mkdir(parents=True),
        ("folders", "--read", "format=image-folder"),
        r"'Bag' is empty",
    ),
}

BAD_SETTINGS = {
    "no such field": ("--set", "steps=5", r"'steps=5'.*FIELD=VALUE.*num_inference"),
    "no equals sign": ("--set", "window", r"'window'.*FIELD=VALUE"),
    "zero steps": ("--set", "num_inference_steps=0", "--set num_inference_steps is 0"),
    "half a step": ("--set", "num_inference_steps=2.5", "num_inference_steps is 2.5"),
    "too many steps": (
        "--set",
        "num_inference_steps=1001",
        "num_inference_steps is 1001",
    ),
    "low scale": ("--set", "guidance_scale=0", "guidance_scale is 0"),
    "scale in words": ("--set", "guidance_scale=big", "guidance_scale is 'big'"),
    "NaN": ("--set", "guidance_factor=nan", "guidance_factor is 'nan'"),
    "overflow": ("--set", "noise_timestep=1e999", "noise_timestep is inf"),
    "negative gamma": ("--set", "guidance_factor=-1", "guidance_factor is -1"),
    "noise above T": ("--set", "noise_timestep=1000", "noise_timestep is 1000"),
    "noise below 0": ("--set", "noise_timestep=-1", "noise_timestep is -1"),
    "noise as a float": ("--set", "noise_timestep=510.0", r"noise_timestep is 510\.0"),
    "noise is nothing": ("--set", "noise_timestep=None", "noise_timestep is None"),
    "unknown start": ("--set", "start=middle", r"start is 'middle'.*published"),
    "unknown target": ("--set", "guidance_target=eps", "guidance_target is 'eps'"),
    "unknown window": ("--set", "window=middle", r"window is 'middle'.*'late'"),
    "window of one": ("--set", "window=5", "window is 5"),
    "window upside down": ("--set", "window=(100,500)", "high >= low"),
    "window out of range": ("--set", "window=(1500,100)", "window is 1500"),
    "no truth": ("--set", "inheritance=maybe", "inheritance is 'maybe'"),
    "truth as a number": ("--set", "clip_input=2", "clip_input is 2"),
    "unknown preset": ("--preset", "best", "'best'"),
    "negative seed": ("--seed", "-1", "--seed is -1"),
    "huge seed": ("--seed", str(2**31), "seed is 2147483648"),
    "seed in words": ("--seed", "one", "--seed"),
    "no batch": ("--batch-size", "0", "--batch-size is 0"),
    "unknown prior": ("--prior", "imagenet-21k", "'imagenet-21k' is neither shipped"),
    "hub without network": ("--prior", "nobody/nothing", "could not be fetched"),
    "map in words": ("--class-map", "a,b", "'a,b'.*expected integers"),
    "short map": ("--class-map", "1,2,3", "--class-map is .*3"),
    "map out of range": (
        "--class-map",
        "0,1,2,3,4,5,6,7,8,10",
        "class-map are 0 .. 10; expected 0 .. 9",
    ),
    "negative map": ("--class-map", "-1,1,2,3,4,5,6,7,8,9", "class-map are -1"),
    "unknown device": ("--device", "abacus", "device 'abacus' is unknown"),
    "unknown option": ("--turbo", "1", "No such option"),
}

BAD_PLACES = {
    "wrong suffix": (good, (*DC, "-o", "a.pt"), r"a\.pt: .*\.safetensors"),
    "output exists": (
        existing,
        (*DC, "-o", "there.safetensors"),
        r"there\.safetensors exists already.*--overwrite",
    ),
    "images exist": (folders(), ("folders", "--images", "folders"), "folders exists"),
    "output below a file": (
        existing,
        (*DC, "-o", "there.safetensors/a.safetensors"),
        r"can't be written",
    ),
    "output where nothing can be": (
        good,
        (*DC, "-o", "/proc/nowhere/a.safetensors"),
        r"/proc/nowhere.*can't be written",
    ),
    "images below a file": (
        existing,
        (*DC, "--images", "there.safetensors/png"),
        "can't be written",
    ),
    "prior without transformer": (
        prior_without("transformer"),
        (*DC, "--prior", "prior"),
        r"prior.transformer.config\.json",
    ),
    "prior without VAE": (
        prior_without("vae"),
        (*DC, "--prior", "prior"),
        r"prior.vae.config\.json",
    ),
    "prior without scheduler": (
        prior_without("scheduler"),
        (*DC, "--prior", "prior"),
        r"prior.scheduler.scheduler_config\.json",
    ),
    "truncated prior": (truncated_prior, (*DC, "--prior", "prior"), "can't be loaded"),
    "prior is a file": (good, (*DC, "--prior", "set.pt"), r"'set\.pt' is neither"),
    "no input": (None, (), "Missing argument"),
}

ROWS = {
    **BAD_SETS,
    **{name: (good, (*DC, *row[:2]), row[2]) for name, row in BAD_SETTINGS.items()},
    **BAD_PLACES,
}


def check_refused(result, message, folder, before):
    """Exit code 2, one line (or typer's usage), and not one new file or folder."""
    import re

    code, out, err = result
    assert code == 2, err
    assert out == ""
    if err.startswith("Usage:"):
        line = err.strip().splitlines()[-1]
        assert line.startswith("Error: ")
    else:
        (line,) = err.strip().splitlines()
        assert line.startswith("diver-lite: error: ")
    assert re.search(message, line), line
    assert tree(folder) == before


@pytest.mark.parametrize("name", ROWS)
def test_recover_refuses(cli, tiny_prior_folder, tmp_path, name):
    """Each bad input of `recover` ends with code 2, says what, and writes nothing."""
    prepare, arguments, message = ROWS[name]
    if prepare:
        prepare(tiny_prior_folder)
    arguments = ["recover", *arguments]
    for option, value in {"--prior": tiny_prior_folder, "--device": "cpu"}.items():
        if option not in arguments:
            arguments += [option, value]
    if "-o" not in arguments:
        arguments += ["-o", "out/a.safetensors"]
    before = tree(tmp_path)
    check_refused(cli(*arguments), message, tmp_path, before)


def test_there_are_enough_rows():
    """The table above is a long one."""
    assert len(ROWS) == len(BAD_SETS) + len(BAD_SETTINGS) + len(BAD_PLACES) >= 75


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_recover_refuses_a_gpu_that_is_not_there(cli, tiny_prior_folder, tmp_path):
    """--device cuda without a GPU says what to use instead."""
    good(None)
    before = tree(tmp_path)
    options = ("--prior", tiny_prior_folder, "--device", "cuda")
    result = cli("recover", *DC, *options, "-o", "out/a.safetensors")
    check_refused(result, r"'cuda'.*no CUDA GPU.*--device cpu", tmp_path, before)


@pytest.mark.parametrize("command", ["recover", "check"])
def test_corrupted_shipped_weights(
    cli, tiny_prior_folder, tmp_path, monkeypatch, command
):
    """One flipped bit in a shipped prior is found by name, before it is used."""
    good(None)
    root = tmp_path / "assets"
    target = root / "priors/fashion-mnist"
    shutil.copytree(tiny_prior_folder, target)
    files = sorted(path for path in target.rglob("*") if path.is_file())
    lines = [f"{sha256(p)}  {p.relative_to(root).as_posix()}\n" for p in files]
    (root / "SHA256SUMS").write_text("".join(lines))
    path = target / "vae/config.json"
    content = bytearray(path.read_bytes())
    content[10] ^= 1
    path.write_bytes(content)
    monkeypatch.setattr(assets, "ROOT", root)
    before = tree(tmp_path)
    options = (*DC, "--device", "cpu", "-o", "out/a.safetensors")
    if command == "check":
        code, out, err = cli("check")
        assert "sha256 ok" not in out
        result = (code, "", err)
    else:
        result = cli("recover", *options)
    check_refused(result, r"vae/config\.json is corrupted", tmp_path, before)


OTHERS = {
    "method": (("distill", "gan", *("--split", "sample")), r"method is 'gan'.*'dm'"),
    "ipc 0": (("distill", "dm", "--split", "sample", "--ipc", 0), "ipc is 0"),
    "ipc too large": (
        ("distill", "dm", "--split", "sample", "--ipc", 101),
        r"ipc is 101, but class 'T-shirt' has 100",
    ),
    "init": (
        ("distill", "dm", "--split", "sample", "--set", "init=zero"),
        "--set init is",
    ),
    "field": (
        ("distill", "dm", "--set", "batch=3"),
        r"DistillConfig is 'batch'.*real_batch",
    ),
    "no value": (("distill", "dm", "--set", "lr"), r"--set 'lr': expected FIELD=VALUE"),
    "value": (("distill", "dm", "--set", "lr=big"), r"lr is 'big'.* number"),
    "experts": (("distill", "mtt", "--split", "sample"), r"pass experts \(--experts"),
    "steps": (
        ("distill", "dm", "--split", "sample", "--set", "steps=0"),
        "--set steps is 0",
    ),
    "batch": (
        ("distill", "dm", "--split", "sample", "--set", "real_batch=0"),
        "--set real_batch",
    ),
    "seed": (("distill", "dm", "--split", "sample", "--seed", -1), "seed is -1"),
    "split": (("distill", "dm", "--split", "dev"), r"split is 'dev'.*'sample'"),
    "data": (("distill", "dm", "--data", "mnist3d"), r"--data 'mnist3d' is unknown"),
    "no data": (("distill", "dm"), r"could not be downloaded.*--data-root"),
    "no root": (("distill", "dm", "--data-root", "gone"), "root gone is not a folder"),
    "empty root": (("distill", "dm", "--data-root", "."), r"root \. holds none of"),
    "suffix": (("distill", "dm", "-o", "a.npz"), r"a\.npz; .*\.safetensors"),
    "exists": (
        ("distill", "dm", "--split", "sample", "-o", "there.safetensors"),
        "exists already",
    ),
    "recipe": (("train-prior", "mnist3d"), r"recipe is 'mnist3d'.*'fashion-mnist'"),
    "training data": (("train-prior", "fashion-mnist"), "could not be downloaded"),
    "training root": (
        ("train-prior", "cifar10", "--data-root", "."),
        r"root \. holds none of",
    ),
    "working folder": (
        ("train-prior", "fashion-mnist", "-o", "there.safetensors"),
        r"there\.safetensors",
    ),
    "training steps": (
        ("train-prior", "fashion-mnist", "--set", "dit_steps=-1"),
        "dit_steps is -1",
    ),
    "minutes": (("train-prior", "fashion-mnist", "--minutes", "ten"), "--minutes"),
    "demo ipc": (("demo", "--ipc", 3), "ipc is 3"),
    "demo seeds": (("demo", "--seeds", 1), "seeds is 1"),
    "demo exists": (("demo", "-o", "there.safetensors"), "exists already"),
    "command": (("improve",), "No such command 'improve'"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_commands_refuse(cli, tmp_path, name):
    """Bad inputs of `distill`, `train-prior` and `demo`: one line, nothing written."""
    arguments, message = OTHERS[name]
    if arguments[0] == "distill":  # should it not refuse, it must not take minutes
        quick = ("--set", "steps=2", "--set", "real_batch=4", "--device", "cpu")
        arguments = (*arguments[:2], *quick, *arguments[2:])  # the last one counts
    Path("there.safetensors").write_bytes(b"precious")
    places = {"distill": "out/a.safetensors", "train-prior": "out", "demo": "out"}
    if arguments[0] in places and "-o" not in arguments:
        arguments = (*arguments, "-o", places[arguments[0]])
    before = tree(tmp_path)
    check_refused(cli(*arguments), message, tmp_path, before)
