# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

import pytest
import torch


@pytest.fixture(autouse=True)
def seed() -> None:
    """Seed each test, so that its result does not depend on those before it."""
    torch.manual_seed(0)
