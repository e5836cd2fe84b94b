"""Every command and block of code on the pages that a newcomer follows.

All commands are read by the command line's own parser. What can run here runs, from the
top of its page to the end, in an empty folder, in few steps. What can't is listed below
with the reason.
"""

import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
import typer

from diver_lite import cli as commands
from diver_lite.recovery import RecoveryConfig
from diver_lite.run.in_memory import recover
from diver_lite.sets.distilled import DistilledSet
from diver_lite.sets.folder import save_image_folder
from diver_lite.sets.load import READ_OPTIONS, load_distilled

ROOT = Path(__file__).parents[1]
PAGES = [
    "README.md",
    *(f"book/{name}.md" for name in ("first_hour", "command_line", "setup")),
    "book/add_a_prior.md",
]
SHELLS = ("bash", "powershell", "ipython")
OUTPUT = ("text", "bibtex")  # no code
APP = typer.main.get_command(commands.app)

# a command's beginning -> why it isn't run here
ELSEWHERE = {
    "make": "a target of the Makefile, see `test_targets_are_there`",
    "pip install": "installs",
    "%pip install": "installs",
    "conda": "installs",
    "python -m venv": "installs",
    "py -m venv": "installs",
    "source": "a virtual environment's",
    ".venv\\Scripts\\Activate.ps1": "a virtual environment's",
    "!git clone": "needs a network",
    "%cd": "into what git cloned",
    "jupyter lab": "opens a browser",
    "mkdir": "the folders are there",
    "ls": "so are the files",
    "accelerate launch": "starts processes: tests/run/test_processes.py",
    "python scripts/convert_sit.py": "tests/scripts/test_convert_sit.py",
    "diver-lite demo": "a minute: tests/test_demo.py, `make demo`",
    "diver-lite convert CIFAR10/images_best.pt": "needs CIFAR-10's training images",
    "diver-lite recover dm_imagefruit.pt": "needs DiT-XL/2",
    "diver-lite judge fruit.safetensors": "needs ImageNet",
    "diver-lite judge soft.safetensors": "tests/judge/test_protocols.py",
    "diver-lite recover mine.safetensors --prior stable-diffusion": "needs its weights",
}
# Python that isn't run here: a piece of it -> why
PYTHON_ELSEWHERE = {
    "ResNet18_Weights": "needs a network: tests/judge/test_protocols.py",
}
# what is added to a command, so that it ends soon
ONE_STEP = "--set steps=1"
FEW = f"--seeds 2 {ONE_STEP} --test-images 20 --jobs 1"
SMALL = {
    "judge": FEW.split(),
    "advise": f"{FEW} --judges ConvNet".split(),
    "distill": f"--split sample --ipc 1 {ONE_STEP} --set real_batch=8".split(),
    "recover": ["--set", "num_inference_steps=1"],
}


def blocks(page):
    """Return the blocks of code of a page: (language, code)."""
    text = (ROOT / page).read_text("utf-8")
    # a block in a quotation, too
    text = re.sub(r"^> ?", "", text, flags=re.M)
    return re.findall(r"^```([\w-]*)[^\n]*\n(.*?)^```", text, re.M | re.S)


def in_line(page):
    """Return the commands that a page names within its text."""
    text = re.sub(r"```.*?```", "", (ROOT / page).read_text("utf-8"), flags=re.S)
    found = re.findall(
        r"`((?:\.venv/bin/)?(?:diver-lite|make|pip|python) [^`]+)`", text
    )
    return [each.removeprefix(".venv/bin/") for each in found]


def lines(code):
    """Return the commands of a block of shell; a loop's body twice.

    Python between two marks of the shell is one item: (code,).
    """
    code = code.replace("\\\n", " ")
    loop = re.compile(r"^for (\w+) in ([^;]+); do\n(.*?)^done\n?", re.M | re.S)

    def unrolled(found):
        name, values, body = found.groups()
        return "".join(body.replace(f"${name}", value) for value in values.split()[:2])

    code = loop.sub(unrolled, code)
    pieces = re.split(r"^python - <<'END'\n(.*?)^END\n", code, flags=re.M | re.S)
    found = []
    for index, piece in enumerate(pieces):
        if index % 2:
            found.append((piece,))
            continue
        for line in piece.splitlines():
            found += [each.strip() for each in uncommented(line).split("&&")]
    return [each for each in found if each]


def uncommented(line):
    return re.sub(r"(^|\s)#.*", "", line)


def why_elsewhere(command):
    """Return why a command isn't run here, or None."""
    whole = " ".join(command.split())
    return next(
        (why for start, why in ELSEWHERE.items() if f"{whole} ".startswith(start)), None
    )


def commands_of(page):
    found = [
        line
        for language, code in blocks(page)
        if language in SHELLS
        for line in lines(code)
    ]
    return [each for each in found if isinstance(each, str)]


PARSED = [
    pytest.param(command, id=f"{page}: {command[:60]}")
    for page in PAGES
    for command in [*commands_of(page), *in_line(page)]
]


@pytest.mark.parametrize("command", PARSED)
def test_the_command_line_knows_it(command):
    words = shlex.split(command)
    if words[0] == "accelerate":
        words = ["diver-lite", *words[words.index("diver_lite") + 1 :]]
    if words[0] != "diver-lite" or words[-1:] == ["..."]:
        assert why_elsewhere(command), f"{command!r} is neither run nor listed"
        return
    parse(words[1:])


def parse(words):
    """Read a command as the command line does, and its settings; run nothing."""
    if words[0].startswith("--"):
        words = ["check"] if {*words} <= {"--help", "--version"} else words
    name, *rest = words
    commands._check_words(name, rest)
    command = APP.commands[name]
    if "--help" in rest:
        return
    given = command.make_context(name, rest).params
    if name == "recover":
        commands.parse_config(given["preset"], given["set_"])
    elif name in ("judge", "advise"):
        commands._recipe(given["protocol"], given["set_"])
    commands._changes(given.get("read"), "--read", ("format", *READ_OPTIONS))


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("judge a.safetensors --judge ConvNet", "No such option: --judge"),
        ("recover a.safetensors", "Missing parameter: out"),
        ("recover a.safetensors -o b.safetensors --set step=1", "with a field of"),
        ("judge a.safetensors --set step=1", "with a field of"),
        ("show a.pt --read formats=mtt", "with a field of"),
        ("show a.pt --format mtt", "an option of older versions"),
        ("refine a.pt", "refine"),
    ],
)
def test_a_wrong_command_would_be_seen(command, words):
    with pytest.raises(Exception, match=words):
        parse(command.split())


def test_targets_are_there():
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for page in PAGES:
        for command in [*commands_of(page), *in_line(page)]:
            name, *words = shlex.split(command)
            if name == "make":
                assert re.search(rf"^{re.escape(words[0])}:", makefile, re.M), command
            for word in words:
                if word.startswith("scripts/"):
                    assert (ROOT / word).is_file(), command


def test_every_block_is_known():
    """A language that this test doesn't know would be left out in silence."""
    for page in PAGES:
        for language, code in blocks(page):
            assert language in (*SHELLS, *OUTPUT, "python"), (page, code)


def test_no_reason_is_left_over():
    told = [c for page in PAGES for c in [*commands_of(page), *in_line(page)]]
    for start in ELSEWHERE:
        assert any(f"{' '.join(c.split())} ".startswith(start) for c in told), start
    python = "".join(code for page in PAGES for _, code in blocks(page))
    for piece in PYTHON_ELSEWHERE:
        assert piece in python, piece


@pytest.fixture
def run(cli, monkeypatch):
    """Return a function that runs a page in an empty folder, in few steps.

    prepare: called with each command, or piece of Python, before it runs.
    """
    recommended = RecoveryConfig.recommended.__func__

    def few(kind, prior, **settings):
        return recommended(kind, prior, **settings | {"num_inference_steps": 1})

    monkeypatch.setattr(RecoveryConfig, "recommended", classmethod(few))
    monkeypatch.setattr("diver_lite.run.source_swap.share_of_set", lambda *_, **__: 1)

    def in_a_step(distilled, prior, config, **options):
        config = replace(config, num_inference_steps=1)
        return recover(distilled, prior, config, **options)

    monkeypatch.setattr("diver_lite.advice.rows.recover", in_a_step)

    def run(page, prepare=lambda text: None):
        names = {"__name__": "page"}
        for language, code in blocks(page):
            if language == "python":
                python(code, names, prepare)
            for line in lines(code) if language in SHELLS else ():
                if isinstance(line, tuple):
                    python(*line, {"__name__": "page"}, prepare)
                elif why_elsewhere(line) is None:
                    prepare(line)
                    command(line)

    def command(line):
        _, name, *words = shlex.split(line)
        code, _, said = cli(name, *words, *SMALL.get(name, []))
        assert code == 0, f"{line}\n{said}"

    def python(code, names, prepare):
        if not any(piece in code for piece in PYTHON_ELSEWHERE):
            prepare(code)
            exec(compile(code, "page", "exec"), names)

    return run


def test_the_readme_runs(run, cli):
    dc = "res_DM_FashionMNIST_ConvNet_10ipc.pt"
    cli("convert", "fashion-mnist-dm-ipc1", dc, "--to", "dc", "--lossy")
    run("README.md")
    assert len(DistilledSet.load("recovered.safetensors")) == 10
    assert len([*Path("png").rglob("*.png")]) == 10


def test_the_first_hour_runs(run, cli):
    ours = load_distilled("cifar10-mtt-ipc1")
    published = "TM/CIFAR10/IPC10"
    cli("convert", "cifar10-mtt-ipc1", published, "--to", "mtt", "--lossy")
    pictures = load_distilled("cifar10-mtt-ipc10")
    for split in ("train", "test"):
        save_image_folder(pictures, Path("data") / split)
        for folder in Path("data", split).glob("0*"):
            folder.rename(folder.with_name(folder.name.partition("_")[2]))

    def prepare(text):
        if "TM/CIFAR10/IPC10" in text and " convert " in text:
            Path("mtt.safetensors").unlink()  # of who took ours

    run("book/first_hour.md", prepare)
    refined = DistilledSet.load("refined.safetensors")
    assert refined.class_names == ours.class_names
    assert "samples of the prior" in Path("advice/advice.md").read_text("utf-8")
    assert len([*Path("pictures").rglob("*.png")]) == len(refined)


def test_the_command_line_page_runs(run, cli):
    cli("convert", "fashion-mnist-dm-ipc1", "res_DM_FashionMNIST_ConvNet_10ipc.pt",
        "--to", "dc", "--lossy")  # fmt: skip
    cli("convert", "cifar10-mtt-ipc1", "CIFAR10", "--to", "mtt", "--lossy")

    def prepare(text):
        if text.startswith("from torch import nn"):
            Path("nets.py").write_text(text)

    run("book/command_line.md", prepare)
    assert (Path("advice") / "advice.md").exists()


def test_add_a_prior_runs(run):
    """Its own prior lies in a file, with the function that the page puts below it."""
    garments = load_distilled("fashion-mnist-dm-ipc1")
    two = DistilledSet(garments.images[:2], garments.labels[:2], ("T-shirt", "Trouser"))
    two.save("mine.safetensors")
    code = []

    def prepare(text):
        if "OwnUNet" in text and "recover_to" not in text:
            code.append(text)
            Path("my_prior.py").write_text("\n".join(code))

    run("book/add_a_prior.md", prepare)
    assert len(DistilledSet.load("refined.safetensors")) == 2
