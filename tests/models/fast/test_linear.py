# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

import pytest
import torch

from torchgeo_m2cd.models.fast.linear import FastLinear, linear, linear_weight_grad


@pytest.mark.parametrize('shape', [(), (7,), (2, 3, 5), (0,)])
@pytest.mark.parametrize('bias', [True, False])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_same_as_matrix_product(
    shape: tuple[int, ...], bias: bool, dtype: torch.dtype
) -> None:
    layer = FastLinear(6, 4, bias=bias, dtype=dtype)
    x = torch.randn(*shape, 6, dtype=dtype, requires_grad=True)
    expected = x @ layer.weight.T
    if layer.bias is not None:
        expected = expected + layer.bias
    torch.testing.assert_close(layer(x), expected)

    inputs = [x, *layer.parameters()]
    gradients, expected_gradients = (
        torch.autograd.grad(y.square().sum(), inputs) for y in (layer(x), expected)
    )
    torch.testing.assert_close(gradients, expected_gradients)


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
@pytest.mark.parametrize('rows', [0, 1, 7])
def test_weight_grad(rows: int, dtype: torch.dtype) -> None:
    x, grad = torch.randn(rows, 6, dtype=dtype), torch.randn(rows, 4, dtype=dtype)
    expected = torch.einsum('no,ni->oi', grad, x)
    torch.testing.assert_close(linear_weight_grad(x, grad), expected)


def test_not_contiguous() -> None:
    x, weight = torch.randn(6, 5, 3).transpose(0, 2), torch.randn(4, 6)
    torch.testing.assert_close(linear(x, weight), x @ weight.T)


def test_autocast() -> None:
    with torch.autocast('cpu', dtype=torch.bfloat16):
        assert FastLinear(6, 4)(torch.randn(5, 6)).dtype == torch.bfloat16
