# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Benchmarks of speed and quality, not part of the installed package.

Run them from the root of the repository: ``python -m benchmarks.speed``.
"""
