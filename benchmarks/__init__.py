# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""What measures speed and quality; not part of the installed package.

Run from the root of the repository: ``python -m benchmarks.speed``.
"""
