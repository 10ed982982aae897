# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

import gc
from collections.abc import Iterator

import pytest
import torch

from torchgeo_m2cd.datasets.files import allow_urls


def pytest_collection_finish() -> None:
    """Leave what the imports made out of garbage collections: they took 12 % of the time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def seed() -> None:
    """Seed each test, so that its result does not depend on those before it."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def urls() -> Iterator[None]:
    """A test without teardown does not keep the others from opening URLs."""
    yield
    allow_urls()
