"""Shipped files are checked against their digests before anybody uses them."""

import hashlib

import pytest

from diver_lite import assets
from diver_lite.checks import InputError


@pytest.fixture
def root(tmp_path, monkeypatch):
    (tmp_path / "distilled").mkdir()
    lines = []
    for name in ("distilled/a.safetensors", "distilled/b.safetensors", "prior.json"):
        (tmp_path / name).write_bytes(name.encode())
        lines.append(f"{hashlib.sha256(name.encode()).hexdigest()}  {name}\n")
    (tmp_path / "SHA256SUMS").write_text("".join(lines))
    monkeypatch.setattr(assets, "ROOT", tmp_path)
    return tmp_path


def test_an_intact_file_is_found_and_listed(root):
    path = assets.asset_path("distilled/a.safetensors")
    assert path.read_bytes() == b"distilled/a.safetensors"
    assert assets.list_assets("distilled/") == (
        "distilled/a.safetensors",
        "distilled/b.safetensors",
    )
    assert len(assets.list_assets()) == 3


def test_the_digest_is_computed_once_per_process(root, monkeypatch):
    calls = []
    monkeypatch.setattr(assets, "sha256", lambda path: calls.append(path) or "")
    with pytest.raises(InputError):
        assets.asset_path("prior.json")
    monkeypatch.undo()
    monkeypatch.setattr(assets, "ROOT", root)
    first = assets.asset_path("prior.json")
    monkeypatch.setattr(assets, "sha256", lambda path: calls.append(path) or "")
    assert assets.asset_path("prior.json") == first
    assert len(calls) == 1


def test_a_changed_file_is_refused_with_both_digests(root):
    (root / "prior.json").write_bytes(b"changed")
    expected = hashlib.sha256(b"prior.json").hexdigest()
    found = hashlib.sha256(b"changed").hexdigest()
    with pytest.raises(InputError, match="corrupted") as caught:
        assets.asset_path("prior.json")
    for part in ("prior.json", expected, found, "reinstall"):
        assert part in str(caught.value)


def test_missing_and_unlisted_files_are_told_apart(root):
    (root / "prior.json").unlink()
    with pytest.raises(InputError, match=r"prior\.json is missing"):
        assets.asset_path("prior.json")
    (root / "extra.bin").write_bytes(b"x")
    for name in ("extra.bin", "../outside", str(root / "prior.json")):
        with pytest.raises(InputError, match="not listed"):
            assets.asset_path(name)


def test_damaged_or_absent_sums(root):
    (root / "SHA256SUMS").write_text("no digest here\n")
    with pytest.raises(InputError, match="SHA256SUMS: line"):
        assets.asset_path("prior.json")


def test_without_sums_nothing_is_listed(tmp_path, monkeypatch):
    monkeypatch.setattr(assets, "ROOT", tmp_path)
    assert assets.list_assets("distilled/") == ()
    with pytest.raises(InputError, match="not listed"):
        assets.asset_path("prior.json")


def test_everything_that_ships_is_whole():
    files = [assets.asset_path(name) for name in assets.list_assets()]
    assert sum(file.stat().st_size for file in files) < 45e6
