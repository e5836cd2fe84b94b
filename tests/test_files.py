"""Nothing of the user's is overwritten, and nothing half-written remains."""

import pytest

from diver_lite.errors import InputError
from diver_lite.files import atomic_path


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
