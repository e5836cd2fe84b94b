"""Many small cases in one test: each costs little more than its work."""

import functools
import inspect


def each(names, cases):
    """Run a test for one case after the other; of a failure, say which it was.

    For thousands of cases that take milliseconds, instead of `pytest.mark.parametrize`,
    whose every test is collected, set up and reported, by each process that runs tests.

    Args:
        names: of the test's argument that a case gives, or of several.
        cases: a value each, or as many values as names. Where the test asks for
            `tmp_path`, each case has a folder of its own.
    """
    single = isinstance(names, str)
    names = [names] if single else [*names]
    given = [dict(zip(names, [c] if single else c, strict=True)) for c in cases]
    assert given, "a test of nothing can't fail"

    def decorate(test):
        signature = inspect.signature(test)
        others = [p for p in signature.parameters.values() if p.name not in names]

        @functools.wraps(test)
        def all_cases(**fixtures):
            for number, values in enumerate(given):
                own = {}
                if "tmp_path" in fixtures:
                    own["tmp_path"] = fixtures["tmp_path"] / f"case {number}"
                    own["tmp_path"].mkdir()
                try:
                    test(**fixtures | own | values)
                except BaseException as error:
                    error.add_note(f"of case {number}: {values!r:.500}")
                    raise

        del all_cases.__wrapped__  # pytest shall see the fixtures alone
        all_cases.__signature__ = signature.replace(parameters=others)
        return all_cases

    return decorate
