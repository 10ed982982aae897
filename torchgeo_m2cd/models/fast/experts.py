# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Mixture of Experts, where an expert only sees its own tokens."""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from ..moe import ExpertLinear, MixtureOfExperts
from .linear import is_exporting, linear, linear_weight_grad
from .stand_in import StandIn


class FastMixtureOfExperts(StandIn, MixtureOfExperts):
    """:class:`MixtureOfExperts` whose experts see their own tokens only.

    On a CPU one expert runs after the other. That needs the number of its tokens on the
    host, which would synchronise a GPU: there, many experts run in one grouped product,
    which only bfloat16 has. Few experts, in other data types and for export all of them,
    see all tokens, as in the plain layer.
    """

    #: Hidden values that a CPU computes at once: they stay in its cache.
    block_size = 2**20

    def mix(self, x: Tensor, gates: Tensor) -> Tensor:
        """Sum up the experts, see :meth:`MixtureOfExperts.mix`."""
        device = x.device.type
        if torch.is_autocast_enabled(device):
            x = x.to(torch.get_autocast_dtype(device))
        if x.device.type == 'cpu' and not is_exporting():
            return self._mix_sparse(x, gates)
        # The grouped product of other data types synchronises. To sort the tokens costs as
        # much as to compute twice as many
        many = self.num_experts > 2 * self.top_k
        if x.is_cuda and x.dtype == torch.bfloat16 and many:
            return self._mix_grouped(x, gates)
        return super().mix(x, gates)

    def _mix_sparse(self, x: Tensor, gates: Tensor) -> Tensor:
        """Apply each expert to its own tokens, one expert after the other.

        An expert without tokens still takes part in the graph, so that every
        parameter has a gradient in every step, as DDP expects.
        """
        weights = [
            parameter.to(x.dtype)
            for layer in (self.fc1, self.fc2)
            for parameter in (layer.weight, layer.bias)
        ]
        rows = max(self.block_size // self.fc1.weight.shape[1], 1)
        out: Tensor = sparse_experts(x, gates, *weights, rows)
        return out

    def _mix_grouped(self, x: Tensor, gates: Tensor) -> Tensor:
        """Apply each expert to its own tokens, all experts in one grouped product.

        The tokens are sorted by expert. No size depends on the data.
        """
        gates, experts = gates.sort(dim=-1, descending=True)
        gates, experts = gates[:, : self.top_k], experts[:, : self.top_k]
        one_hot = F.one_hot(experts.flatten(), self.num_experts).T
        # Counting by expert and then by token is sorting: the row of each choice
        counts = one_hot.flatten().cumsum(dim=0).view(self.num_experts, -1)
        rows = (counts - 1).gather(0, experts.reshape(1, -1)).squeeze(0)
        offsets = counts[:, -1].to(torch.int32)
        order = torch.empty_like(rows)
        order = order.scatter(0, rows, torch.arange(len(rows), device=x.device))
        sorted_experts = experts.flatten()[order]

        def apply(layer: ExpertLinear, x: Tensor) -> Tensor:
            weight = layer.weight.to(x.dtype).transpose(1, 2)
            y = F.grouped_mm(x, weight, offs=offsets)
            return y + layer.bias.to(x.dtype)[sorted_experts]

        y = apply(self.fc2, F.gelu(apply(self.fc1, x[order // self.top_k])))
        y = y[rows].view(len(x), self.top_k, -1)
        return torch.einsum('nkc,nk->nc', y, gates.to(y.dtype))


# Custom operators, so that torch.compile sees no size that depends on the data
@torch.library.custom_op('torchgeo_m2cd::sparse_experts', mutates_args=())
def sparse_experts(
    x: Tensor, gates: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, rows: int
) -> Tensor:
    """Apply each expert to its own tokens, a block of them at a time.

    Hidden values are by far the largest of a layer. In blocks, they stay in a CPU's cache,
    and the backward pass computes them again, which is cheaper than waiting for memory.

    Args:
        x: Tokens, shape ``(N, C)``.
        gates: Share of each expert in each token, shape ``(N, E)``.
        w1: Weights of the first layers, shape ``(E, H, C)``.
        b1: Their biases, shape ``(E, H)``.
        w2: Weights of the second layers, shape ``(E, C, H)``.
        b2: Their biases, shape ``(E, C)``.
        rows: Tokens that an expert gets at once.

    Returns:
        Tokens, shape ``(N, C)``.
    """
    out = torch.zeros_like(x)
    for expert, index, share in _blocks(gates, rows):
        hidden = linear(x.index_select(0, index), w1[expert], b1[expert])
        y = linear(torch.ops.aten.gelu_(hidden), w2[expert], b2[expert])
        out.index_add_(0, index, y.mul_(share.to(y.dtype)))
    return out


@torch.library.custom_op('torchgeo_m2cd::sparse_experts_backward', mutates_args=())
def sparse_experts_backward(
    grad: Tensor,
    x: Tensor,
    gates: Tensor,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    b2: Tensor,
    rows: int,
) -> list[Tensor]:
    """Compute the gradients of the arguments of :func:`sparse_experts`.

    Args:
        grad: Gradient of its output, shape ``(N, C)``.
        x: Tokens, shape ``(N, C)``.
        gates: Share of each expert in each token, shape ``(N, E)``.
        w1: Weights of the first layers, shape ``(E, H, C)``.
        b1: Their biases, shape ``(E, H)``.
        w2: Weights of the second layers, shape ``(E, C, H)``.
        b2: Their biases, shape ``(E, C)``.
        rows: Tokens that an expert gets at once.

    Returns:
        Gradients of all tensors.
    """
    grads = [torch.zeros_like(tensor) for tensor in (x, gates, w1, b1, w2, b2)]
    grad_x, grad_gates, grad_w1, grad_b1, grad_w2, grad_b2 = grads
    for expert, index, share in _blocks(gates, rows):
        tokens, grad_y = x.index_select(0, index), grad.index_select(0, index)
        share = share.to(x.dtype)
        hidden = linear(tokens, w1[expert], b1[expert])
        active = F.gelu(hidden)
        grad_active = linear(grad_y, w2[expert].T)
        grad_share = (grad_active * active).sum(dim=1) + grad_y @ b2[expert]
        # Rows that only fill up a block repeat a token, with a share of zero
        grad_gates[:, expert].index_put_(
            (index,),
            torch.where(share[:, 0] > 0, grad_share, 0).to(gates.dtype),
            accumulate=True,
        )
        grad_y = grad_y * share
        grad_hidden = torch.ops.aten.gelu_backward(grad_active * share, hidden)
        grad_w1[expert] += linear_weight_grad(tokens, grad_hidden)
        grad_b1[expert] += grad_hidden.sum(dim=0)
        grad_w2[expert] += linear_weight_grad(active, grad_y)
        grad_b2[expert] += grad_y.sum(dim=0)
        grad_x.index_add_(0, index, linear(grad_hidden, w1[expert].T))
    return grads


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    """Keep the arguments of :func:`sparse_experts`."""
    *tensors, ctx.rows = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    """Compute the gradients of the arguments of :func:`sparse_experts`."""
    return *sparse_experts_backward(grad, *ctx.saved_tensors, ctx.rows), None


# Shapes of the results, for torch.compile
sparse_experts.register_fake(lambda x, *_: torch.empty_like(x))
sparse_experts_backward.register_fake(
    lambda grad, *args: [torch.empty_like(tensor) for tensor in args[:-1]]
)
sparse_experts.register_autograd(_backward, setup_context=_save_for_backward)


# PyTorch's counter of operations does not look into custom operators
@register_flop_formula(torch.ops.torchgeo_m2cd.sparse_experts, get_raw=True)
def _count_flops(x: Tensor, gates: Tensor, w1: Tensor, *_: Any, **__: Any) -> int:
    """Count the operations of :func:`sparse_experts`: two products per token."""
    return 4 * int((gates > 0).sum()) * w1[0].numel()


@register_flop_formula(torch.ops.torchgeo_m2cd.sparse_experts_backward, get_raw=True)
def _count_flops_backward(grad: Tensor, *args: Any, **_: Any) -> int:
    """Count those of its backward pass: four products, and one that is done again."""
    return _count_flops(*args) * 5 // 2


def _blocks(gates: Tensor, rows: int) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Iterate over experts and blocks of their tokens.

    Args:
        gates: Share of each expert in each token, shape ``(N, E)``.
        rows: Tokens in a block.

    Yields:
        Number of the expert, n indices of tokens, and their shares, shape ``(n, 1)``.
    """
    for expert, gate in enumerate(gates.T):
        for index in gate.nonzero().squeeze(1).split(rows):
            # oneDNN compiles a kernel for each number of rows, so there should be few
            padding = (0, -len(index) % max(rows // 32, 1))
            share = F.pad(gate[index], padding)[:, None]
            yield expert, F.pad(index, padding), share
