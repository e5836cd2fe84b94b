"""What the built book is spared, and what it says when it is opened from disk."""

from pathlib import Path

import pytest

pytest.importorskip("sphinx_book_theme", reason="comes with the book's tools")

import pydata_sphinx_theme
from few_icons import ICON, few_icons, wanted_icons
from search_texts import page_text


def theme_script():
    theme = Path(pydata_sphinx_theme.__file__).parent / "theme" / "pydata_sphinx_theme"
    return (theme / "static" / "scripts" / "fontawesome.js").read_text("utf-8")


def test_the_theme_keeps_the_icons_that_pages_show():
    """In the installed theme: another may write its icons in another way."""
    script = theme_script()
    assert len(ICON.findall(script)) > 1000
    kept = few_icons(script, {"sun", "search", "no-such-icon"})
    assert len(kept) < 100_000
    # "search" is an older name of the glass; the sun comes filled and in outline
    names = sorted(icon["name"] for icon in ICON.finditer(kept))
    assert names == ["magnifying-glass", "sun", "sun"]


def test_icons_are_found_in_pages_and_scripts(tmp_path):
    scripts = tmp_path / "_static" / "scripts"
    scripts.mkdir(parents=True)
    (scripts / "fontawesome.js").write_text('"fa-bug"')
    (scripts / "theme.js").write_text('i.className = "fa-solid fa-xmark"')
    (tmp_path / "page.html").write_text('<i class="fas fa-sun"></i>')
    assert wanted_icons(tmp_path) == {"solid", "xmark", "sun"}


def test_the_search_reads_the_words_of_a_page():
    page = """<main role="main"><nav>menu</nav><article class="bd-article">
<section id="one"><h1>One<a class="headerlink" href="#one">#</a></h1>
<pre>code</pre>
<p>a &lt; <b>b</b></p><script>let x = 1;</script><img alt="c" src="data:,">
<section id="two"><p>d</p></section></section></article><footer>end</footer></main>"""
    assert page_text(page) == (
        '<main role="main"> <section id="one">One a &lt; b code'
        '<section id="two">d</section></section></main>'
    )
