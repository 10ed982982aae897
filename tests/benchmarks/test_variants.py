# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from lightning.pytorch import Trainer
from torch import nn
from torch.utils.data import WeightedRandomSampler

from benchmarks.variants import (
    FloodShareDataModule,
    ModalityGate,
    Variant,
    VariantTask,
    change_sar,
    share_weights,
)
from tests.data.ombria.data import make_ombria
from torchgeo_m2cd.datasets import OMBRIA
from torchgeo_m2cd.models import CosineGate, MixtureOfExperts
from torchgeo_m2cd.tasks import ChangeDetectionTask


def make(variant: Any) -> VariantTask:
    return VariantTask(variant, backbone='mit_b0')


class TestVariantTask:
    @pytest.mark.parametrize('variant', get_args(Variant))
    def test_train(self, variant: Any) -> None:
        task = make(variant)
        image, mask = torch.randn(2, 2, 3, 64, 64), torch.zeros(2, 1, 64, 64).long()
        task.training_step({'image': image, 'mask': mask}, 0).backward()
        assert task.eval()(image).isfinite().all()
        assert task.hparams['variant'] == variant

    def test_checkpoint(self, tmp_path: Path) -> None:
        task = make('residual-modality')
        trainer = Trainer(logger=False, enable_checkpointing=False)
        trainer.strategy.connect(task)
        trainer.save_checkpoint(tmp_path / 'best.ckpt')
        loaded = VariantTask.load_from_checkpoint(
            tmp_path / 'best.ckpt', weights_only=True
        )
        expected = task.state_dict()
        assert set(loaded.state_dict()) == set(expected)
        for name, value in loaded.state_dict().items():
            torch.testing.assert_close(value, expected[name])

    def test_residual(self) -> None:
        """If experts output zeros, the mixture returns its input."""
        task = make('residual')
        moe = next(m for m in task.modules() if isinstance(m, MixtureOfExperts))
        nn.init.zeros_(moe.fc2.weight)
        nn.init.zeros_(moe.fc2.bias)
        x = torch.randn(1, 5, 32)
        torch.testing.assert_close(moe(x).tokens, x)

    def test_modality_gate(self) -> None:
        """Equal tokens go to the experts that their modality prefers."""
        moe = next(
            m
            for m in make('residual-modality').eval().modules()
            if isinstance(m, MixtureOfExperts)
        )
        assert isinstance(moe.gate, ModalityGate)
        moe.gate.preference.data[:] = 0
        moe.gate.preference.data[0, 0, :2] = moe.gate.preference.data[1, 0, 2:] = 100
        x = torch.randn(1, 5, 32)
        chosen = moe(x.expand(3, 5, 32)).gates > 0
        assert chosen[0].all(dim=0).tolist() == [True, True, False, False]
        for gates in (
            *chosen[1:],
            moe(x).gates[0] > 0,
            moe(x.expand(2, 5, 32)).gates[1] > 0,
        ):
            assert gates.all(dim=0).tolist() == [False, False, True, True]

    def test_sharp_gate(self) -> None:
        """The logits are five times as large."""
        torch.manual_seed(0)
        plain = ChangeDetectionTask(backbone='mit_b0')
        sharp = make('sharp-gate')
        gates = [
            next(m for m in task.modules() if isinstance(m, CosineGate))
            for task in (plain, sharp)
        ]
        gates[1].proj.load_state_dict(gates[0].proj.state_dict())
        gates[1].experts.data = gates[0].experts.data
        x = torch.randn(7, 32)
        torch.testing.assert_close(gates[1](x), 5 * gates[0](x))

    def test_same_experts(self) -> None:
        """The mixture equals the first expert, whatever the gates."""
        moe = next(
            m for m in make('same-experts').modules() if isinstance(m, MixtureOfExperts)
        )
        x = torch.randn(1, 9, 32)
        hidden = nn.functional.linear(x, moe.fc1.weight[0], moe.fc1.bias[0])
        hidden = nn.functional.gelu(hidden)
        expected = nn.functional.linear(hidden, moe.fc2.weight[0], moe.fc2.bias[0])
        torch.testing.assert_close(moe(x).tokens, expected)

    def test_group_norm(self) -> None:
        names = {type(m).__name__ for m in make('group-norm').modules()}
        assert 'GroupNorm' in names
        assert not {n for n in names if 'BatchNorm' in n}

    def test_batch_statistics(self) -> None:
        """The prediction of a chip depends on the other chips of the batch."""
        images = torch.randn(4, 2, 3, 64, 64)
        alone, beside = (
            (task(images[:2])[0], task(images[::2])[0])
            for task in (
                ChangeDetectionTask(backbone='mit_b0').eval(),
                make('batch-statistics').eval(),
            )
        )
        torch.testing.assert_close(*alone, rtol=1e-3, atol=1e-4)
        assert (beside[0] - beside[1]).abs().max() > 1e-2

    def test_unknown(self) -> None:
        with pytest.raises(ValueError, match="'gama', did you mean 'gamma'"):
            make('gama')


class TestFloodShareDataModule:
    def test_share(self, tmp_path: Path) -> None:
        make_ombria(tmp_path)
        datamodule = FloodShareDataModule(0.4, root=tmp_path, batch_size=1)
        datamodule.setup('fit')
        sampler = datamodule.train_dataloader().sampler
        assert isinstance(sampler, WeightedRandomSampler)
        dataset = OMBRIA(tmp_path)
        masks = [dataset[i]['mask'] for i in range(len(dataset))]
        shares = torch.stack([(mask == 1).float().mean() for mask in masks])
        assert shares.mean() != pytest.approx(0.4, abs=0.01)
        mean = (sampler.weights * shares).sum().item()
        assert mean == pytest.approx(0.4)
        assert sampler.num_samples == len(shares)

    def test_weights(self) -> None:
        weights = share_weights(torch.tensor([0.0, 0.5, 0.1, 0.9]), 0.2)
        # The means below and above are 0.05 and 0.7
        low = 0.5 / 0.65 / 2
        expected = torch.tensor([low, 0.5 - low, low, 0.5 - low])
        torch.testing.assert_close(weights, expected)

    def test_out_of_range(self) -> None:
        with pytest.raises(
            ValueError, match=r'flood_share is 0.6: .* from 0.10 to 0.50'
        ):
            share_weights(torch.tensor([0.1, 0.5]), 0.6)


class TestChangeSAR:
    def test_gamma(self) -> None:
        sar = torch.linspace(-4, 4, 16).reshape(1, 1, 4, 4)
        changed = change_sar(sar, 'gamma')
        assert (changed.flatten().diff() > 0).all()
        exponent = ((changed + 5) / 10).log() / ((sar + 5) / 10).log()
        torch.testing.assert_close(exponent, exponent[..., :1, :1].expand_as(exponent))
        assert 2 / 3 <= exponent.mean() <= 1.5

    def test_speckle(self) -> None:
        noise = change_sar(torch.zeros(500, 1, 16, 16), 'speckle')
        assert noise.mean().abs() < 0.01
        std = noise.std(dim=(1, 2, 3))
        assert std.mean().item() == pytest.approx(0.25, abs=0.03)

    def test_histogram_matching(self) -> None:
        torch.manual_seed(0)
        sar = torch.randn(40, 2, 8, 8) * torch.rand(40, 1, 1, 1)
        changed = change_sar(sar, 'histogram-matching')
        kept = 0
        for i in range(40):
            same = torch.equal(changed[i], sar[i])
            kept += same
            source = sar[i if same else i - 1].flatten(1)
            assert torch.equal(
                changed[i].flatten(1).sort().values, source.sort().values
            )
            order = sar[i].flatten(1).argsort()
            assert torch.equal(changed[i].flatten(1).argsort(), order)
        assert 8 < kept < 32
