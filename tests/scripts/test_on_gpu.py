"""The one command for a GPU day: what it runs, in which order, and how that ends."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import on_gpu
import pytest
from provenance import BORROWED, ROOT

NOTHING = on_gpu.Piece("nothing", "a test", ("-c", "pass"), 1, ())
FAILS = replace(
    NOTHING,
    name="fails",
    command=("-c", "print('not this', *range(5), 'the reason', sep='\\n'); exit(3)"),
)


@pytest.fixture
def handlers():
    """Give the signals back that the script takes."""
    before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def machine(monkeypatch, tmp_path, handlers):
    """Let this machine pass for one that has all that any piece needs."""
    monkeypatch.setattr(on_gpu, "WORK", tmp_path / "work")
    monkeypatch.setattr(on_gpu, "STOPPING", 5)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda: "a GPU")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=2**40))
    monkeypatch.setenv("CC", "cc")


@pytest.fixture
def gpu(monkeypatch, tmp_path, capsys, machine):
    """Return a function that runs pieces as if there were a GPU: output and states."""

    def run(*pieces, arguments=()):
        monkeypatch.setattr(on_gpu, "PIECES", pieces)
        monkeypatch.setattr(sys, "argv", ["on_gpu.py", *arguments])
        on_gpu.main()
        file = tmp_path / "work/state.json"
        found = json.loads(file.read_text()) if file.exists() else {}
        states = {name: each["how"] for name, each in found.items()}
        return capsys.readouterr().out, states

    return run


def test_dry_run_lists_pieces_times_and_files(gpu):
    out, states = gpu(*on_gpu.PIECES, arguments=["--dry-run"])
    assert states == {}
    for piece in on_gpu.PIECES:
        assert f"{piece.name:<30}{piece.minutes:>7g}" in out
        assert all(pattern in out for pattern in piece.writes)


@pytest.mark.parametrize("piece", on_gpu.PIECES, ids=lambda piece: piece.name)
def test_each_command_is_one_that_its_script_knows(piece):
    """A misspelt option would cost somebody a GPU day."""
    for command in filter(None, (piece.command, piece.small)):
        if command[0] == "-m":
            folders = [word for word in command if word.startswith("tests/")]
            assert all((ROOT / name).exists() for name in folders), folders
            continue
        text = (ROOT / command[0]).read_text()
        for word in command:
            if word.startswith("--"):
                assert f'"{word}"' in text, word
    assert piece.minutes <= on_gpu.LONGEST or piece.goes_on
    assert piece.writes


def test_what_a_piece_measures_says_that_the_gpu_is_borrowed(gpu, tmp_path):
    file = tmp_path / "record.json"
    write = f"import os; open({str(file)!r}, 'w').write(os.environ['{BORROWED}'])"
    _, states = gpu(replace(NOTHING, command=("-c", write)))
    assert states == {"nothing": "done"}
    assert file.read_text()


def test_a_piece_is_done_once(gpu, tmp_path):
    count = ("-c", f"open({str(tmp_path / 'n')!r}, 'a').write('x')")
    piece = replace(NOTHING, command=count)
    assert gpu(piece)[1] == {"nothing": "done"}
    assert "nothing: done already" in gpu(piece)[0]
    assert (tmp_path / "n").read_text() == "x"


def test_a_failure_is_told_and_the_next_piece_runs(gpu):
    out, states = gpu(FAILS, NOTHING)
    assert states == {"fails": "failed (3)", "nothing": "done"}
    assert "  4\n  the reason\n" in out
    assert "not this" not in out.replace(FAILS.command[1], "")


def test_a_failure_is_not_repeated_until_the_code_changes(gpu, monkeypatch):
    """What it said last is told again; another commit, or --again, tries again."""
    gpu(FAILS, arguments=["--minutes", "5"])
    mended = replace(FAILS, command=("-c", "pass"))
    out, states = gpu(mended)
    assert states == {"fails": "failed (3)"}
    assert "fails: failed (3) at this commit; --again fails tries it again" in out
    assert "  the reason\n" in out
    assert gpu(mended, arguments=["--again", "fails"])[1] == {"fails": "done"}
    gpu(FAILS, arguments=["--again", "fails"])
    monkeypatch.setattr("provenance.COMMIT", "4567def")
    assert gpu(mended)[1] == {"fails": "done"}


def test_what_took_too_long_counts_as_failed(gpu, monkeypatch):
    """It can't go on where it was, so it would take too long again."""
    monkeypatch.setattr(on_gpu, "LONGEST", 1 / 60)
    slow = replace(NOTHING, name="slow", command=("-c", "import time; time.sleep(60)"))
    arguments = ["--minutes", "2"]
    assert gpu(slow, arguments=arguments)[1] == {"slow": "out of time"}
    out, states = gpu(replace(slow, command=("-c", "pass")), arguments=arguments)
    assert states == {"slow": "out of time"}
    assert "--again slow" in out


def test_a_total_says_what_is_left(gpu):
    """Minutes of what was begun already are taken off."""
    goes_on = replace(NOTHING, name="goes-on", goes_on=True, minutes=40, done="none")
    waits = replace(NOTHING, name="waits", minutes=7)
    state = {"goes-on": {"how": "goes on", "seconds": 600}}
    pieces = [NOTHING, FAILS, goes_on, waits]
    out, _ = gpu(NOTHING, FAILS, goes_on, waits, arguments=["--minutes", "5"])
    assert "2 left, about 47 min of one GPU" in out.splitlines()[-1]
    assert out.splitlines()[-1].startswith("1 of 4 done, 1 failed (fails), ")
    assert "about 39 min" in on_gpu.total(pieces, state)  # 1 + 1 + 30 + 7


def test_a_log_stands_where_it_says(gpu, tmp_path):
    """With --small, too: these stand aside, and count for nothing."""
    piece = replace(NOTHING, small=("-c", "print('small')"), command=("-c", "print(1)"))
    for arguments, name in [((), "work"), (["--small"], "work/small")]:
        file = tmp_path / name / "nothing.log"
        assert f"see {file}\n" in gpu(piece, arguments=arguments)[0]
        assert file.read_text() == ("small\n" if arguments else "1\n")


# --- What is missing ------------------------------------------------------------------


def test_nothing_is_missing(gpu):
    assert gpu(NOTHING)[0].startswith("nothing is missing\n")


def test_a_missing_package_is_told_and_who_needs_it_left_out(gpu, monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    monkeypatch.setitem(sys.modules, "accelerate", None)
    prior = replace(NOTHING, name="prior", needs=on_gpu.PRIOR)
    out, states = gpu(prior, NOTHING)
    assert states == {"nothing": "done"}
    before, after = out.split("prior: left out, as something is missing")
    assert "- package diffusers (for prior)" in before
    assert "- package accelerate (for prior)" in before
    assert "pip download --only-binary :all: -d runs/wheels diffusers\n" in before
    # its wheel alone: with all that it needs comes PyTorch
    assert "-d runs/wheels --no-deps accelerate psutil\n" in before
    install = "pip install --no-index --find-links runs/wheels diffusers accelerate\n"
    assert install in before
    assert "nothing: done" in after


def test_wheels_lie_where_git_ignores_them():
    answer = subprocess.run(["git", "check-ignore", on_gpu.WHEELS], cwd=ROOT)
    assert answer.returncode == 0


LACKS = {
    "no GPU": "- a GPU that PyTorch sees",
    "no disk": "- 2 GiB of free disk in",
    "no commit": "- a commit that holds the code as it is",
    "no repository": "- a commit that holds the code as it is",
    "no compiler": "- a C compiler, gcc or clang",
    "no data root": "- --data-root FOLDER with the files of cifar10 (for",
    "no data": "holds none of ('cifar-10-batches-py',",
    "no folder of sets": "- cifar10-a-ipc10.safetensors, cifar10-b-ipc10.safetensors "
    "in --published FOLDER",
    "one set of two": "- cifar10-b-ipc10.safetensors in ",
}


@pytest.mark.parametrize("what", LACKS)
def test_what_is_missing_is_told_first(gpu, monkeypatch, tmp_path, what):
    """Before anything runs; if all lack something, the answer is an error."""
    monkeypatch.setitem(sys.modules, "triton", SimpleNamespace(__spec__=True))
    command, arguments = ["-c", "pass"], []
    if what == "no GPU":
        monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    if what == "no disk":
        monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=2**30))
    if what == "no commit":
        monkeypatch.setattr("provenance.COMMIT", "0123abc-dirty")
        command = ["scripts/answer.py"]
    if what == "no repository":
        monkeypatch.setattr("provenance.COMMIT", "unknown")
        command = ["scripts/answer.py"]
    if what == "no compiler":
        monkeypatch.delenv("CC")
        monkeypatch.setenv("PATH", str(tmp_path))
    if "data" in what:
        command += ["cifar10", "--data-root", "{data}"]
    if what == "no data":
        arguments += ["--data-root", str(tmp_path)]
    if "set" in what:
        command += ["--ipc", "10", "--sets-folder", "{published}", "--sets", "a", "b"]
        command += ["--more"]
    if what == "one set of two":
        (tmp_path / "cifar10-a-ipc10.safetensors").touch()
        arguments += ["--published", str(tmp_path)]
    piece = replace(NOTHING, command=tuple(command), compiles=what == "no compiler")
    out, states = gpu(piece, arguments=["--dry-run", *arguments])
    assert LACKS[what] in out.split("piece ")[0]
    with pytest.raises(SystemExit, match="nothing can run here"):
        gpu(piece, arguments=arguments)
    assert states == {}


def test_sets_that_are_there_are_found(gpu, tmp_path):
    (tmp_path / "cifar10-a-ipc1.safetensors").touch()
    command = ("-c", "pass", "{published}", "--sets", "a", "--more")
    piece = replace(NOTHING, command=command)
    assert gpu(piece, arguments=["--published", str(tmp_path)])[1] == {
        "nothing": "done"
    }


HIDE = "import sys; sys.modules |= dict.fromkeys({!r}.split())\n"


def hiding(folder, packages):
    """Return an environment in which Python finds none of these packages."""
    (folder / "sitecustomize.py").write_text(HIDE.format(packages))
    path = os.pathsep.join([str(folder), str(ROOT)])
    return os.environ | {"PYTHONPATH": path}


def test_without_torch_it_still_says_what_is_missing(tmp_path):
    """A bare Python gets an answer, not an import's traceback."""
    script = [sys.executable, ROOT / "scripts/on_gpu.py", "--dry-run"]
    environment = hiding(tmp_path, "torch pandas numpy typer diffusers diver_lite")
    found = subprocess.run(script, env=environment, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert "- package torch (for all pieces)" in found.stdout
    assert "- package pandas (for all pieces)" in found.stdout
    # of 3 GB: not in a folder that is carried
    assert not [
        row for row in found.stdout.splitlines() if "pip" in row and "torch" in row
    ]


def test_what_needs_no_prior_runs_without_its_packages(tmp_path):
    """What the list of pieces claims of `judges`."""
    judges = next(piece for piece in on_gpu.PIECES if piece.name == "judges")
    assert judges.needs == ()
    command = [*judges.small[:-1], str(tmp_path / "judges.csv")]
    environment = hiding(tmp_path, " ".join(on_gpu.PRIOR))
    subprocess.run([sys.executable, *command], env=environment, cwd=ROOT, check=True)
    assert (tmp_path / "judges.csv").exists()


# --- In time --------------------------------------------------------------------------


def test_what_is_cut_off_goes_on(gpu, monkeypatch, tmp_path):
    """It is interrupted as by Ctrl-C, and run again by the next call."""
    monkeypatch.setattr(on_gpu, "LONGEST", 4 / 60)
    mark = tmp_path / "mark"
    wait = (
        f"import pathlib, time; p = pathlib.Path({str(mark)!r})\n"
        "if p.exists(): raise SystemExit\n"
        "try: time.sleep(60)\nexcept KeyboardInterrupt: p.touch()"
    )
    piece = replace(NOTHING, command=("-c", wait), goes_on=True)
    arguments = ["--minutes", "2"]
    # as a shell in the background leaves it, for our children, too
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    assert gpu(piece, arguments=arguments)[1] == {"nothing": "goes on"}
    assert mark.exists()
    assert gpu(piece, arguments=arguments)[1] == {"nothing": "done"}


ENDLESS = """
import pathlib, time
try:
    pathlib.Path({begun!r}).touch()
    time.sleep(60)
except KeyboardInterrupt:
    pathlib.Path({kept!r}).touch()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_who_ends_the_script_ends_its_piece(gpu, monkeypatch, tmp_path, number):
    """`timeout` ends the script alone; its piece keeps what it has, and ends."""
    begun, kept = tmp_path / "begun", tmp_path / "kept"
    code = ENDLESS.format(begun=str(begun), kept=str(kept))
    wait = subprocess.Popen.wait

    def interrupted(self, timeout=None):
        while not begun.exists():
            time.sleep(0.01)
        if not kept.exists():
            monkeypatch.setattr(subprocess.Popen, "wait", wait)
            signal.raise_signal(number)
        return wait(self, timeout)

    monkeypatch.setattr(subprocess.Popen, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        gpu(replace(NOTHING, command=("-c", code)))
    assert kept.exists()


def test_a_training_that_only_paused_is_not_done(gpu, tmp_path):
    piece = replace(NOTHING, goes_on=True, done=str(tmp_path / "prior"))
    assert gpu(piece)[1] == {"nothing": "goes on"}
    (tmp_path / "prior").mkdir()
    assert gpu(piece)[1] == {"nothing": "done"}


def test_what_does_not_fit_or_lacks_data_is_skipped(gpu, tmp_path):
    long = replace(NOTHING, name="long", minutes=9)
    data = replace(NOTHING, name="data", command=("-c", "pass", "cifar10", "{data}"))
    out, states = gpu(long, data, arguments=["--minutes", "5"])
    assert states == {}
    assert "long: left out, 9 min don't fit" in out
    assert "data: left out, as something is missing" in out
    (tmp_path / "cifar-10-batches-py").mkdir()
    root = ["--data-root", str(tmp_path)]
    assert gpu(long, data, arguments=["--minutes", "5", *root])[1] == {"data": "done"}


def test_results_are_brought_along(gpu, tmp_path, monkeypatch):
    monkeypatch.setattr(on_gpu, "ROOT", tmp_path)
    monkeypatch.setattr(on_gpu, "WORK", tmp_path / "runs/on_gpu")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "old.json").write_text("before")
    os.utime(tmp_path / "old.json", (0, 0))
    write = ("-c", "open('new.json', 'w').write('now')")
    piece = replace(NOTHING, command=write, writes=("*.json",))
    gpu(piece, arguments=["--bring", str(tmp_path / "out")])
    found = {p.name for p in (tmp_path / "out").iterdir()}
    assert found == {"new.json", "state.json", "nothing.log"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--only", "x"], "--only: no piece 'x'"),
        (["--again", "x"], "--again: no piece 'x'"),
    ],
)
def test_refusals(gpu, arguments, words):
    with pytest.raises(SystemExit, match=words):
        gpu(NOTHING, arguments=arguments)


def test_a_damaged_memory_is_refused(gpu, tmp_path):
    gpu(NOTHING)
    (tmp_path / "work/state.json").write_text("{")
    with pytest.raises(SystemExit, match="isn't JSON; expected what this script wrote"):
        gpu(NOTHING)


def test_a_piece_at_a_small_size_on_the_cpu(machine, monkeypatch, tmp_path, capsys):
    """The judges' benchmark, or tests where it would refuse a tree being edited."""
    changed = [
        "git",
        "status",
        "--porcelain",
        "--",
        "diver_lite",
        "scripts",
        "pyproject.toml",
    ]
    dirty = subprocess.run(changed, cwd=ROOT, capture_output=True).stdout
    name = "tests" if dirty else "judges"
    monkeypatch.setattr(on_gpu, "WORK", tmp_path)
    arguments = ["on_gpu.py", "--small", "--only", name, "--minutes", "5"]
    monkeypatch.setattr(sys, "argv", arguments)
    on_gpu.main()
    assert f"{name}: done after" in capsys.readouterr().out
    assert (
        json.loads((tmp_path / "small/state.json").read_text())[name]["how"] == "done"
    )
    assert not (tmp_path / "state.json").exists()
