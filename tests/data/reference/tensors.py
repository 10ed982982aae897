# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Deterministic tensors for the reference vectors in this folder.

Weights and inputs are not stored: each is a pure function of its name, its
shape and a salt, so only the expected outputs lie on disk.  Needs NumPy alone.
"""

import zlib

import numpy as np


def _uniform(name: str, shape: tuple[int, ...], salt: str) -> np.ndarray:
    seed = zlib.crc32(f'{salt}/{name}'.encode())
    return np.random.Generator(np.random.PCG64(seed)).uniform(-1.0, 1.0, shape)


def weight(name: str, shape: tuple[int, ...], salt: str) -> np.ndarray:
    """Return the value of the parameter or buffer *name* (float32).

    Variances are positive, norm scales lie near one, and every matrix is scaled
    by its fan-in, so that activations keep their size through the network.
    """
    u = _uniform(name, shape, salt)
    leaf = name.rsplit('.', 1)[-1]
    if leaf == 'num_batches_tracked':
        return np.zeros(shape, dtype=np.int64)
    if leaf == 'running_var':
        v = 1.0 + 0.5 * u
    elif leaf in {'mean'}:
        v = np.zeros(shape)
    elif leaf in {'std'}:
        v = np.ones(shape)
    elif leaf == 'temperature':
        v = np.full(shape, np.log(2.0)) + 0.3 * u
    elif leaf == 'weight' and len(shape) == 1:
        v = 1.0 + 0.2 * u
    elif len(shape) >= 2:
        fan_in = int(np.prod(shape[1:]))
        if leaf in {'w_noise', 'sim_matrix'}:
            fan_in = shape[0]
        v = u * np.sqrt(3.0 / max(fan_in, 1))
    else:
        v = 0.1 * u
    return v.astype(np.float32)


def image(name: str, shape: tuple[int, ...], salt: str) -> np.ndarray:
    """Return a smooth random image in standardised units (float32)."""
    n, c, h, w = shape
    coarse = _uniform(name, (n, c, 8, 8), salt)
    fine = _uniform(name + '/fine', shape, salt)
    up = coarse.repeat(-(-h // 8), axis=2).repeat(-(-w // 8), axis=3)[:, :, :h, :w]
    return (1.5 * up + 0.5 * fine).astype(np.float32)
