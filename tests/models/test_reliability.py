# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

import math
from typing import Any

import pytest
import torch

from torchgeo_m2cd.models import (
    Look,
    Reliability,
    measure_look,
    median_look,
    rule_inputs,
)

NAN = math.nan


class TestReliability:
    def test_description(self) -> None:
        reliability = Reliability((0.7, 1.5), [-12, -6], calibration_error=0.05)
        described = reliability.to_dict()
        assert described == {
            'class_path': 'torchgeo_m2cd.models.Reliability',
            'init_args': {
                'area': [0.7, 1.5], 'land': [-12, -6], 'water': None, 'speckle': None,
                'calibration_error': 0.05, 'threshold': 0.5,
            },
        }  # fmt: skip
        assert Reliability.from_dict(described).to_dict() == described

    @pytest.mark.parametrize(
        ('kwargs', 'match'),
        [
            ({'land': [-6, -12]}, r'land is \[-6, -12\]: expected two numbers in asc'),
            ({'water': [0.5]}, r'water is \[0.5\]'),
            ({'speckle': [1, NAN]}, r'speckle\[1\] is nan: expected a finite number'),
            ({'area': [-1, 1]}, r'area\[0\] is -1: expected at least 0'),
            ({'threshold': 1.5}, r'threshold is 1.5: expected from 0 to 1'),
        ],
    )
    def test_wrong(self, kwargs: dict[str, Any], match: str) -> None:
        with pytest.raises(ValueError, match=match):
            Reliability(**kwargs)

    def test_compare(self) -> None:
        reliability = Reliability(None, (-12, -6), (0, 0.35), (1.6, 2.6))
        assert reliability.compare(Look(-12, 0.35, 2)) == []
        assert reliability.compare(Look(NAN, 0, NAN)) == []
        assert Reliability().compare(Look(-100, 1, 9)) == []
        assert reliability.compare(Look(-14.24, 0.621, 0.9)) == [
            f'the images are unlike the training data: {text}'
            for text in (
                'land is at -14.2 dB in SAR, in training at -12.0 to -6.0 dB',
                '62 % was water before, in training 0 to 35 %',
                'speckle spreads SAR by 0.9 dB, in training by 1.6 to 2.6 dB',
            )
        ]


class TestMeasureLook:
    def look(self, size: int, decibels: float | None, unit: float = 1) -> Look | None:
        """Look at land of -9 dB, with 1.5 dB of noise, and at a quarter of water."""
        generator = torch.Generator().manual_seed(0)
        sar = -9 + 1.5 * torch.randn(size, size, generator=generator)
        optical = torch.full_like(sar, 2000)
        optical[:, : size // 4] = 100
        sar[:, : size // 4] -= 10
        valid = torch.ones(1, 1, size, size, dtype=torch.bool)
        valid[..., : size // 2, :] = False
        inputs = rule_inputs(decibels=1 / unit)
        image = torch.stack([optical, sar * unit])[None, :, None]
        return measure_look(
            inputs, inputs.show({'image': image, 'valid': valid}), decibels
        )

    @pytest.mark.parametrize('unit', [1, 5])
    def test_values(self, unit: float) -> None:
        look = self.look(300, 1 / unit, unit)
        assert look is not None
        assert look.land == pytest.approx(-9, abs=0.1)
        assert look.water == pytest.approx(0.25)
        assert look.speckle == pytest.approx(1.5, rel=0.05)

    def test_unknown(self) -> None:
        """A level without calibration, and speckle of very few pixels."""
        look = self.look(300, None, 5)
        assert look is not None
        assert math.isnan(look.land)
        assert look.speckle == pytest.approx(1.5, rel=0.05)
        small = self.look(20, 1.0)
        assert small is not None
        assert math.isnan(small.speckle)

    def test_no_data(self) -> None:
        inputs = rule_inputs()
        image, valid = torch.ones(1, 2, 1, 8, 8), torch.zeros(1, 1, 8, 8).bool()
        batch = inputs.show({'image': image, 'valid': valid})
        assert measure_look(inputs, batch, 1.0) is None


def test_median_look() -> None:
    looks = [
        Look(-9, 0.1, NAN),
        Look(-8, 0.4, NAN),
        Look(-30, 1, NAN),
        Look(NAN, 0, NAN),
    ]
    land, water, speckle = median_look(looks)
    assert land == -9
    assert water == pytest.approx(0.375)
    assert math.isnan(speckle)
