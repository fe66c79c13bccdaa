"""Sphinx configuration: `make docs` builds docs/_build/html, offline, warnings are errors."""

import os
import pydoc
import re
import warnings
from functools import partial
from pathlib import Path
from typing import Any

from sphinx.util import logging

import ppssl

DOCS = Path(__file__).parent
PROJECT = DOCS.parent
COPIES = {
    "results": PROJECT / "experiments" / "RESULTS.md",
    "literature": PROJECT / "experiments" / "LITERATURE.md",
    "changelog": PROJECT / "CHANGELOG.md",
}
"""Pages that are files of the repository, by their name below docs/generated."""
PAGE_OF = {source: DOCS / "generated" / f"{name}.md" for name, source in COPIES.items()}
PAGE_OF[Path(ppssl.__file__)] = DOCS / "reference" / "index.md"
"""The generated page in place of a file of the repository that a page of the documentation links to."""

LOGGER = logging.getLogger(__name__)

project = "ppssl"
author = "the ppssl authors"
copyright = "the ppssl authors"
version = release = ppssl.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = f"ppssl {release}"
html_static_path = ["_static"]
html_css_files = ["ppssl.css"]
html_copy_source = False
html_show_copyright = False

autodoc_member_order = "bysource"
autodoc_class_signature = "mixed"
autodoc_preserve_defaults = True
toc_object_entries_show_parents = "hide"
python_maximum_signature_line_length = 88
napoleon_use_ivar = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False

warnings.filterwarnings("ignore")  # what libraries say while autodoc imports them
os.environ.setdefault("MPLBACKEND", "Agg")


def public_groups() -> dict[str, list[str]]:
    """The names of ``ppssl.PUBLIC`` by the comment that stands above them in the source."""
    source = Path(ppssl.__file__).read_text()
    table = source.split("PUBLIC = {", 1)[1].split("\n}", 1)[0]
    groups: dict[str, list[str]] = {}
    title = "Functions"
    for line in table.splitlines():
        if comment := re.match(r"\s*# (.+)", line):
            title = comment[1][0].upper() + comment[1][1:]
        elif entry := re.match(r'\s*"(\w+)":', line):
            groups.setdefault(title, []).append(entry[1])
    listed = sorted(name for names in groups.values() for name in names)
    if listed != sorted(ppssl.PUBLIC):
        raise RuntimeError("docs/conf.py cannot read the table PUBLIC in src/ppssl/__init__.py.")
    return groups


def write_reference(*_: object) -> None:
    """Write a page of the API reference for each group, and their index; none is kept in git."""
    folder = DOCS / "reference"
    folder.mkdir(exist_ok=True)
    pages: dict[str, str] = {}
    index = ["# API reference", "", "Generated from the table of public names, `ppssl.PUBLIC`.", ""]
    slugs = []
    for title, names in public_groups().items():
        slug = re.sub(r"\W+", "-", title.lower())
        slugs.append(slug)
        pages[slug] = "\n".join([f"# {title}", "", *map(_entry, names)])
        index += [f"## [{title}]({slug}.md)", "", "| Name | |", "|---|---|"]
        index += [f"| {_link(name)} | {_first_line(name)} |" for name in names]
        index += [""]
    toctree = ["```{toctree}", ":hidden:", "", *slugs, "```", ""]
    pages["index"] = "\n".join([*index, *toctree])
    for old in folder.glob("*.md"):
        if old.stem not in pages:
            old.unlink()
    for name, text in pages.items():
        _write(folder / f"{name}.md", text)


def _entry(name: str) -> str:
    """One public name, documented where users import it from."""
    thing = getattr(ppssl, name)
    if not callable(thing):
        body = f".. automodule:: ppssl.{name}\n   :members:"
    elif isinstance(thing, type):
        body = f".. autoclass:: ppssl.{name}\n   :members:\n   :show-inheritance:"
    else:
        body = f".. autofunction:: ppssl.{name}"
    return f"## {name}\n\n```{{eval-rst}}\n{body}\n```\n"


def _link(name: str) -> str:
    kind = "mod" if not callable(getattr(ppssl, name)) else "obj"
    return f"{{py:{kind}}}`~ppssl.{name}`"


def _first_line(name: str) -> str:
    """The first line of its docstring as Markdown."""
    line = (getattr(ppssl, name).__doc__ or "").strip().split("\n")[0]
    line = re.sub(r"``(.+?)``", r"`\1`", line)
    line = re.sub(r":ref:`(.+?) <(.+?)>`", r"[\1](#\2)", line)
    line = re.sub(r":\w+:`~?(?:\w+\.)*(\w+)`", r"`\1`", line)
    return line.replace("|", "\\|")


def write_copies(*_: object) -> None:
    """Write the pages that are files of the repository, with links that hold from docs/generated."""
    folder = DOCS / "generated"
    folder.mkdir(exist_ok=True)
    for old in folder.glob("*.md"):
        if old.stem not in COPIES:
            old.unlink()
    for name, source in COPIES.items():
        link = partial(_link_from_generated, source.parent)
        text = re.sub(r"(!?)\[([^\]]*)\]\((?!\w+:)([^)]+)\)", link, source.read_text())
        _write(folder / f"{name}.md", text)


def _link_from_generated(folder: Path, match: re.Match[str]) -> str:
    """A link of a copied file: pictures are read where they are, pages are pages here, other files are named."""
    kind, text, target = match.groups()
    target, *anchor = target.split("#")
    file = (folder / target).resolve()
    pages = {source: f"{name}.md" for name, source in COPIES.items()}
    if kind:
        return f"![{text}]({os.path.relpath(file, DOCS / 'generated')})"
    if file in pages:
        return f"[{text}]({'#'.join([pages[file], *anchor])})"
    if file.suffix == ".md" and file.is_relative_to(DOCS):
        page = os.path.relpath(file, DOCS / "generated")
        return f"[{text}]({'#'.join([page, *anchor])})"
    return f"{text} (`{os.path.relpath(file, PROJECT)}`)"


def link_to_pages(app: Any, docname: str, source: list[str]) -> None:
    """Turn links to files of the repository, which work where the sources are read, into links to their pages."""
    folder = (DOCS / docname).parent

    def link(match: re.Match[str]) -> str:
        page = PAGE_OF.get((folder / match[1]).resolve())
        return match[0] if page is None else f"]({os.path.relpath(page, folder)}{match[2] or ''})"

    source[0] = re.sub(r"\]\(([^)#:]+)(#[\w-]+)?\)", link, source[0])


def _write(path: Path, text: str) -> None:
    """Only what changed: Sphinx reads pages again by their time."""
    if not path.is_file() or path.read_text() != text:
        path.write_text(text)


def resolve(app: Any, env: Any, node: Any, content: Any) -> Any:
    """Links to a public class by its module lead to its public name; a name that does not exist is a warning."""
    target = node.get("reftarget", "")
    if node.get("refdomain") != "py" or not target.startswith("ppssl."):
        return None
    parts = target.split(".")
    for i, part in enumerate(parts):
        if part in ppssl.PUBLIC:
            public = ".".join(["ppssl", *parts[i:]])
            domain = env.get_domain("py")
            found = domain.resolve_xref(
                env, node["refdoc"], app.builder, "obj", public, node, content
            )
            if found is not None:
                return found
    if pydoc.locate(target) is None and not _is_attribute(parts):
        LOGGER.warning("nothing is called %s", target, location=node)
    return None


def _is_attribute(parts: list[str]) -> bool:
    """Whether the name is that of an annotated attribute, which has no value in the class."""
    owner = pydoc.locate(".".join(parts[:-1]))
    return parts[-1] in getattr(owner, "__annotations__", {})


def setup(app: Any) -> None:
    """Write the generated pages before Sphinx looks for pages."""
    app.connect("missing-reference", resolve)
    app.connect("source-read", link_to_pages)
    app.connect("builder-inited", write_reference)
    app.connect("builder-inited", write_copies)
