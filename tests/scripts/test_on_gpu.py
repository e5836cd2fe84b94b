"""The one command for a GPU day: what it runs, in which order, and how that ends."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import on_gpu
import pytest
from provenance import BORROWED, ROOT

NOTHING = on_gpu.Piece("nothing", "a test", ("-c", "pass"), 1, ())


@pytest.fixture
def gpu(monkeypatch, tmp_path, capsys):
    """Return a function that runs pieces as if there were a GPU: output and states."""
    monkeypatch.setattr(on_gpu, "WORK", tmp_path / "work")
    monkeypatch.setattr(on_gpu, "STOPPING", 5)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda: "a GPU")

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
    fails = replace(NOTHING, name="fails", command=("-c", "raise SystemExit(3)"))
    _, states = gpu(fails, NOTHING)
    assert states == {"fails": "failed (3)", "nothing": "done"}


def test_what_is_cut_off_goes_on(gpu, monkeypatch, tmp_path):
    """It is interrupted as by Ctrl-C, and run again by the next call."""
    monkeypatch.setattr(on_gpu, "LONGEST", 4 / 60)
    mark = tmp_path / "mark"
    wait = (
        # a shell in the background lets its children ignore Ctrl-C
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"import pathlib, time; p = pathlib.Path({str(mark)!r})\n"
        "if p.exists(): raise SystemExit\n"
        "try: time.sleep(60)\nexcept KeyboardInterrupt: p.touch()"
    )
    piece = replace(NOTHING, command=("-c", wait), goes_on=True)
    arguments = ["--minutes", "2"]
    assert gpu(piece, arguments=arguments)[1] == {"nothing": "goes on"}
    assert mark.exists()
    assert gpu(piece, arguments=arguments)[1] == {"nothing": "done"}


def test_a_training_that_only_paused_is_not_done(gpu, tmp_path):
    piece = replace(NOTHING, goes_on=True, done=str(tmp_path / "prior"))
    assert gpu(piece)[1] == {"nothing": "goes on"}
    (tmp_path / "prior").mkdir()
    assert gpu(piece)[1] == {"nothing": "done"}


def test_what_does_not_fit_or_lacks_data_is_skipped(gpu, tmp_path):
    long = replace(NOTHING, name="long", minutes=9)
    data = replace(NOTHING, name="data", command=("-c", "pass", "{data}"))
    out, states = gpu(long, data, arguments=["--minutes", "5"])
    assert states == {}
    assert "long: skipped, 9 min don't fit" in out
    assert "data: skipped, as --data-root FOLDER is needed" in out
    root = ["--data-root", str(tmp_path)]
    assert gpu(long, data, arguments=["--minutes", "5", *root])[1] == {"data": "done"}


def test_results_are_brought_along(gpu, tmp_path, monkeypatch):
    monkeypatch.setattr(on_gpu, "ROOT", tmp_path)
    monkeypatch.setattr(on_gpu, "WORK", tmp_path / "runs/on_gpu")
    (tmp_path / "old.json").write_text("before")
    os.utime(tmp_path / "old.json", (0, 0))
    write = ("-c", "open('new.json', 'w').write('now')")
    piece = replace(NOTHING, command=write, writes=("*.json",))
    gpu(piece, arguments=["--bring", str(tmp_path / "out")])
    found = {p.name for p in (tmp_path / "out").iterdir()}
    assert found == {"new.json", "state.json", "nothing.log"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["--only", "x"], "no piece 'x'"), ([], "no CUDA GPU here")],
)
def test_refusals(monkeypatch, arguments, words):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["on_gpu.py", *arguments])
    with pytest.raises(SystemExit, match=words):
        on_gpu.main()


def test_a_piece_at_a_small_size_on_the_cpu(monkeypatch, tmp_path, capsys):
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
