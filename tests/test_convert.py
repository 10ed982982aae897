# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.data.reference import tensors
from torchgeo_m2cd.convert import main
from torchgeo_m2cd.models import M2CD, load_original

REFERENCE = Path(__file__).parent / 'data' / 'reference'


@pytest.fixture
def state_dict() -> dict[str, Tensor]:
    shapes = json.loads((REFERENCE / 'mit_b0.state_dict.json').read_text())
    return {
        name: torch.from_numpy(tensors.weight(name, tuple(shape), 'm2cd-public'))
        for name, shape in shapes.items()
    }


@pytest.fixture
def checkpoint(tmp_path: Path, state_dict: dict[str, Tensor]) -> Path:
    path = tmp_path / 'best.pth'
    torch.save({'meta': {'epoch': 3}, 'state_dict': state_dict}, path)
    return path


class TestMain:
    @pytest.mark.parametrize('name', ['model', 'new/v1.0'])
    def test_round_trip(
        self,
        checkpoint: Path,
        state_dict: dict[str, Tensor],
        name: str,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        folder = checkpoint.parent / name
        main([str(checkpoint), 'mit_b0', str(folder)])
        assert capsys.readouterr().out.strip() == f'wrote {folder}'
        assert {*folder.parent.iterdir()} - {checkpoint} == {folder}
        expected = load_original(state_dict, 'mit_b0')
        model = M2CD.from_pretrained(folder).eval()
        image = torch.randn(1, 2, 3, 64, 64)
        with torch.no_grad():
            assert torch.equal(model(image), expected(image))

    def fails(
        self, capsys: pytest.CaptureFixture[str], folder: Path, *args: object
    ) -> str:
        """Run the command, check that it leaves no file, and return its error."""
        before = sorted(folder.rglob('*'))
        with pytest.raises(SystemExit) as error:
            main([str(arg) for arg in args])
        assert error.value.code == 2
        assert sorted(folder.rglob('*')) == before
        return capsys.readouterr().err

    def test_existing_folder(
        self, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        folder = tmp_path / 'model'
        folder.mkdir()
        (folder / 'config.json').write_text('precious')
        message = self.fails(capsys, tmp_path, checkpoint, 'mit_b0', folder)
        assert f'{folder} exists' in message
        assert (folder / 'config.json').read_text() == 'precious'

    def test_missing_file(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        args = (tmp_path / 'no.pth', 'mit_b0', tmp_path / 'model')
        message = self.fails(capsys, tmp_path, *args)
        assert 'does not exist' in message
        assert 'no.pth' in message

    @pytest.mark.parametrize(
        ('encoder', 'match'),
        [('mit_b1', 'does not fit'), ('mit_b9', "invalid choice: 'mit_b9'")],
    )
    def test_wrong_encoder(
        self,
        checkpoint: Path,
        tmp_path: Path,
        encoder: str,
        match: str,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        args = (checkpoint, encoder, tmp_path / 'model')
        assert match in self.fails(capsys, tmp_path, *args)

    def test_not_a_checkpoint(
        self, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        checkpoint.write_text('<html>404</html>')
        args = (checkpoint, 'mit_b0', tmp_path / 'model')
        assert "best.pth' begins with" in self.fails(capsys, tmp_path, *args)

    def test_nothing_half_written(
        self,
        checkpoint: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        def fail(self: M2CD, folder: Path, **kwargs: Any) -> None:
            folder.mkdir(parents=True)
            (folder / 'config.json').write_text('{')
            raise OSError('disk full')

        monkeypatch.setattr(M2CD, 'save_pretrained', fail)
        args = (checkpoint, 'mit_b0', tmp_path / 'model')
        assert 'disk full' in self.fails(capsys, tmp_path, *args)
