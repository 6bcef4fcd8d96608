"""Sphinx settings for the book: `helpers.course.book` copies this file next to the pages, as conf.py."""

from __future__ import annotations

from typing import Any

from helpers.course.book import equation

project = "Steering language models"
author = html_author = ""
language = "en"
extensions = ["myst_nb"]
exclude_patterns = ["extra", "doctrees"]

# Notebooks as they are committed: nothing is executed, and widgets load no script from the network.
nb_execution_mode = "off"
nb_merge_streams = True
nb_ipywidgets_js: dict[str, Any] = {}
myst_enable_extensions = ["amsmath", "dollarmath"]
myst_heading_anchors = 3
suppress_warnings = ["mystnb.unknown_mime_type"]

html_theme = "sphinx_book_theme"
html_title = project
html_static_path = ["_static"]
html_extra_path = ["extra"]
html_css_files = ["book.css"]
html_js_files = [("book.js", {"defer": "defer"})]
html_copy_source = html_show_sourcelink = html_show_sphinx = html_show_copyright = False
html_show_search_summary = False  # it reads other pages by script, which a browser forbids for files on a disk
html_math_renderer = "mathml"
html_use_index = False
html_context = {"default_mode": "auto"}
html_theme_options = {
    "home_page_in_toc": True,
    "navbar_persistent": [],
    "navbar_start": [],
    "show_toc_level": 2,
    "use_download_button": False,
    "use_fullscreen_button": False,
    "use_source_button": False,
    "use_repository_button": False,
}


def inline(page: Any, node: Any) -> None:
    """Write an inline equation as MathML."""
    from docutils.nodes import SkipNode

    page.body.append(equation(node.astext()))
    raise SkipNode


def displayed(page: Any, node: Any) -> None:
    """Write an equation on a line of its own."""
    from docutils.nodes import SkipNode

    page.body.append(f'<div class="equation">{equation(node.astext(), "block")}</div>')
    raise SkipNode


def setup(app: Any) -> None:
    """Register the writers of equations with sphinx."""
    app.add_html_math_renderer("mathml", (inline, None), (displayed, None))
