# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Optical-SAR change detection for TorchGeo."""

__version__ = '0.1.0.dev0'
