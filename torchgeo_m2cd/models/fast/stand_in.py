# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""What all modules have in common that stand in for others."""

from typing import Self

from torch import nn


class StandIn:
    """Base of a module that stands in for one of another class, its other base."""

    @classmethod
    def take_over(cls, module: nn.Module) -> Self:
        """Make a module of what another one holds.

        Args:
            module: Module of the class to stand in for. It must not be used afterwards.

        Returns:
            Module with its very parameters, buffers, children, hooks and settings.
        """
        new = cls.__new__(cls)
        vars(new).update(vars(module))
        return new
