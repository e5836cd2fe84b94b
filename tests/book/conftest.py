"""Pages in the system's Chromium, where there is one."""

import pytest


@pytest.fixture(scope="module")
def chromium():
    import check_book  # here, for tests that need no browser

    if check_book.CHROMIUM is None:
        pytest.skip("no Chromium found")
    with check_book.browser() as browser:
        yield browser


@pytest.fixture
def tab(chromium):
    with chromium.new_page() as page:
        yield page


@pytest.fixture
def phone(chromium):
    size = {"width": 390, "height": 844}
    with chromium.new_page(viewport=size, is_mobile=True, has_touch=True) as page:
        yield page


@pytest.fixture
def heard(tab):
    """What is asked of a network, and the errors: a list that grows by itself."""
    import check_book

    return check_book.listen(tab)
