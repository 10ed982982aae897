# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Tasks that know what their model is shown."""

from .inputs import Inputs


class KeepsInputs:
    """Base class of tasks that keep the inputs of their model."""

    #: What the model is shown. None until the model is trained or loaded.
    inputs: Inputs | None

    def take_inputs(self, inputs: Inputs) -> None:
        """Keep the inputs that the data module has chosen.

        Args:
            inputs: What the model is shown.
        """
        self.inputs = inputs
