"""Values stored with a `RESULTS` number: the same on every machine but for rounding."""

import json
from pathlib import Path

import pytest

# Other processors round otherwise, and steps of training make that larger: the share
# of the largest value by which those with AVX2 and with AVX-512 may differ
CALM, CHAOTIC = 0.01, 0.1


def check_stored(
    request: pytest.FixtureRequest,
    file: Path,
    case: str,
    number: int,
    found: list[float],
    *,
    share: float = CALM,
) -> None:
    """Compare a case with what is stored, or with --store-results store it.

    Args:
        number: what stands beside the code as `RESULTS`.
        share: of the largest stored value, by which each may differ.
    """
    stored = json.loads(file.read_text()) if file.exists() else {}
    if request.config.getoption("--store-results"):
        stored[case] = {"RESULTS": number, "values": found}
        file.write_text(json.dumps(stored, indent=1) + "\n")
    expected = stored[case]["values"]
    assert stored[case]["RESULTS"] == number, f"{case}: store the results anew"
    allowed = share * max(abs(value) for value in expected)
    assert found == pytest.approx(expected, abs=allowed, rel=0), (
        f"{case} gives another result than before; if that is meant, raise RESULTS "
        f"and store the results anew (--store-results) in {file.name}"
    )
