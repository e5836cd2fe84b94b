"""Files that ship with the package, and proof that they arrived whole."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path, PurePosixPath

from diver_lite.checks import ensure
from diver_lite.files import sha256

ROOT = Path(__file__).parent
SUMS = "SHA256SUMS"


def asset_path(relative: str) -> Path:
    """Return the path of a shipped file after checking its digest.

    A file is read for its digest once per process; later calls cost nothing.

    Args:
        relative: its name below `diver_lite/assets`, with forward slashes.

    Raises:
        InputError: the file is not listed in SHA256SUMS, missing or changed.

    Source: ours: a damaged asset must not show up as a strange result later.
    """
    return _verified(ROOT, relative)


def list_assets(prefix: str = "") -> tuple[str, ...]:
    """Return the sorted names of the shipped files that begin with `prefix`."""
    return tuple(sorted(name for name in _digests(ROOT) if name.startswith(prefix)))


@cache
def _verified(root: Path, relative: str) -> Path:
    expected = _digests(root).get(str(PurePosixPath(relative)))
    path = root / relative
    ensure(
        expected is not None,
        f"asset {relative!r} is not listed in {root / SUMS}; expected one of the "
        "shipped files (reinstall diver_lite if it should be there)",
    )
    ensure(path.is_file(), f"asset {path} is missing; reinstall diver_lite")
    found = sha256(path)
    ensure(
        found == expected,
        f"asset {path} is corrupted: expected sha256 {expected}, found {found}; "
        "reinstall diver_lite",
    )
    return path


@cache
def _digests(root: Path) -> dict[str, str]:
    """Read SHA256SUMS, in the format that `sha256sum` writes: digest, name."""
    sums = root / SUMS
    digests = {}
    if sums.is_file():
        for line in sums.read_text("utf-8").splitlines():
            digest, _, name = line.partition("  ")
            fits = bool(name and re.fullmatch("[0-9a-f]{64}", digest))
            ensure(
                fits,
                f"{sums}: line {line!r} is not 'sha256  name'; reinstall diver_lite",
            )
            digests[name] = digest
    return digests
