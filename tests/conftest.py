# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

import pytest
import torch


@pytest.fixture(autouse=True)
def seed() -> None:
    """Make each test the same, whichever ran before it."""
    torch.manual_seed(0)
