# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

import numpy as np
import pytest

from torchgeo_m2cd.datasets.granules import Band, Granule


class TestGranule:
    def test_select(self) -> None:
        bands = (Band('a', 1, 'VV'), Band('a', 2, 'VH'), Band('b', 1, ''))
        granule = Granule(bands, '2023-05-01')
        assert granule.files == ['a', 'b']
        assert granule.names == ['VV', 'VH', '']
        assert granule.by_file() == [('a', [*bands[:2]]), ('b', [bands[2]])]
        chosen = granule.select(['VH', 'VV'], 'SAR')
        assert chosen == Granule((bands[1], bands[0]), '2023-05-01')
        match = (
            r"SAR file 'a', 'b' has no band 'HH': expected \['HH'\], found \['VV', 'VH"
        )
        with pytest.raises(ValueError, match=match):
            granule.select(['HH'], 'SAR')
        with pytest.raises(
            ValueError, match='no names of bands, choose them by number'
        ):
            Granule((Band('a'),)).select(['HH'], 'SAR')

    def test_calibrate(self) -> None:
        bands = (
            Band('a'),
            Band('b', gain=1.0, offset=0.0),
            Band('c', gain=2.0, offset=-4.0),
        )
        values = np.tile(np.array([[1.0, 2.0]], np.float32), (3, 1, 1))
        Granule(bands).calibrate(values)
        np.testing.assert_array_equal(values[:2], [[[1, 2]], [[1, 2]]])
        np.testing.assert_allclose(values[2], [[-2, 0]], atol=1e-30)
        assert values[2, 0, 1] != 0  # Dark, but not without data
