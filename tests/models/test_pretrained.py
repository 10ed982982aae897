# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

import copy
import hashlib
import json
import pickle
import re
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import huggingface_hub.constants
import pytest
import safetensors
import safetensors.torch
import torch
from torch import Tensor
from torchgeo.models import ResNet18_Weights
from torchvision.models._api import Weights

import torchgeo_m2cd.models
from torchgeo_m2cd.models import M2CD, M2CD_Weights, get_weight, m2cd
from torchgeo_m2cd.models import pretrained as module
from torchgeo_m2cd.models.pretrained import last_convolution
from torchgeo_m2cd.transforms import Inputs

DEFAULT: Any = M2CD_Weights.DEFAULT
RELEASED = Path(torchgeo_m2cd.models.__file__).parent / 'released'
REVISION = '0123456789abcdef0123456789abcdef01234567'


def read_file(path: Path) -> dict[str, Tensor]:
    with safetensors.safe_open(path, 'pt') as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


class Hub(BaseHTTPRequestHandler):
    """Answer like the hub, with the content of one file."""

    content = b''

    def do_HEAD(self) -> None:
        self._send()

    def do_GET(self) -> None:
        self._send()
        self.wfile.write(self.content)

    def log_message(self, *args: Any) -> None:
        """Log no requests."""

    def _send(self) -> None:
        if self.path != f'/someone/flood/resolve/{REVISION}/large.safetensors':
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header('X-Repo-Commit', REVISION)
        self.send_header('ETag', f'"{hashlib.sha256(self.content).hexdigest()}"')
        self.send_header('Content-Length', str(len(self.content)))
        self.end_headers()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[type[Hub]]:
    """Serve a hub on this machine with weights that replace the default."""
    state = {'x.weight': torch.ones(2, 3, dtype=torch.half), 'n': torch.tensor(1)}
    content = safetensors.torch.save(state)
    meta = {'sha256': hashlib.sha256(content).hexdigest(), 'bytes': len(content)}
    url = f'https://hf.co/someone/flood/resolve/{REVISION}/large.safetensors'
    monkeypatch.setattr(DEFAULT, '_value_', Weights(url, dict, meta))
    monkeypatch.setattr(Hub, 'content', content)
    with ThreadingHTTPServer(('127.0.0.1', 0), Hub) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        download = partial(
            huggingface_hub.hf_hub_download,
            endpoint=f'http://127.0.0.1:{server.server_port}',
            cache_dir=tmp_path,
        )
        monkeypatch.setattr(module, 'hf_hub_download', download)
        yield Hub
        server.shutdown()


class TestM2CDWeights:
    @pytest.mark.parametrize('weights', list(M2CD_Weights))
    def test_members(self, weights: Any) -> None:
        """The description is complete and true."""
        name = weights.name.lower()
        description = json.loads((RELEASED / f'{name}.json').read_text())
        inputs = weights.transforms()
        assert isinstance(inputs, Inputs)
        assert inputs.to_dict() == description['inputs']
        assert all(all(names) for names in inputs.band_names)
        assert weights.url == description['url']
        keys = {'data', 'licence', 'figures', 'commit', 'command', 'model'}
        assert keys <= weights.meta.keys()
        assert list(inputs.channels) == weights.meta['model']['in_channels']

    def test_default(self) -> None:
        """The default weights are in the package and small."""
        content = (RELEASED / DEFAULT.url).read_bytes()
        assert DEFAULT.meta['bytes'] == len(content) <= 8e6
        assert DEFAULT.meta['sha256'] == hashlib.sha256(content).hexdigest()
        stored = read_file(RELEASED / DEFAULT.url)
        found = DEFAULT.get_state_dict(progress=True, check_hash=True)
        assert found.keys() == stored.keys()
        for name, value in stored.items():
            half = value.ndim > 1
            assert value.dtype == torch.half if half else value.dtype != torch.half
            assert found[name].dtype in (torch.float32, torch.int64)
            assert torch.equal(found[name], value.to(found[name].dtype))

    @pytest.mark.parametrize(
        'again', [copy.deepcopy, lambda w: pickle.loads(pickle.dumps(w))]
    )
    def test_copies(self, again: Any) -> None:
        assert again(DEFAULT) is DEFAULT

    @pytest.mark.parametrize('content', [b'', b'other'])
    def test_damaged(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: bytes
    ) -> None:
        (tmp_path / DEFAULT.url).write_bytes(content)
        monkeypatch.setattr(module, 'FOLDER', tmp_path)
        match = rf'the file of M2CD_Weights\.\w+ is damaged.*: {len(content)} bytes'
        with pytest.raises(ValueError, match=match):
            DEFAULT.get_state_dict()

    def test_hub(self, hub: type[Hub]) -> None:
        expected = {'x.weight': torch.ones(2, 3), 'n': torch.tensor(1)}
        torch.testing.assert_close(DEFAULT.get_state_dict(), expected, rtol=0, atol=0)
        # Now from the cache: the hub has another file, but a revision does not change
        hub.content = b'changed'
        torch.testing.assert_close(DEFAULT.get_state_dict(), expected, rtol=0, atol=0)

    def test_wrong_file_of_hub(self, hub: type[Hub]) -> None:
        hub.content = hub.content[:-1]
        with pytest.raises(ValueError, match='is damaged, or another one'):
            DEFAULT.get_state_dict()

    def test_missing_file_of_hub(
        self, hub: type[Hub], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        value = DEFAULT.value
        url = value.url.replace('large', 'none')
        monkeypatch.setattr(DEFAULT, '_value_', Weights(url, dict, value.meta))
        match = r'M2CD_Weights\.\w+ cannot be fetched from https://hf\.co/.*none'
        with pytest.raises(OSError, match=match):
            DEFAULT.get_state_dict()


class TestBuilder:
    def test_weights(self) -> None:
        model = m2cd(DEFAULT)
        expected = {k: v.float() for k, v in read_file(RELEASED / DEFAULT.url).items()}
        state = {k: v.float() for k, v in model.state_dict().items()}
        torch.testing.assert_close(state, expected, rtol=0, atol=0)
        assert model.inputs is not None
        assert model.inputs.to_dict() == DEFAULT.transforms().to_dict()

    def test_arguments_that_agree(self) -> None:
        own = DEFAULT.meta['model']
        model = m2cd(
            DEFAULT, encoder_name=own['encoder_name'], experts=None,
            in_channels=tuple(own['in_channels']), inputs=None, activation='sigmoid',
        )  # fmt: skip
        assert model.inputs is None
        image = torch.randn(1, 2, max(own['in_channels']), 64, 64)
        logits = m2cd(DEFAULT).eval()(image)
        torch.testing.assert_close(model.eval()(image), logits.sigmoid())

    def test_other_classes(self) -> None:
        """Other classes get a new head; other parameters are those of the weights."""
        model, binary = m2cd(DEFAULT, classes=3), m2cd(DEFAULT)
        state, expected = model.state_dict(), binary.state_dict()
        different = {k for k in state if not torch.equal(state[k], expected[k])}
        name = last_convolution(model)
        assert name.startswith('segmentation_head.')
        assert different == {f'{name}.weight', f'{name}.bias'}
        assert state[f'{name}.bias'].shape == (3,)

    @pytest.mark.parametrize(
        ('kwargs', 'message'),
        [
            ({'encoder_name': 'mit_b5'}, "encoder_name is 'mit_b5', but that of M2CD_"),
            ({'in_channels': 7}, 'in_channels is 7, but that of M2CD_Weights.'),
            ({'encoder_weights': 'imagenet'}, "encoder_weights is 'imagenet', but"),
            ({'experts': {}}, 'experts is {}, but that of M2CD_Weights.'),
            ({'encoder': 'mit_b0'}, "unknown argument of M2CD 'encoder', did you mean"),
        ],
    )
    def test_arguments_that_disagree(
        self, kwargs: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(ValueError, match=re.escape(message)):
            m2cd(DEFAULT, **kwargs)

    def test_without_weights(self) -> None:
        model = m2cd(encoder_name='mit_b0', experts=None, classes=2)
        assert isinstance(model, M2CD)
        assert (model.name, model.experts) == ('m2cd-mit_b0', None)


class TestGetWeight:
    @pytest.mark.parametrize(
        'weights', [*M2CD_Weights, ResNet18_Weights.SENTINEL2_ALL_MOCO]
    )
    def test_names(self, weights: Any) -> None:
        assert get_weight(str(weights)) is weights

    def test_default(self) -> None:
        assert get_weight('M2CD_Weights.DEFAULT') is DEFAULT

    @pytest.mark.parametrize(
        ('name', 'message'),
        [
            ('M2CD_Weights.DEFUALT', "unknown M2CD_Weights 'DEFUALT', did you mean"),
            (
                'ResNet18_Weights.NONE',
                'ResNet18_Weights.NONE is not a valid WeightsEnum',
            ),
        ],
    )
    def test_unknown(self, name: str, message: str) -> None:
        with pytest.raises(ValueError, match=re.escape(message)):
            get_weight(name)
