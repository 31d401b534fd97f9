"""How the documentation is built."""

from importlib.metadata import version as version_of

project = "unsupervised-xai"
author = "the unsupervised-xai authors"
copyright = f"2026, {author}"
release = version = version_of(project)

extensions = [
    "myst_nb",  # brings myst_parser
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
]
exclude_patterns = ["_build"]

html_theme = "furo"
html_title = project

myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

# The notebooks are executed by the tests; the pages show them as they are stored.
nb_execution_mode = "off"

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
napoleon_google_docstring = False
napoleon_numpy_docstring = True
napoleon_use_rtype = False


def setup(app):
    """Leave out the methods that scikit-learn adds to estimators for routing metadata."""

    def skipped(app, what, name, obj, skip, options):
        routing = name.startswith("set_") and name.endswith("_request")
        return True if routing else None

    app.connect("autodoc-skip-member", skipped)
