# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""From patches to the files of a change map."""

from .mosaic import Mosaic, PatchRow, blend_weights
from .outputs import Outputs, rows_done
from .plan import MapPlan, plan_maps
from .products import make_map, plot_quicklook, write_cog, write_polygons

__all__ = (
    'MapPlan',
    'Mosaic',
    'Outputs',
    'PatchRow',
    'blend_weights',
    'make_map',
    'plan_maps',
    'plot_quicklook',
    'rows_done',
    'write_cog',
    'write_polygons',
)
