"""Nothing of the user's is overwritten, and nothing half-written remains."""

import errno
import io
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError

from diver_lite.checks import InputError, WriteError, naming
from diver_lite.files import (
    HELD,
    atomic_path,
    check_writable,
    exclusive,
    read_torch,
)


def test_a_folder_of_the_users_is_never_overwritten(tmp_path):
    """Even with overwrite: only folders that this package wrote may go."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").write_bytes(b"precious")
    with (
        pytest.raises(InputError, match="did not write"),
        atomic_path(tmp_path / "photos", overwrite=True) as temporary,
    ):
        temporary.mkdir()
    assert (tmp_path / "photos" / "cat.png").read_bytes() == b"precious"


def test_a_folder_of_ours_can_be_written_again(tmp_path):
    """The second version replaces the first one whole."""
    for name in ("first", "second"):
        with atomic_path(tmp_path / "out", overwrite=True) as temporary:
            temporary.mkdir()
            (temporary / name).touch()
    assert (tmp_path / "out" / "second").exists()
    assert not (tmp_path / "out" / "first").exists()


def test_a_failure_leaves_the_old_file_and_no_other(tmp_path):
    """An exception in the block restores what was there."""
    (tmp_path / "a.txt").write_text("old")
    with (
        pytest.raises(RuntimeError),
        atomic_path(tmp_path / "a.txt", overwrite=True) as temporary,
    ):
        temporary.write_text("half")
        raise RuntimeError
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "old"


# --- Replacing a folder -------------------------------------------------------------


def write(path, version, kind="folder", **options):
    """Write a file, or a folder of ten files, that hold their version."""
    with atomic_path(path, **{"overwrite": True} | options) as temporary:
        if kind == "file":
            temporary.write_text(version)
            return
        temporary.mkdir()
        for index in range(10):
            (temporary / str(index)).write_text(version)


def version(path):
    """Return which version stands at a path, whole; None if nothing does."""
    if not path.exists():
        return None
    files = [p for p in path.iterdir() if p.name.isdigit()] if path.is_dir() else [path]
    assert len(files) == (10 if path.is_dir() else 1)
    (found,) = {file.read_text() for file in files}
    return found


@pytest.mark.parametrize("step", [1, 2, 3])
@pytest.mark.parametrize(
    "kinds", [("folder", "folder"), ("file", "folder"), ("folder", "file")]
)
def test_a_rename_that_fails_loses_nothing(tmp_path, monkeypatch, kinds, step):
    """Old aside, new in, old away: the old one is back, or the new one there."""
    path = tmp_path / "out"
    write(path, "old", kinds[0])
    replace, calls = os.replace, []

    def failing(source, target):
        calls.append(source)
        if len(calls) == step:
            raise OSError("the disk fell off")
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", failing)
        with pytest.raises(OSError, match="fell off"):
            write(path, "new", kinds[1])
    assert version(path) == ("new" if step == 3 else "old")
    write(path, "newer", kinds[1])
    assert version(path) == "newer"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_what_a_killed_run_left_is_swept(tmp_path):
    """Its lock is free; folders in use, or of others, stay."""
    path = tmp_path / "out[1].csv"
    with atomic_path(path) as temporary:
        temporary.write_text("half")
        used = temporary.parent
        left = shutil.copytree(used, tmp_path / ".out[1].csv.abcdefgh")
        other = tmp_path / ".out[1].csv.xyz"
        other.mkdir()
        check_writable(path)
        assert left.exists()  # it may be one that begins
        for folder in (left, used):
            os.utime(folder / HELD, (1, 1))
        check_writable(path)
        assert [used.exists(), left.exists(), other.exists()] == [True, False, True]
    assert {p.name for p in tmp_path.iterdir()} == {path.name, other.name}


# without torch, whose import takes longer than all the rest
KILLED = """
import os, shutil, sys
from diver_lite.files import atomic_path

replace, left = os.replace, [int(sys.argv[2])]

def deadly(source, target):
    if left[0] == 0:
        os._exit(9)
    left[0] -= 1
    replace(source, target)

def half(folder, ignore_errors):  # what is half deleted stays so
    next(p for p in folder.rglob("*") if p.name.isdigit()).unlink()
    os._exit(9)

os.replace, shutil.rmtree = deadly, half
with atomic_path(sys.argv[1], overwrite=True) as temporary:
    temporary.mkdir()
    for index in range(10):
        (temporary / str(index)).write_text("new")
"""


@pytest.mark.parametrize("renames", [0, 1, 2, 3])
def test_a_kill_between_two_renames_loses_nothing(tmp_path, renames):
    """Whenever it comes: the next look finds the old folder or the new one, whole."""
    path = tmp_path / "out"
    write(path, "old")
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, path, str(renames)],
        capture_output=True,
        text=True,
    )
    assert killed.returncode == 9, killed.stderr
    assert version(path) == ("old", None, "new", "new")[renames]
    with pytest.raises(InputError, match="exists already"):
        check_writable(path)  # as a command does that was not told to overwrite
    assert version(path) == ("old" if renames < 2 else "new")
    if renames == 3:  # the old one is half deleted, and must not come back
        shutil.rmtree(path)
        check_writable(path)
        assert version(path) is None
    write(path, "newer")
    assert version(path) == "newer"


@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_appears_meanwhile_is_not_overwritten(tmp_path, monkeypatch, kind, links):
    """Without overwrite not even what wasn't there when the run began."""
    path = tmp_path / "out"
    if not links:

        def no_links(*_):
            raise PermissionError

        monkeypatch.setattr(os, "link", no_links)
    write(path, "mine", kind, overwrite=False)
    assert version(path) == "mine"
    other = tmp_path / "other"
    with (
        pytest.raises(InputError, match=r"other has appeared.*not overwritten"),
        atomic_path(other) as temporary,
    ):
        write(temporary, "mine", kind)
        write(other, "somebody's", kind)
    assert version(other) == "somebody's"
    assert {p.name for p in tmp_path.iterdir()} == {"out", "other"}


def test_a_link_to_nowhere_is_something(tmp_path):
    """It is as much in the way as a file, and known before the work begins."""
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(InputError, match="exists already"):
        check_writable(tmp_path / "link")


@pytest.mark.skipif(sys.platform == "win32", reason="modes of POSIX")
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640)])
def test_files_get_the_mode_of_the_umask(tmp_path, umask, mode):
    """Some libraries write by way of a private file, which others couldn't read."""
    before = os.umask(umask)
    try:
        with atomic_path(tmp_path / "file") as temporary:
            temporary.touch(mode=0o600)
        with atomic_path(tmp_path / "folder") as temporary:
            (temporary / "deep").mkdir(parents=True)
            (temporary / "deep" / "file").touch(mode=0o600)
    finally:
        os.umask(before)
    files = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert {p.stat().st_mode & 0o777 for p in files} == {mode}
    folders = [p for p in tmp_path.rglob("*") if p.is_dir()]
    assert {p.stat().st_mode & 0o777 for p in folders} == {0o777 & ~umask}


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        SafetensorError("I/O: no space"),
    ],
)
def test_what_cannot_be_written_is_named(tmp_path, error):
    """The old file stays, nothing else remains, and who waits for OSError gets one."""
    path = tmp_path / "out"
    write(path, "old", "file")
    words = r"output .*out can't be written \(.*(N|n)o space.*\)$"
    with (
        pytest.raises(InputError, match=words) as caught,
        atomic_path(path, overwrite=True) as temporary,
    ):
        temporary.write_text("half")
        raise error
    assert isinstance(caught.value, WriteError)
    assert isinstance(caught.value, OSError)
    assert version(path) == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_of_an_output_in_an_output_the_outer_is_named(tmp_path):
    """With the advice that belongs to it, and what the system said of the inner."""
    words = r"output .*outer can't be written \(Is full\); make room$"
    with (
        pytest.raises(WriteError, match=words),
        naming(tmp_path / "outer", output=True, advice="; make room"),
        naming(tmp_path / "outer" / "inner", output=True),
    ):
        raise OSError(errno.ENOSPC, "Is full")
    with pytest.raises(InputError, match=r"^index is 3"), naming(tmp_path, output=True):
        raise InputError("index is 3")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes of POSIX")
def test_what_cannot_be_read_is_named_once(tmp_path):
    """A pipe isn't waited for; what a damaged file raises is told, whatever it is."""
    os.mkfifo(tmp_path / "pipe")
    for name, found in {"pipe": "not a regular file", "none": "no such file"}.items():
        words = rf"{name}: {found}; expected a poem$"
        with pytest.raises(InputError, match=words), naming(tmp_path / name, "a poem"):
            raise AssertionError
    (tmp_path / "file").touch()
    for error in (KeyError("rhyme"), InputError("rhyme")):
        with (
            pytest.raises(InputError, match=r"^\S*/file(: | can't be read \(')rhyme"),
            naming(tmp_path),
            naming(tmp_path / "file", "a poem"),
        ):
            raise error
    with pytest.raises(KeyError), naming(tmp_path / "file"):
        raise KeyError


def test_a_name_that_is_too_long_is_known_at_the_start(tmp_path):
    """Also if it would be so for the temporary sibling only."""
    for name in ("x" * 250, "x" * 5000, "x" * 5000 + "/out"):
        with pytest.raises(InputError, match="can't be written"):
            check_writable(tmp_path / name)
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize(
    "function", ["os.mkdir", "os.stat", "os.scandir", "os.listdir"]
)
def test_a_folder_that_may_not_be_looked_at(tmp_path, monkeypatch, function):
    def denied(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied")

    (tmp_path / "out").mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(function, denied)
        try:
            check_writable(tmp_path / "out", overwrite=True)
        except InputError as error:
            assert "out can't be written (Permission denied)" in str(error)
    assert [p.name for p in tmp_path.rglob("*")] == ["out"]


def test_a_lock_leaves_nothing_behind(tmp_path):
    """Neither its file nor folders made for it; what came into those stays."""
    with exclusive(tmp_path / "a" / "b" / "out.csv"):
        assert [p.name for p in tmp_path.rglob("*.lock")] == [".out.csv.lock"]
    assert [*tmp_path.iterdir()] == []
    with exclusive(tmp_path / "a" / "b" / "out.csv"):
        (tmp_path / "a" / "other").touch()
    assert [p.name for p in tmp_path.rglob("*")] == ["a", "other"]
    with pytest.raises(InputError, match="can't be written"), exclusive("/proc/a/out"):
        pass


@settings(max_examples=60, deadline=None)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_never_changes_what_is_read(place, bit):
    """Torch doesn't look at an archive's checksums: a label was another once."""
    value = {"images": torch.arange(64.0).view(8, 8), "labels": torch.arange(8)}
    content = io.BytesIO()
    torch.save(value, content)
    damaged = bytearray(content.getvalue())
    damaged[int(place * len(damaged))] ^= 1 << bit
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "set.pt")
        path.write_bytes(damaged)
        try:
            found = read_torch(path)
        except Exception:  # it is noticed; readers say so in their words
            return
    assert {name: t.tolist() for name, t in found.items()} == {
        name: t.tolist() for name, t in value.items()
    }
