# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

import sys

import pytest
import yaml

from torchgeo_m2cd.configs import config_path, list_configs, read_configs
from torchgeo_m2cd.configs.__main__ import main


def test_config_path() -> None:
    assert 'ombria' in list_configs()
    for name in list_configs():
        assert 'init_args' in config_path(name).read_text()
    with pytest.raises(ValueError, match="'ombra', did you mean 'ombria'"):
        config_path('ombra')


def test_read_configs() -> None:
    """Values of the later config replace those of the earlier one."""
    text = read_configs('original', 'original_bright')
    assert text.startswith('# original + original_bright\n')
    base, top, merged = (
        yaml.safe_load(values)
        for values in (read_configs('original'), read_configs('original_bright'), text)
    )
    assert merged['trainer'] == base['trainer'] | top['trainer']
    assert merged['data']['class_path'] == top['data']['class_path']
    expected = base['data']['init_args'] | top['data']['init_args']
    assert merged['data']['init_args'] == expected
    ohem = merged['model']['init_args']['ohem']['init_args']
    assert ohem == {'threshold': 0.7, 'min_kept': 400000}


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
        assert capsys.readouterr().out == config_path('ombria').read_text()

    def test_typo(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(sys, 'argv', ['configs', 'ombra'])
        with pytest.raises(SystemExit):
            main()
        assert "did you mean 'ombria'?" in capsys.readouterr().err
