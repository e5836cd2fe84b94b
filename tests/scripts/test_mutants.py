"""The mutants of `scripts/mutants.py` still apply, and what kills them is a test."""

import runpy
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = runpy.run_path(str(ROOT / "scripts/mutants.py"))
MUTANTS, GUARDS, Mutant = (SCRIPT[name] for name in ("MUTANTS", "GUARDS", "Mutant"))


def test_sixty_mutants_apply_to_the_source_as_it_is():
    """Each changes one place, into Python that compiles; each file has its tests."""
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) == 60
    for mutant in MUTANTS:
        text = mutant.apply(ROOT / "diver_lite")
        assert text != (ROOT / "diver_lite" / mutant.file).read_text(encoding="utf-8")
        compile(text, mutant.file, "exec")
    assert Counter(m.file for m in MUTANTS).keys() == GUARDS.keys()
    tests = [ROOT / "tests" / name for names in GUARDS.values() for name in names]
    assert all(path.is_file() for path in tests)


def test_what_dies_and_what_lives(monkeypatch, tmp_path, capsys):
    """A wrong result dies of its test; what no test sees lives; nothing is changed."""
    project, copy = tmp_path / "project", tmp_path / "copy"
    for name in ("diver_lite/assets", "scripts", "notebooks/bookkit", "tests"):
        (project / name).mkdir(parents=True)
    for name in ("pyproject.toml", "diver_lite/__init__.py"):
        (project / name).touch()
    source, test = copy / "diver_lite/half.py", project / "tests/test_half.py"
    (project / "diver_lite/half.py").write_text("def half(x): return x / 2\n")
    test.write_text(
        "from diver_lite.half import half\ndef test_half(): assert half(4) == 2\n"
    )
    monkeypatch.setitem(GUARDS, "half.py", ("test_half.py",))
    dies = Mutant("half.py", "minus", "x / 2", "x - 1")
    lives = Mutant("half.py", "whole", "x / 2", "x // 2")
    SCRIPT["copy_package"](copy, project)
    outcomes = SCRIPT["try_all"]([dies, lives], [copy], 60)
    assert [o.killed for o in outcomes.values()] == [True, False]
    assert outcomes[dies.name].killer == "test_half.py::test_half"
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["unchanged", "killed", "SURVIVED"]
    assert source.read_text() == "def half(x): return x / 2\n"

    # tests that fail anyway, or don't run, kill nothing
    with pytest.raises(RuntimeError, match="pytest failed"):
        SCRIPT["run_tests"](copy, ["test_nothing.py"], 60)
    source.write_text("def half(x): return x\n")
    with pytest.raises(SystemExit, match="test_half fails without any mutant"):
        SCRIPT["try_all"]([lives], [copy], 60)
    with pytest.raises(ValueError, match="'x / 2' occurs 0 times"):
        lives.apply(source.parent)


def test_a_copy_has_every_module_and_test(tmp_path):
    """Of what ships links are enough."""
    copy = SCRIPT["copy_package"](tmp_path / "copy")
    for folder in ("diver_lite", "tests"):
        for path in (ROOT / folder).rglob("*.py"):
            assert (copy / path.relative_to(ROOT)).is_file(), path
    assert (copy / "diver_lite/assets/priors").is_symlink()


@pytest.mark.parametrize("killed", [True, False])
def test_a_survivor_fails_the_run(killed, monkeypatch):
    main, outcome = SCRIPT["main"], SimpleNamespace(killed=killed)
    given = {"copy_package": lambda folder: folder}
    given["try_all"] = lambda mutants, *_: {m.name: outcome for m in mutants}
    for name, function in given.items():
        monkeypatch.setitem(main.__globals__, name, function)
    monkeypatch.setattr("sys.argv", ["mutants.py", "--only", "recovery"])
    with pytest.raises(SystemExit) as exit:
        main()
    assert exit.value.code == (0 if killed else 1)
