"""How the documentation site is built: python -m sphinx -W --keep-going -b html docs build/docs

The pages are the Markdown files of this folder, which also read well where the repository is shown. Their links to
files outside it lead to the repository: to the address in the environment variable REPOSITORY, or else to this copy.
"""

import os
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
REPOSITORY = os.environ.get("REPOSITORY") or ROOT.as_uri()
sys.path.insert(0, str(ROOT))

project = "cassr-jax"
copyright = "the cassr-jax authors"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
exclude_patterns = ["plans", "images"]
html_theme = "furo"
html_title = "cassr-jax"

myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 4
nb_execution_mode = "off"

autodoc_typehints = "none"  # jaxtyping's axes read best in the docstrings, which state them
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "show-inheritance": False}
napoleon_google_docstring = True
napoleon_use_ivar = True


def lead_to_the_repository(app: Any, tree: Any) -> None:
    """Links from a page to files outside this folder become addresses in the repository."""
    from docutils import nodes
    from sphinx import addnodes

    page = Path(app.env.doc2path(app.env.docname)).parent
    for link in [*tree.findall(addnodes.download_reference), *tree.findall(addnodes.pending_xref)]:
        target = link.get("reftarget", "")
        place, _, anchor = target.partition("#")
        found = [path for base in (page, ROOT) if place and (path := (base / place).resolve()).exists()]
        if (path := next(iter(found), None)) and not path.is_relative_to(ROOT / "docs"):
            address = f"{REPOSITORY}/{path.relative_to(ROOT).as_posix()}" + (f"#{anchor}" if anchor else "")
            link.replace_self(nodes.reference("", "", *link.children, refuri=address))


def setup(app: Any) -> None:
    app.connect("doctree-read", lead_to_the_repository)
