"""Cases in a loop fail as tests of their own would."""

import pytest
from cases import each


def test_every_case_runs_in_a_folder_of_its_own(tmp_path):
    seen = []

    @each("a", "xy")
    @each(("b", "c"), [(1, 2), (3, 4)])
    def test(tmp_path, a, b, c):
        (tmp_path / "mine").mkdir()  # fails if it is there
        seen.append((a, b, c))

    test(tmp_path=tmp_path)
    assert seen == [("x", 1, 2), ("x", 3, 4), ("y", 1, 2), ("y", 3, 4)]


def test_one_case_fails_them_all_and_is_named():
    @each("a", [1, 2, 3])
    def test(a):
        assert a != 3

    with pytest.raises(AssertionError) as caught:
        test()
    assert caught.value.__notes__ == ["of case 2: {'a': 3}"]


def test_no_case_is_no_test():
    with pytest.raises(AssertionError, match="nothing"):
        each("a", [])
    with pytest.raises(ValueError, match="argument 2 is longer"):
        each(("a", "b"), [(1, 2, 3)])


@each("value", [1, 2])
def test_pytest_gives_it_fixtures_alone(tmp_path, value):
    assert tmp_path.name == f"case {value - 1}"
