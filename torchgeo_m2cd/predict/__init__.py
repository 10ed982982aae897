# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Predict change maps of scenes, or probabilities of pairs in memory, in one call."""

import lazy_loader

# The names are those of __init__.pyi; their modules are imported when they are used
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
