# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Trained models that come with the package, or from the hub."""

import hashlib
import inspect
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, cast

import safetensors.torch
import torchgeo.models
from huggingface_hub import hf_hub_download
from torch import Tensor, nn
from torchvision.models._api import Weights, WeightsEnum

from ..checks import checked
from ..configurable import plain
from ..released import FOLDER, describe_weights
from ..transforms import Inputs
from ..utils import check_choice
from .m2cd import M2CD
from .weights import load_strictly

# Arguments of M2CD that may differ from those of the weights: another number of classes
# gets a new head, and the rest does not change the parameters
_FREE = ('classes', 'activation', 'inputs')

_HUB = re.compile(
    r'https://(?:hf\.co|huggingface\.co)/([^/]+/[^/]+)'
    r'/resolve/([0-9a-f]{40})/(.+)'
)


def _describe(name: str) -> Weights:
    """Read the description of weights."""
    meta = describe_weights(name)
    inputs = partial(Inputs.from_dict, meta.pop('inputs'))
    return Weights(url=meta.pop('url'), transforms=inputs, meta=meta)


class M2CD_Weights(WeightsEnum):  # type: ignore[misc]
    """Trained models, for :func:`m2cd`.

    ``url`` is the address of the file at the hub, or its name if it lies in the package.
    ``transforms()`` makes the :class:`~torchgeo_m2cd.transforms.Inputs`: what the model is
    shown. ``meta`` holds

    * ``model``: arguments of :class:`M2CD`
    * ``data``, ``licence``: what it was trained with, and the licence of that
    * ``figures``: IoU by split, with the interval over chips
    * ``commit``, ``command``: how the file was made
    * ``reliability``: how much its maps can be trusted
    * ``sha256``, ``bytes``: digest and size of the file
    """

    OMBRIA_V1 = _describe('OMBRIA_V1')
    DEFAULT = OMBRIA_V1

    def get_state_dict(self, *args: Any, **kwargs: Any) -> Mapping[str, Tensor]:
        """Read the weights, from the package or from the hub.

        Args:
            *args: Ignored; torchvision's loader takes them.
            **kwargs: Ignored: the digest is always checked, and no code is ever run.

        Returns:
            Parameters and buffers by name, in single precision.

        Raises:
            OSError: If the file cannot be fetched from the hub.
            ValueError: If it is not the file that was released.
        """
        content = self._read()
        digest = hashlib.sha256(content).hexdigest()
        if digest != self.meta['sha256']:
            raise ValueError(
                f'the file of {self} is damaged, or another one: {len(content):,} bytes '
                f'with the SHA-256 {digest[:16]}…, expected {self.meta["bytes"]:,} with '
                f'{self.meta["sha256"][:16]}…. Remove it from the cache of the hub, or '
                'install torchgeo-m2cd again'
            )
        return {
            name: value.float() if value.is_floating_point() else value
            for name, value in safetensors.torch.load(content).items()
        }

    def _read(self) -> bytes:
        """Read the file."""
        address = _HUB.fullmatch(self.url)
        if address is None:
            content: bytes = (FOLDER / self.url).read_bytes()
            return content
        try:
            repo_id, revision, filename = address.groups()
            path = hf_hub_download(repo_id, filename, revision=revision)
            return Path(path).read_bytes()
        except OSError as error:
            raise OSError(
                f'{self} cannot be fetched from {self.url}: {error}'
            ) from error


@checked
def m2cd(weights: M2CD_Weights | None = None, **kwargs: Any) -> M2CD:
    """Make an M²CD model, with trained weights or without.

    Args:
        weights: Trained weights of the whole model.
        **kwargs: Arguments of :class:`M2CD`. With *weights*, they are those of the
            weights, except for ``classes``: another number of classes gets a new head.

    Returns:
        The model, in training mode. With *weights*, it knows its inputs.

    Raises:
        OSError: If the weights cannot be fetched from the hub.
        ValueError: If an argument is not that of the weights, or their file is damaged.
    """
    if weights is None:
        return cast(M2CD, M2CD(**kwargs))
    arguments = agree_on_architecture(weights, kwargs)
    model: M2CD = M2CD(**{'inputs': weights.transforms(), **arguments})
    state_dict = dict(weights.get_state_dict())
    if arguments['classes'] != weights.meta['model']['classes']:
        own = model.state_dict()
        head = last_convolution(model)
        for name in (f'{head}.weight', f'{head}.bias'):
            state_dict[name] = own[name]
    load_strictly(model, state_dict, str(weights))
    return model


def agree_on_architecture(
    weights: M2CD_Weights, given: Mapping[str, Any]
) -> dict[str, Any]:
    """Complete the arguments of a model with those of its weights.

    Args:
        weights: The weights.
        given: Arguments of :class:`M2CD` that the user chose.

    Returns:
        All arguments.

    Raises:
        ValueError: If an argument is unknown, or not that of the weights.
    """
    own = weights.meta['model']
    signature = inspect.signature(M2CD).parameters
    for name, value in given.items():
        check_choice(f'argument of {M2CD.__name__}', name, signature)
        expected = own.get(name, signature[name].default)
        if name not in _FREE and plain(value) != plain(expected):
            raise ValueError(
                f'{name} is {plain(value)!r}, but that of {weights} is '
                f'{plain(expected)!r}: leave it out, or train without these weights'
            )
    return {**own, **given}


def last_convolution(model: M2CD) -> str:
    """Find the convolution that makes the logits.

    Args:
        model: The model.

    Returns:
        Its name.
    """
    names = [
        name
        for name, module in model.segmentation_head.named_modules()
        if isinstance(module, nn.Conv2d)
    ]
    return f'segmentation_head.{names[-1]}'


@checked
def get_weight(name: str) -> WeightsEnum:
    """Find weights by their name.

    Args:
        name: ``'M2CD_Weights.OMBRIA_V1'``, ``'M2CD_Weights.DEFAULT'``, or the name of
            weights of TorchGeo.

    Returns:
        The weights.

    Raises:
        ValueError: If there are none of this name.
    """
    enum, _, member = name.partition('.')
    if enum != M2CD_Weights.__name__:
        return torchgeo.models.get_weight(name)
    check_choice(enum, member, M2CD_Weights.__members__)
    return M2CD_Weights.__members__[member]
