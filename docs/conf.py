"""Configuration of Sphinx. No inventory of another project is fetched: a build needs no network."""

import builtins
from enum import Enum
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

from reasoning_sdk import errors
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
UNLINKED = "asyncio collections contextlib datetime enum functools json logging os pathlib pickle"
UNLINKED += " ssl threading types typing uuid requests sseclient urllib3"
BUILTIN = [name for name in dir(builtins) if not name.startswith("_")]
nitpick_ignore_regex = [
    (r"py:.*", "|".join(BUILTIN)),
    (r"py:.*", rf"({'|'.join(UNLINKED.split())})(\..+)?"),
    (r"py:.*", r"reasoning_sdk\..+\._[FT]"),  # type variables
]


def find_error(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.TextElement
) -> Any:
    """An error by another of its names: all can be imported from the package itself."""
    name = node["reftarget"].removeprefix("reasoning_sdk.")
    if node.get("refdomain") != "py" or name not in errors.__all__:
        return None
    domain, target = env.get_domain("py"), f"reasoning_sdk.errors.{name}"
    return domain.resolve_xref(
        env, node["refdoc"], app.builder, node["reftype"], target, node, content
    )


def hide_signature(
    app: Sphinx, what: str, name: str, thing: Any, options: Any, signature: str, returned: str
) -> tuple[str, None] | None:
    """Nobody calls a protocol, nor makes a member of an enum."""
    if what != "class" or not (getattr(thing, "_is_protocol", False) or issubclass(thing, Enum)):
        return None
    return "", None


def setup(app: Sphinx) -> None:
    app.connect("autodoc-process-signature", hide_signature)
    app.connect("missing-reference", find_error)
