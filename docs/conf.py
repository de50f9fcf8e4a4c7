"""Configuration of Sphinx. No inventory of another project is fetched: a build needs no network."""

import builtins

from reasoning_sdk._version import __version__

project = "reasoning_sdk"
author = "reasoning_sdk contributors"
copyright = author
release = version = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
]
exclude_patterns = ["_build"]

html_theme = "furo"
html_title = f"reasoning_sdk {release}"
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_class_signature = "mixed"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
napoleon_google_docstring = True
napoleon_numpy_docstring = False

# Names of the standard library and of the dependencies are true, but without their inventories they
# cannot be linked.
UNLINKED = "collections contextlib datetime enum json logging os pathlib pickle ssl threading types"
UNLINKED += " typing requests sseclient urllib3"
BUILTIN = [name for name in dir(builtins) if not name.startswith("_")]
nitpick_ignore_regex = [
    (r"py:.*", "|".join(BUILTIN)),
    (r"py:.*", rf"({'|'.join(UNLINKED.split())})(\..+)?"),
]
