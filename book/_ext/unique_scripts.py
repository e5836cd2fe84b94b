"""Sphinx extension: write each inline script once per page.

Sphinx 7.4 collects inline scripts of extensions twice, once under the file name None
and once under "". A `const` that comes twice is an error in the browser's console.
"""


# No option does it, and Jupyter Book 1 takes no newer Sphinx than 7.
def drop_repeated(app, pagename, templatename, context, doctree):
    """Keep the first of the scripts that have the same file name and attributes."""
    kept = {}
    for script in context.get("script_files", []):
        key = (script.filename or "", *sorted(script.attributes.items()))
        kept.setdefault(key, script)
    # In place: Sphinx and the template hold the same list.
    context["script_files"][:] = kept.values()


def setup(app):
    # After every other listener, because some of them add scripts.
    app.connect("html-page-context", drop_repeated, priority=1000)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
