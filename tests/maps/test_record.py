# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

import warnings

import lightning.pytorch
import pytest
from lightning.fabric.utilities.warnings import PossibleUserWarning

from torchgeo_m2cd.maps import record_warnings


class TestRecordWarnings:
    def test_once(self) -> None:
        def warn() -> None:
            with record_warnings(messages):
                warnings.warn('odd units', stacklevel=1)
                warnings.warn('slow', PossibleUserWarning, stacklevel=1)
                warnings.warn('old', FutureWarning, stacklevel=1)
                # As it is said by Lightning itself
                warnings.warn_explicit(
                    'no callback', UserWarning, lightning.pytorch.__file__, 1
                )

        messages: list[str] = []
        show = warnings.showwarning
        for _ in range(2):
            # They are shown as ever
            with pytest.warns(UserWarning, match='odd units') as seen:
                warn()
            assert len(seen) == 4
        assert messages == ['odd units']
        assert warnings.showwarning is show

    def test_secrets(self) -> None:
        messages: list[str] = []
        url = 'https://user:word@x.org/a.tif?sig=secret'
        with pytest.warns(UserWarning, match='a.tif'), record_warnings(messages):
            warnings.warn(f"file '/vsicurl/{url}' is odd, {url} too", stacklevel=1)
        assert messages == [
            "file '/vsicurl/https://x.org/a.tif' is odd, https://x.org/a.tif too"
        ]
