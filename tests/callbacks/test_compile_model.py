# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from lightning.pytorch import Trainer
from torch import Tensor

from torchgeo_m2cd.callbacks import CompileModel
from torchgeo_m2cd.datasets import SyntheticFlood
from torchgeo_m2cd.predict import predict_scene
from torchgeo_m2cd.tasks import load_task


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Compile to what was traced, and record the sizes of the batches of each call."""
    sizes: list[int] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> object:
        def run(*args: Tensor) -> object:
            sizes.append(next(len(x) for x in args if x.ndim == 5))
            return graph.forward(*args)

        return run

    torch.compiler.reset()
    compiler = functools.partial(torch.compile, backend=backend)
    monkeypatch.setattr(torch, 'compile', compiler)
    return sizes


class TestCompileModel:
    def test_map(self, batches: list[int], tmp_path: Path) -> None:
        """A compiled model makes the same map, from a plan of its own."""
        paths = SyntheticFlood().write_scene(tmp_path / 'scene', size=96)
        maps = {}
        for compiled in (False, True):
            output = tmp_path / f'{compiled}.tif'
            predict_scene(
                paths['optical'], paths['sar'], output, compile=compiled,
                data_args={'patch_size': 64, 'batch_size': 3},
                trainer_args={'accelerator': 'cpu', 'enable_progress_bar': False},
            )  # fmt: skip
            with rasterio.open(output) as src:
                maps[compiled] = src.read(1)
        np.testing.assert_allclose(maps[True], maps[False], rtol=0, atol=1e-5)
        # Two rows of two patches
        assert batches == [3, 3]

    def test_gives_the_model_back(self, batches: list[int]) -> None:
        """Also after an error; without a data module, each batch has its own size."""
        task = load_task('M2CD_Weights.DEFAULT')
        trainer = Trainer(
            accelerator='cpu', logger=False, enable_checkpointing=False,
            enable_progress_bar=False, callbacks=[CompileModel()],
        )  # fmt: skip
        images = torch.randn(2, 2, 3, 32, 32)
        samples: Any = [{'image': image, 'source': image} for image in images]
        (expected,) = trainer.predict(
            task, torch.utils.data.DataLoader(samples, batch_size=2)
        )  # type: ignore[misc]
        assert batches == [2]
        assert 'forward' not in vars(task)
        task.eval()
        torch.testing.assert_close(task(images).sigmoid(), expected, rtol=0, atol=1e-5)
        samples[1]['image'] = torch.randn(2, 3, 32, 32).fill_(torch.nan)
        with pytest.raises(ValueError, match='is not finite'):
            trainer.predict(task, torch.utils.data.DataLoader(samples, batch_size=2))
        assert 'forward' not in vars(task)
