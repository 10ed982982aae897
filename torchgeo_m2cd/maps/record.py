# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Warnings that belong to a map."""

import contextlib
import os
import warnings
from collections.abc import Iterator
from typing import Any

import lightning.pytorch
from lightning.fabric.utilities.warnings import PossibleUserWarning

from ..checks import checked
from ..datasets.paths import without_secrets

# Deprecations, and advice on speed, say nothing about the map
_UNIMPORTANT = (
    DeprecationWarning,
    FutureWarning,
    PendingDeprecationWarning,
    PossibleUserWarning,
)


_LIGHTNING = os.path.dirname(lightning.pytorch.__file__)


def concerns_map(category: type[Warning], filename: str) -> bool:
    """Whether a warning says something about a map, and not of a library or of speed.

    Args:
        category: Category of the warning.
        filename: Source file that issued it.

    Returns:
        Whether it does.
    """
    # What Lightning says of itself concerns those who train
    return not (issubclass(category, _UNIMPORTANT) or filename.startswith(_LIGHTNING))


@checked
@contextlib.contextmanager
def record_warnings(messages: list[str]) -> Iterator[None]:
    """Take down the warnings that concern the user, each once, and show them as ever.

    Args:
        messages: List to add them to, without the secrets of URLs.

    Yields:
        Nothing.
    """
    # A filter that shows a warning once per place starts anew with each run
    with warnings.catch_warnings():
        show = warnings.showwarning

        def record(
            message: Warning | str, category: type[Warning], filename: str, *args: Any
        ) -> None:
            text = without_secrets(str(message))
            if concerns_map(category, filename) and text not in messages:
                messages.append(text)
            show(message, category, filename, *args)

        warnings.showwarning = record  # type: ignore[assignment]
        yield
