# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

from .pair import predict_pair
from .scene import MapOptions, predict_scene

__all__ = ('MapOptions', 'predict_pair', 'predict_scene')
