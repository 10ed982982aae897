# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Lightning callbacks."""

from .figure_logger import FigureLogger
from .scene_writer import SceneWriter

__all__ = ('FigureLogger', 'SceneWriter')
