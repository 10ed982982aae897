# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Mixture of Experts: the gate, the experts, and the layer that they make."""

import contextlib
import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple, Self

import torch
import torch.nn.functional as F
from annotated_types import MinLen
from torch import Tensor, nn

from ..checks import Count, Positive, PositiveOrZero, checked
from ..utils import check_choice

#: Names of the gates.
Gate = Literal['cosine', 'linear']


@checked
@dataclasses.dataclass(frozen=True)
class Experts:
    """The experts of a model: where they stand, and what they are.

    Raises:
        ValueError: If a value is out of range.
    """

    #: Stages of the encoder, of 1, 2, 3, 4 (strides 4, 8, 16, 32), that a mixture of
    #: experts follows.
    stages: Annotated[Sequence[Literal[1, 2, 3, 4]], MinLen(1)] = (1, 2, 3, 4)

    #: Number of experts E of each mixture, at least 1.
    num_experts: Count = 4

    #: Experts that each token goes to, from 1 to *num_experts*.
    top_k: Count = 2

    #: Hidden channels of an expert, as a multiple of the channels of a token.
    expansion: Positive = 4.0

    #: How experts are scored: ``'cosine'`` (:class:`CosineGate`), or ``'linear'``, a
    #: linear map from token to logits without bias.
    gate: Gate = 'cosine'

    #: Whether to add noise to the logits of the gate in training.
    noisy: bool = True

    #: Weight of the balance loss in the loss of training, at least 0.
    balance_weight: PositiveOrZero = 0.01

    def __post_init__(self) -> None:
        """Check the values."""
        object.__setattr__(self, 'stages', tuple(sorted(set(self.stages))))
        _check_top_k(self.top_k, self.num_experts)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Make the object from plain values, such as a YAML file holds.

        Args:
            values: Values by name. Those that are missing keep their defaults.

        Returns:
            The object.

        Raises:
            ValueError: If a name is unknown, or a value out of range.
        """
        for key in values:
            names = [field.name for field in dataclasses.fields(cls)]
            check_choice('key of experts', key, names)
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Return the plain values that :meth:`from_dict` reads."""
        return {**dataclasses.asdict(self), 'stages': list(self.stages)}


class MoEOutput(NamedTuple):
    """What a :class:`MixtureOfExperts` returns."""

    #: Mixed expert outputs, shape ``(..., N, C)``.
    tokens: Tensor

    #: Balance loss, a scalar: unweighted, summed over the leading dimensions.
    balance_loss: Tensor

    #: Share of each expert in each token, shape ``(..., N, E)``. The shares of a token
    #: sum to one, and at most ``top_k`` of them are not zero.
    gates: Tensor


class CosineGate(nn.Module):
    r"""Cosine gate.

    .. math::

       \text{logits} = \frac{P x}{\lVert P x \rVert} \cdot
       \frac{S}{\lVert S \rVert_\text{columns}} \cdot e^{\min(\tau, \ln 100)}

    with an affine projection :math:`P: C \to \min(C / 2, 256)` (``proj``), one direction
    per expert :math:`S` (``experts``), and a learned temperature :math:`\tau`
    (``temperature``): the larger, the sharper is the choice.
    """

    @checked
    def __init__(self, dim: Count, num_experts: Count) -> None:
        """Initialize a new CosineGate.

        Args:
            dim: Channels C of a token.
            num_experts: Number of experts E.
        """
        super().__init__()
        proj_dim = max(min(dim // 2, 256), 1)
        self.proj = nn.Linear(dim, proj_dim)
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


class MixtureOfExperts(nn.Module):
    r"""Sparsely gated mixture of multilayer perceptrons, per token.

    Each expert is ``Linear(C, expansion * C)``, GELU, ``Linear(expansion * C, C)``.
    A token :math:`x` becomes :math:`\sum_e g_e(x) \, \text{expert}_e(x)`, where the
    gates :math:`g` are the softmax over its ``top_k`` largest gate logits, and zero
    elsewhere: :math:`g = \text{softmax}(\text{top}_k(\text{logits}))`.

    In training, the logits are noisy: :math:`\epsilon \sim N(0, 1)` is drawn per token
    and expert, and added with the learned scale
    :math:`\sigma = \text{softplus}(x W_\text{noise}) + 0.01` (``noise``).

    The balance loss keeps all experts in use:
    :math:`cv^2(\text{importance}) + cv^2(\text{load})`, with
    :math:`cv^2(v) = \text{var}(v) / (\text{mean}(v)^2 + 10^{-10})`,
    :math:`\text{importance}_e = \sum_x g_e(x)`, and the load of an expert the expected
    number of its tokens under fresh noise,
    :math:`\sum_x \Phi((\text{logit}_e - \text{threshold}_e) / \sigma_e)`. The threshold
    is the :math:`(k + 1)`-th largest noisy logit if the expert is among the top
    :math:`k`, and else the :math:`k`-th largest. Without noise (in evaluation, or if
    ``noisy`` is off), and if ``top_k = num_experts``, the load is the number of tokens.

    If you use this layer in your research, please cite the following papers:

    * https://arxiv.org/abs/1701.06538 (noisy top-k gating and the balance loss)
    * https://doi.org/10.1109/LGRS.2025.3590959 (its use in optical-SAR change)
    """

    @checked
    def __init__(
        self,
        dim: Count,
        num_experts: Count = 4,
        top_k: Count = 2,
        expansion: Positive = 4.0,
        gate: Gate = 'cosine',
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
        _check_top_k(top_k, num_experts)
        hidden_dim = int(dim * expansion)
        if hidden_dim < 1:
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
        self.fc1 = ExpertLinear(num_experts, dim, hidden_dim)
        self.fc2 = ExpertLinear(num_experts, hidden_dim, dim)

    def forward(self, x: Tensor, noise: Tensor | None = None) -> MoEOutput:
        """Send each token through its experts.

        Args:
            x: Tokens, shape ``(..., N, C)``. The balance loss takes each index of the
                leading dimensions as a set of its own.
            noise: Standard normal draw, shape ``(..., N, E)``, instead of a fresh one.
                Only a noisy layer uses it, and only in training.

        Returns:
            The mixed tokens, the balance loss and the gates.
        """
        gates, balance_loss = self.route(x, noise)
        tokens = self.mix(x.reshape(-1, x.shape[-1]), gates.flatten(0, -2))
        return MoEOutput(tokens.reshape(x.shape), balance_loss, gates)

    def route(self, x: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Choose the experts of each token.

        Autocast is off here: a token goes to the same experts in mixed precision as in
        full precision.

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
            x = x.to(next(self.gate.parameters()).dtype)
            dtype = torch.promote_types(x.dtype, torch.float32)
            logits = self.gate(x).to(dtype)
            sigma = None
            noisy_logits = logits
            if self.noise is not None and self.training:
                sigma = F.softplus(self.noise(x).to(dtype)) + 0.01
                noise = torch.randn_like(logits) if noise is None else noise
                noisy_logits = logits + noise * sigma

            k = self.top_k
            # On a GPU, topk takes several times as long
            values, indices = noisy_logits.sort(dim=-1, descending=True)
            gates = torch.zeros_like(logits).scatter(
                -1, indices[..., :k], values[..., :k].softmax(dim=-1)
            )
            chosen = gates > 0
            if sigma is not None and k < self.num_experts:
                # The first that is not chosen, or the last that is
                threshold = torch.where(
                    chosen, values[..., k : k + 1], values[..., k - 1 : k]
                )
                load = torch.special.ndtr((logits - threshold) / sigma).sum(dim=-2)
            else:
                load = chosen.to(dtype).sum(dim=-2)
            importance = gates.sum(dim=-2)
            balance_loss = (_squared_cv(importance) + _squared_cv(load)).sum()
        return gates, balance_loss

    def mix(self, x: Tensor, gates: Tensor) -> Tensor:
        r"""Sum up the experts: :math:`\sum_e g_e(x) \, \text{expert}_e(x)`.

        All experts see all tokens, as one wide multilayer perceptron. Its second layer
        sums them up, as shares of their hidden values.

        Args:
            x: Tokens, shape ``(N, C)``.
            gates: Share of each expert in each token, shape ``(N, E)``.

        Returns:
            Tokens, shape ``(N, C)``.
        """
        w1, b1 = self.fc1.weight.flatten(0, 1), self.fc1.bias.flatten()
        w2, b2 = self.fc2.weight.transpose(0, 1).flatten(1), self.fc2.bias
        hidden = F.gelu(F.linear(x, w1, b1)).view(-1, *self.fc1.bias.shape)
        gates = gates.to(hidden.dtype)
        hidden = hidden * gates[:, :, None]
        return F.linear(hidden.flatten(1), w2) + gates @ b2


def _check_top_k(top_k: int, num_experts: int) -> None:
    """Check that there are as many experts as each token goes to."""
    if top_k > num_experts:
        raise ValueError(
            f'top_k is {top_k}: expected from 1 to num_experts={num_experts}'
        )


def _squared_cv(x: Tensor) -> Tensor:
    """Squared coefficient of variation over the last dimension."""
    if x.shape[-1] == 1:
        return x.new_zeros(x.shape[:-1])
    return x.var(dim=-1) / (x.mean(dim=-1) ** 2 + 1e-10)
