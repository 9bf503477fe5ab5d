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
exclude_patterns = ["_build", "_ext", "_static"]
suppress_warnings = [
    "misc.highlighting_failure",  # "…" stands in JSON and TOML for what was left out
]
myst_enable_extensions = ["deflist", "attrs_block"]
myst_heading_anchors = 4
smartquotes = False  # "--" is an option, not a dash

nitpicky = True
# Names of the standard library and of other projects: their documentation is not asked for at build time.
nitpick_ignore_regex = [
    ("py:.*", r"(collections|typing|pathlib|os|ssl|re|datetime|torch|click|pydantic|http|threading)\b.*"),
    ("py:.*", r"(Path|Mapping|Sequence|Iterable|Iterator|Callable|Any|Literal|Self|optional|TypeAlias)"),
    # What a result holds and nobody has to name.
    ("py:.*", r"(layerkit\.)?_?[a-z_.]*\.[A-Z]\w+|[A-Z]\w+"),
]

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
napoleon_use_rtype = False

html_theme = "furo"
html_title = f"layerkit {__version__}"
html_static_path = ["_static"]
html_copy_source = False
html_show_sphinx = False
