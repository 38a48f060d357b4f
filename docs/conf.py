"""The site: `make docs` builds docs/_build/html, every warning an error.

Any other docs/*.md is taken as it is: the toctree of index.md ends in a glob.
"""

import subprocess
import sys
from pathlib import Path

import lowlat
import lowlat.bench
import lowlat.null  # noqa: F401

ROOT = Path(__file__).parents[1]

project, author, version = "lowlat", "the lowlat authors", lowlat.__version__
copyright = author
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
exclude_patterns = ["_build"]

html_theme = "furo"
html_title = f"lowlat {version}"
html_css_files = ["site.css"]
html_static_path = ["_static"]
html_show_copyright = False
copybutton_exclude = ".linenos, .gp, .go"  # neither prompts nor what a command printed

myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence"]

default_role = "code"  # in docstrings, as everybody writes them
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
nitpicky = True
nitpick_ignore_regex = [("py:.*", r"(?!lowlat\.).*")]  # what is not lowlat's is documented elsewhere
nitpick_ignore = [("py:class", "lowlat.jit.T")]


def changelog(app, docname, source):
    """The page `changelog`: what the fragments in changes/ will make of the next release, then the releases."""
    if docname != "changelog":
        return
    command = [sys.executable, "-m", "towncrier", "build", "--draft", "--version", "Not released yet", "--date", ""]
    draft = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    released = ROOT / "CHANGELOG.md"
    source[0] += "\n" + draft + (released.read_text() if released.exists() else "")


def setup(app):
    app.connect("source-read", changelog)
