"""The documentation site: ``make docs`` builds it, strictly, into docs/_build/html."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

from layerkit import __version__

project = "layerkit"
author = "The layerkit authors"
copyright = "The layerkit authors, Apache-2.0"
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "generated"]
exclude_patterns = ["_build", "_ext"]
suppress_warnings = [
    "misc.highlighting_failure",  # "…" stands in JSON and TOML for what was left out
]
myst_enable_extensions = ["deflist", "attrs_block"]
myst_heading_anchors = 4
smartquotes = False  # "--" is an option, not a dash

nitpicky = True
# Of Python's names only those of the public API must be found: signatures name types that nobody has to import.
nitpick_ignore_regex = [("py:.*", r"(?!layerkit\.[A-Za-z]\w*$).*")]

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
napoleon_use_rtype = False

html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["picture.css"]
html_title = f"layerkit {__version__}"
html_copy_source = False
html_show_sphinx = False
