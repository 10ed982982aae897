# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

from .areas import Areas
from .check import Check, check_map
from .district_areas import DistrictAreas, check_districts
from .districts import Districts
from .finished import FinishedMap
from .lock import RunLock
from .mosaic import Mosaic, PatchRow, blend_weights
from .outputs import Outputs, check_outputs
from .parts import Parts, start_maps
from .plan import MapPlan, plan_maps
from .polygons import find_polygons, mean_probability, save_polygons
from .products import NoDataError, make_map
from .quicklook import plot_quicklook
from .rasters import write_cog
from .record import record_warnings
from .summary import Run, format_summary, format_total, read_summary

__all__ = (
    'Areas',
    'Check',
    'DistrictAreas',
    'Districts',
    'FinishedMap',
    'MapPlan',
    'Mosaic',
    'NoDataError',
    'Outputs',
    'Parts',
    'PatchRow',
    'Run',
    'RunLock',
    'blend_weights',
    'check_districts',
    'check_map',
    'check_outputs',
    'find_polygons',
    'format_summary',
    'format_total',
    'make_map',
    'mean_probability',
    'plan_maps',
    'plot_quicklook',
    'read_summary',
    'record_warnings',
    'save_polygons',
    'start_maps',
    'write_cog',
)
