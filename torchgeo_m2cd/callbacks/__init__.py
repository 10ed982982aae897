# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Lightning callbacks."""

from .chip_writer import ChipWriter
from .compile_model import CompileModel
from .figure_logger import FigureLogger
from .random_state import RandomState
from .routing_logger import RoutingLogger, mutual_information, plot_routing
from .scene_writer import SceneWriter

__all__ = (
    'ChipWriter',
    'CompileModel',
    'FigureLogger',
    'RandomState',
    'RoutingLogger',
    'SceneWriter',
    'mutual_information',
    'plot_routing',
)
