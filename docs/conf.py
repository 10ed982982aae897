# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Configuration of Sphinx.

See https://www.sphinx-doc.org/en/master/usage/configuration.html.
"""

import inspect
import os
from typing import Any

from docutils import nodes
from math_core import LatexToMathML
from sphinx.application import Sphinx
from sphinx.util.inspect import signature, stringify_signature
from sphinx.writers.html5 import HTML5Translator

import torchgeo_m2cd

project = 'torchgeo-m2cd'
author = 'torchgeo-m2cd contributors'
copyright = author
version = release = torchgeo_m2cd.__version__

# Known where the documentation is hosted
repository = os.environ.get('READTHEDOCS_GIT_CLONE_URL', '').removesuffix('.git')

extensions = [
    'myst_nb',
    'sphinx.ext.autodoc',
    'sphinx.ext.intersphinx',
    'sphinx.ext.napoleon',
    'sphinx.ext.viewcode',
    'sphinx_copybutton',
    'sphinx_design',
]
exclude_patterns = ['_build', 'results']
templates_path = ['_templates']

html_theme = 'pydata_sphinx_theme'
html_title = project
html_static_path = ['_static']
html_css_files = ['custom.css']
html_theme_options: dict[str, Any] = {
    'article_header_end': ['colab'],
    'footer_end': [],
    'navbar_end': ['theme-switcher', 'navbar-icon-links'],
    'secondary_sidebar_items': {'**': ['page-toc'], 'architecture': []},
}
html_context = {'repository': repository}
if repository:
    html_theme_options['github_url'] = repository
html_sidebars: dict[str, list[str]] = {'architecture': [], 'index': []}
html_show_sourcelink = False

# Browsers draw MathML themselves. MathJax would come from a network, which may not be there
html_math_renderer = 'mathml'

# Pictures of pages for social networks, which need the address of the pages
ogp_site_url = os.environ.get('READTHEDOCS_CANONICAL_URL', '')
if ogp_site_url:
    extensions.append('sphinxext.opengraph')

# Prompts and outputs are not copied, continued lines are
copybutton_prompt_text = r'\$ |>>> |\.\.\. '
copybutton_prompt_is_regexp = True
copybutton_line_continuation_character = '\\'

# A notebook runs once, and again if it has changed
nb_execution_mode = 'cache'
nb_execution_raise_on_error = True
nb_execution_show_tb = True
nb_execution_timeout = 600
nb_merge_streams = True
nb_output_stderr = 'remove'

autoclass_content = 'both'
autodoc_default_options = {
    'member-order': 'bysource',
    'members': True,
    'show-inheritance': True,
}
# What a class inherits is documented where it comes from
autodoc_inherit_docstrings = False
autodoc_typehints = 'description'
autodoc_typehints_description_target = 'documented'
autodoc_typehints_format = 'short'
napoleon_numpy_docstring = False

# A reference to something of this package that is not documented is an error. So is a type
# with a space, which is no type but the words before a colon
nitpicky = True
nitpick_ignore_regex = [
    ('py:.*', r'(?!torchgeo_m2cd\.)\S+\.\S+'),
    ('py:class', r'[^\s.]+'),
    ('py:exc', r'[^\s.]+'),
    # Of arguments of classes for developers
    ('py:class', r'torchgeo_m2cd\.datasets\.(classes|grid|headers|radiometry)\..*'),
    ('py:class', r'.*\._\w+'),
    # A string, or an object that says its path
    ('py:class', r'torchgeo_m2cd\.utils\.Path'),
]

# Links into the documentation of other libraries need the network, which a build must
# not depend on: they are made on Read the Docs and where the variable below is set.
if {'READTHEDOCS', 'DOCS_INTERSPHINX'} & os.environ.keys():
    intersphinx_mapping = {
        'kornia': ('https://kornia.readthedocs.io/en/stable', None),
        'lightning': ('https://lightning.ai/docs/pytorch/stable', None),
        'python': ('https://docs.python.org/3', None),
        'smp': ('https://smp.readthedocs.io/en/stable', None),
        'torch': ('https://docs.pytorch.org/docs/stable', None),
        'torchgeo': ('https://torchgeo.readthedocs.io/en/stable', None),
    }


def show_init(
    app: Sphinx,
    what: str,
    name: str,
    obj: Any,
    options: Any,
    args: str | None,
    return_annotation: str | None,
) -> tuple[str, None] | None:
    """Show the arguments of __init__ where a base class hides them behind __new__.

    Such a base class is SMP's SegmentationModel: its models would all be shown as
    taking (*args, **kwargs).
    """
    if what != 'class' or args != '(*args, **kwargs)' or '__init__' not in vars(obj):
        return None
    init = signature(inspect.unwrap(obj.__init__), bound_method=True)
    return stringify_signature(init, show_annotation=False), None


def keep_colons(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]
) -> None:
    """Keep napoleon from taking the words before a colon for the type of an attribute."""
    if what in ('attribute', 'data', 'property'):
        lines[:0] = [
            '..',
            '',
        ]  # An empty comment: napoleon looks at the first line alone


def to_mathml(node: nodes.math | nodes.math_block, displaystyle: bool) -> str:
    """Turn LaTeX into what browsers draw; what it cannot be turned into is an error."""
    converter = LatexToMathML()
    return converter.convert_with_local_state(node.astext(), displaystyle=displaystyle)


def write_formula(self: HTML5Translator, node: nodes.math) -> None:
    """Write a formula within a line."""
    self.body.append(to_mathml(node, displaystyle=False))
    raise nodes.SkipNode


def write_block(self: HTML5Translator, node: nodes.math_block) -> None:
    """Write a formula in a line of its own."""
    self.body.append(f'<div class="formula">{to_mathml(node, displaystyle=True)}</div>')
    raise nodes.SkipNode


def setup(app: Sphinx) -> None:
    """Connect the functions above."""
    app.add_html_math_renderer('mathml', (write_formula, None), (write_block, None))
    # Before napoleon
    app.connect('autodoc-process-docstring', keep_colons, priority=400)
    app.connect('autodoc-process-signature', show_init)
