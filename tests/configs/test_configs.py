# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

import sys

import pytest

from torchgeo_m2cd.configs import config_path, list_configs
from torchgeo_m2cd.configs.__main__ import main


def test_config_path() -> None:
    assert 'ombria' in list_configs()
    for name in list_configs():
        assert 'class_path' in config_path(name).read_text()
    with pytest.raises(ValueError, match="'ombra', did you mean 'ombria'"):
        config_path('ombra')


class TestMain:
    def test_list(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(sys, 'argv', ['configs'])
        main()
        assert capsys.readouterr().out.split() == list_configs()

    def test_name(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(sys, 'argv', ['configs', 'ombria'])
        main()
        assert capsys.readouterr().out.strip() == str(config_path('ombria'))

    def test_typo(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(sys, 'argv', ['configs', 'ombra'])
        with pytest.raises(SystemExit):
            main()
        assert "did you mean 'ombria'?" in capsys.readouterr().err
