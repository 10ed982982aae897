# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Mixture-of-Experts layer."""

import contextlib
import math
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import register_flop_formula

from ..utils import check_choice
from .linear import Linear, linear, linear_weight_grad


class MoEOutput(NamedTuple):
    """What a :class:`MixtureOfExperts` gives."""

    #: Mixed expert outputs, shape ``(..., N, C)``.
    tokens: Tensor

    #: Balance loss, a scalar: unweighted, summed over the leading dimensions.
    balance_loss: Tensor

    #: Share of each expert in each token, shape ``(..., N, E)``; sums to one over
    #: the experts, and at most ``top_k`` of them are not zero.
    gates: Tensor


class CosineGate(nn.Module):
    r"""Cosine gate.

    .. math::

       \text{logits} = \frac{P x}{\lVert P x \rVert} \cdot
       \frac{S}{\lVert S \rVert_\text{columns}} \cdot e^{\min(\tau, \ln 100)}

    with a linear projection :math:`P: C \to \min(C / 2, 256)`, one direction
    per expert :math:`S`, and a learned temperature :math:`\tau`.
    """

    def __init__(self, dim: int, num_experts: int) -> None:
        """Initialize a new CosineGate.

        Args:
            dim: Channels C of a token.
            num_experts: Number of experts E.
        """
        super().__init__()
        proj_dim = max(min(dim // 2, 256), 1)
        self.proj = Linear(dim, proj_dim)
        self.experts = nn.Parameter(torch.randn(proj_dim, num_experts))
        self.temperature = nn.Parameter(torch.tensor([math.log(2.0)]))

    def forward(self, x: Tensor) -> Tensor:
        """Score the experts for each token.

        Args:
            x: Tokens, shape ``(..., C)``.

        Returns:
            Logits, shape ``(..., E)``.
        """
        x = F.normalize(self.proj(x), dim=-1)
        scale = self.temperature.clamp(max=math.log(100.0)).exp()
        return x @ F.normalize(self.experts, dim=0) * scale


class ExpertLinear(nn.Module):
    """One linear layer per expert, their weights stacked."""

    def __init__(self, num_experts: int, in_features: int, out_features: int) -> None:
        """Initialize a new ExpertLinear.

        Args:
            num_experts: Number of experts E.
            in_features: Channels of the input.
            out_features: Channels of the output.
        """
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_experts, out_features, in_features))
        self.bias = nn.Parameter(torch.empty(num_experts, out_features))
        # As torch.nn.Linear
        bound = in_features**-0.5
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)

    def layers(self) -> list[tuple[Tensor, Tensor]]:
        """Return weight and bias of each expert.

        Unbound at once: the gradient of an index would be as large as all weights.
        """
        return list(zip(self.weight.unbind(), self.bias.unbind(), strict=True))


# Operators of their own: no size that depends on the data is seen by torch.compile
@torch.library.custom_op('torchgeo_m2cd::sparse_experts', mutates_args=())
def _sparse_experts(
    x: Tensor, gates: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, rows: int
) -> Tensor:
    """Apply each expert to its own tokens, a block of them at a time.

    Hidden values are by far the largest of a layer. They stay in a CPU's cache, and the
    backward pass computes them anew: cheaper than to wait for memory.

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
def _sparse_experts_backward(
    grad: Tensor,
    x: Tensor,
    gates: Tensor,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    b2: Tensor,
    rows: int,
) -> list[Tensor]:
    """Compute the gradients of the arguments of :func:`_sparse_experts`.

    Args:
        grad: Gradient of its output.
        x: See there, like all others.
        gates: Likewise.
        w1: Likewise.
        b1: Likewise.
        w2: Likewise.
        b2: Likewise.
        rows: Likewise.

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
        # Rows that only fill up a block have no share, and repeat a token
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
    """Keep the arguments of :func:`_sparse_experts`."""
    *tensors, ctx.rows = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    """Compute the gradients of the arguments of :func:`_sparse_experts`."""
    return *_sparse_experts_backward(grad, *ctx.saved_tensors, ctx.rows), None


# What torch.compile has to know: shapes of the results
_sparse_experts.register_fake(lambda x, *_: torch.empty_like(x))
_sparse_experts_backward.register_fake(
    lambda grad, *args: [torch.empty_like(tensor) for tensor in args[:-1]]
)
_sparse_experts.register_autograd(_backward, setup_context=_save_for_backward)


# What PyTorch's counter of operations has to know: it sees no products in there
@register_flop_formula(torch.ops.torchgeo_m2cd.sparse_experts, get_raw=True)
def _count_flops(x: Tensor, gates: Tensor, w1: Tensor, *_: Any, **__: Any) -> int:
    """Count the operations of :func:`_sparse_experts`: two products per token."""
    return 4 * int((gates > 0).sum()) * w1[0].numel()


@register_flop_formula(torch.ops.torchgeo_m2cd.sparse_experts_backward, get_raw=True)
def _count_flops_backward(grad: Tensor, *args: Any, **_: Any) -> int:
    """Count those of its backward pass: four products, and one that is done anew."""
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
            # oneDNN compiles its kernels anew for each number of rows: have few
            padding = (0, -len(index) % max(rows // 32, 1))
            share = F.pad(gate[index], padding)[:, None]
            yield expert, F.pad(index, padding), share


class MixtureOfExperts(nn.Module):
    r"""Sparsely gated mixture of multilayer perceptrons, per token.

    Each expert is ``Linear(C, expansion * C)``, GELU, ``Linear(expansion * C, C)``.
    A token :math:`x` gets :math:`\sum_e g_e(x) \, \text{expert}_e(x)`, where the gates
    :math:`g` are the softmax over its ``top_k`` largest gate logits, and zero
    elsewhere.

    In training, the logits are noisy: :math:`\epsilon \sim N(0, 1)` is drawn per token
    and expert, and added with the learned scale
    :math:`\sigma = \text{softplus}(x W_\text{noise}) + 0.01`.

    The balance loss keeps all experts in use:
    :math:`cv^2(\text{importance}) + cv^2(\text{load})`, with
    :math:`cv^2(v) = \text{var}(v) / (\text{mean}(v)^2 + 10^{-10})`,
    :math:`\text{importance}_e = \sum_x g_e(x)`, and the load of an expert the expected
    number of its tokens under fresh noise,
    :math:`\sum_x \Phi((\text{logit}_e - \text{threshold}_e) / \sigma_e)`. The threshold
    is the :math:`(k + 1)`-th largest noisy logit where the expert is among the top
    :math:`k`, and the :math:`k`-th largest where it is not. Without noise (in
    evaluation, or if ``top_k = num_experts``) the load is the number of tokens.

    If you use this layer in your research, please cite the following papers:

    * https://arxiv.org/abs/1701.06538 (noisy top-k gating and the balance loss)
    * https://doi.org/10.1109/LGRS.2025.3590959 (its use in optical-SAR change)
    """

    #: Hidden values that a CPU computes at once: they stay in its cache.
    block_size = 2**20

    def __init__(
        self,
        dim: int,
        num_experts: int = 4,
        top_k: int = 2,
        expansion: float = 4.0,
        gate: Literal['cosine', 'linear'] = 'cosine',
        noisy: bool = True,
    ) -> None:
        """Initialize a new MixtureOfExperts layer.

        Args:
            dim: Channels C of a token.
            num_experts: Number of experts E, at least 1.
            top_k: Experts that each token goes to, from 1 to *num_experts*.
            expansion: Hidden channels of an expert, as a multiple of *dim*.
            gate: ``'cosine'`` (:class:`CosineGate`), or ``'linear'``: a bias-free
                linear map from token to logits.
            noisy: Whether to add noise to the logits in training.

        Raises:
            ValueError: If *gate* is unknown, or *num_experts*, *top_k* or *expansion*
                is out of range.
        """
        super().__init__()
        check_choice('gate', gate, ('cosine', 'linear'))
        if num_experts < 1:
            raise ValueError(f'num_experts must be at least 1, got {num_experts}')
        if not 1 <= top_k <= num_experts:
            raise ValueError(
                f'top_k must be from 1 to num_experts={num_experts}, got {top_k}'
            )
        if int(dim * expansion) < 1:
            raise ValueError(
                f'expansion must give at least 1 hidden channel, got {expansion}'
            )
        self.num_experts = num_experts
        self.top_k = top_k
        self.gate = (
            CosineGate(dim, num_experts)
            if gate == 'cosine'
            else nn.Linear(dim, num_experts, bias=False)
        )
        self.noise = nn.Linear(dim, num_experts, bias=False) if noisy else None
        if self.noise is not None:
            nn.init.zeros_(self.noise.weight)
        self.fc1 = ExpertLinear(num_experts, dim, int(dim * expansion))
        self.fc2 = ExpertLinear(num_experts, int(dim * expansion), dim)

    def forward(self, x: Tensor, noise: Tensor | None = None) -> MoEOutput:
        """Send each token through its experts.

        Args:
            x: Tokens, shape ``(..., N, C)``. Each index of the leading dimensions is
                a set of its own for the balance loss.
            noise: Standard normal draw, shape ``(..., N, E)``, instead of a fresh one.
                Only used in training, and only by a noisy layer.

        Returns:
            The mixed tokens, the balance loss and the gates.
        """
        gates, balance_loss = self.route(x, noise)
        tokens = x.reshape(-1, x.shape[-1])
        weights = gates.reshape(-1, self.num_experts)
        device = x.device.type
        if torch.is_autocast_enabled(device):
            tokens = tokens.to(torch.get_autocast_dtype(device))
        # See docs/user/speed.rst for what each form costs
        if torch.compiler.is_exporting() or (
            x.is_cuda and tokens.dtype != torch.bfloat16
        ):
            mix = self._mix_dense
        else:
            mix = self._mix_grouped if x.is_cuda else self._mix_sparse
        return MoEOutput(mix(tokens, weights).reshape(x.shape), balance_loss, gates)

    def route(self, x: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Choose the experts of each token.

        Not autocast: a token goes to the same experts in mixed as in full precision.

        Args:
            x: Tokens, shape ``(..., N, C)``.
            noise: See :meth:`forward`.

        Returns:
            Gates, shape ``(..., N, E)``, and the balance loss, a scalar.
        """
        device = x.device.type
        full_precision = (
            torch.autocast(device, enabled=False)
            if torch.is_autocast_enabled(device)
            else contextlib.nullcontext()
        )
        with full_precision:
            x = x.to(self.fc1.weight.dtype)
            dtype = torch.promote_types(x.dtype, torch.float32)
            logits = self.gate(x).to(dtype)
            sigma = None
            if self.noise is not None and self.training:
                sigma = F.softplus(self.noise(x).to(dtype)) + 0.01
                noise = torch.randn_like(logits) if noise is None else noise
                noisy_logits = logits + noise * sigma
            else:
                noisy_logits = logits

            k = self.top_k
            # The (k + 1)-th logit is the threshold that the chosen ones passed
            values, indices = noisy_logits.topk(min(k + 1, self.num_experts), dim=-1)
            gates = torch.zeros_like(logits).scatter(
                -1, indices[..., :k], values[..., :k].softmax(dim=-1)
            )
            if sigma is not None and k < self.num_experts:
                chosen = gates > 0
                threshold = torch.where(chosen, values[..., k:], values[..., k - 1 : k])
                load = torch.special.ndtr((logits - threshold) / sigma).sum(dim=-2)
            else:
                load = (gates > 0).to(gates.dtype).sum(dim=-2)
            importance = gates.sum(dim=-2)
            balance_loss = (_squared_cv(importance) + _squared_cv(load)).sum()
        return gates, balance_loss

    def _mix_sparse(self, x: Tensor, gates: Tensor) -> Tensor:
        """Apply each expert to its own tokens, one expert after the other.

        How many they are has to be known, for which a GPU would have to be waited for.

        An expert without tokens still takes part in the graph, so that every
        parameter has a gradient in every step, as DDP expects.
        """
        dtype = x.dtype
        weights = [
            parameter.to(dtype)
            for layer in (self.fc1, self.fc2)
            for parameter in (layer.weight, layer.bias)
        ]
        rows = max(self.block_size // self.fc1.weight.shape[1], 1)
        out: Tensor = _sparse_experts(x, gates, *weights, rows)
        return out

    def _mix_grouped(self, x: Tensor, gates: Tensor) -> Tensor:
        """Apply each expert to its own tokens, all experts in one grouped product.

        The tokens are sorted by expert. No size depends on the data.
        """
        gates, experts = gates.topk(self.top_k, dim=-1)
        experts, order = experts.flatten().sort(stable=True)
        one_hot = F.one_hot(experts, self.num_experts)
        offsets = one_hot.sum(dim=0).cumsum(dim=0).to(torch.int32)

        def apply(layer: ExpertLinear, x: Tensor) -> Tensor:
            weight = layer.weight.to(x.dtype).transpose(1, 2)
            y = F.grouped_mm(x, weight, offs=offsets)
            return y + layer.bias.to(x.dtype)[experts]

        y = apply(self.fc2, F.gelu(apply(self.fc1, x[order // self.top_k])))
        y = torch.empty_like(y).index_copy(0, order, y)
        y = y.reshape(-1, self.top_k, y.shape[-1])
        return torch.einsum('nkc,nk->nc', y, gates.to(y.dtype))

    def _mix_dense(self, x: Tensor, gates: Tensor) -> Tensor:
        """Apply each expert to all tokens."""
        out = [
            linear(F.gelu(linear(x, *fc1)), *fc2) * gate[:, None].to(x.dtype)
            for fc1, fc2, gate in zip(
                self.fc1.layers(), self.fc2.layers(), gates.T, strict=True
            )
        ]
        return torch.stack(out).sum(dim=0)


def _squared_cv(x: Tensor) -> Tensor:
    """Squared coefficient of variation over the last dimension."""
    if x.shape[-1] == 1:
        return x.new_zeros(x.shape[:-1])
    return x.var(dim=-1) / (x.mean(dim=-1) ** 2 + 1e-10)
