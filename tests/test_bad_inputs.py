# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Call every public function and constructor with wrong values of each argument.

:data:`KINDS` says what each argument takes. A new argument that is not in this table, or
that takes what its kind forbids, makes a test fail.
"""

import collections
import enum
import importlib
import inspect
import math
import types
import typing
from collections.abc import Callable, Iterator
from typing import Annotated, Any, Literal, TypeAliasType
from unittest import mock

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import torchgeo_m2cd.predict
from torchgeo_m2cd.checks import check_argument

PACKAGES = (
    'callbacks', 'datamodules', 'datasets', 'losses', 'maps', 'models', 'samplers',
    'tasks', 'transforms',
)  # fmt: skip

#: Wrong values, by name.
BAD: dict[str, Any] = {
    'none': None,
    'true': True,
    'text': 'no such thing',
    'bytes': b'abc',
    'minus': -1,
    'zero': 0,
    'half': 1.5,
    'whole': 16.0,
    'nan': math.nan,
    'inf': math.inf,
    '-inf': -math.inf,
    'empty': [],
    'nones': [None],
    'texts': ['no such thing'],
    'minuses': [-1, -1],
    'zeros': [0, 0],
    'halves': [1.5, 1.5],
    'nans': [math.nan, math.nan],
    'mapping': {},
    'object': object(),
}

#: Values of :data:`BAD` that each kind of argument may take.
TAKES: dict[str, str] = {
    'count': '',  # also a pair of counts
    'count or zero': 'zero',
    'integer': 'zero minus',
    'share': 'zero',
    'positive': 'half whole',
    'positive or pair': 'half whole halves',
    'positive or zero': 'zero half whole',
    'not zero': 'minus half whole',
    'finite': 'minus zero half whole',
    'any number': 'minus zero half whole nan inf -inf',
    'zero or one': 'zero',
    'flag': 'true',
    'name': '',  # of a fixed set
    'text': 'text',  # also a path
    'text or flag': 'text true',
    'texts': 'texts',
    'texts or none': 'texts empty',
    'paths': 'text texts empty',
    'weights': 'true text texts empty',
    'mapping': 'mapping',
    'mapping or path': 'mapping text',
    'object': '',
    'objects': 'empty',
    'counts': 'empty',
    'counts or zeros': 'zeros empty',
    'pair of counts or zeros': 'zeros',
    'zeros or ones': 'zeros empty',
    'positives': 'halves',
    'positives or zeros': 'zeros halves empty',
    'weights of classes': 'zero half whole zeros halves empty',
    'shares': 'zeros empty',
    'quantiles': 'zeros',
    'finites': 'minuses zeros halves empty',
}

#: Kind of each argument, by its name, or by function and name. ``?``: it may be None.
KINDS = {
    name: kind
    for kind, names in {
        'count': 'batch_size num_samples num_experts top_k window looks length stages '
        'eval_length min_kept classes dim max_variance max_looks max_size grid_size size '
        'width in_channels stride shape channels LeftOut.bands '
        'SceneDataModule.patch_size',
        'count?': 'num_labels num_classes SceneDataModule.length SceneDataModule.stride '
        'ChangeDetectionTask.in_channels splits simulate_sar.channels '
        'simulate_speckled_sar.channels patch_size',
        'count or zero': 'num_workers seed split_seed patience warmup_steps trim both '
        'by_rule compared mapped',
        'integer?': 'ignore_index',
        'share': 'p contrast saturation threshold RuleTarget.weight',
        'share?': 'calibration_error SceneWriter.threshold',
        'positive': 'lr expansion Relative.decibels',
        'positive?': 'decibels',
        'positive or pair?': 'res',
        'positive or zero': 'balance_weight brightness hue degrees sigma margin weight '
        'head_lr_factor min_area',
        'positive or zero?': 'weight_decay',
        'not zero?': 'gain',
        'finite': 'start',
        'finite?': 'offset',
        'any number?': 'nodata',
        'zero or one': 'index optical_index',
        'flag': 'check checksum compare compile compiled detach download enable freeze_backbone noisy '
        'freeze_decoder overwrite progress water',
        'name': 'decoder distance fusion gate interval loss task model',
        'name?': 'SARSource.scale',
        'text': 'path root split test_split attribute encoder_name name probability source '
        'output version precision title MapPlan.crs load_task.weights predict_scene.weights '
        'load_encoder_weights.weights find_polygons.classes mean_probability.classes plot_quicklook.classes',
        'text?': 'ChipFolder.table ChipFolderDataModule.table area_layer layer backbone checkpoint crs date init_from polygons '
        'quicklook stac scenes second classes predict_split activation '
        'RoutingLogger.output MaskSource.attribute',
        'text or flag?': 'encoder_weights MoEEncoder.weights',
        'texts': 'bands sar_bands',
        'texts?': 'CAUFlood.bands Source.bands SARSource.bands MaskSource.bands',
        'texts or none': 'leave_out messages warnings',
        'texts or none?': 'labels Inputs.bands Inputs.sar_bands',
        'paths': 'paths SceneDataset.optical SceneDataset.sar',
        'paths?': 'optical sar mask area',
        'weights?': 'ChangeDetectionTask.weights',
        'mapping': 'taken batch summary shares MapPlan.arguments MapPlan.model MapPlan.inputs '
        'find_polygons.labels plot_quicklook.labels',
        'mapping?': 'ChipFolder.splits ChipFolderDataModule.splits decoder_args encoder_args experts model_args data_args trainer_args '
        'M2CD.inputs MaskSource.classes',
        'mapping or path': 'state_dict_or_path',
        'object': 'strategy parts areas criterion dataset dataset_class encoder folder grid logits '
        'module outputs plan run sampler scene table trainer transform '
        'check_districts.districts check_map.inputs plan_maps.inputs measure_look.inputs check_map.classes '
        'export_onnx.model predict_pair.model OHEMLoss.ohem PatchRow.weights '
        'PatchRow.path Outputs.probability save_polygons.output select_pixels.mask '
        'stack_pair.optical stack_pair.sar Inputs.optical Inputs.sar '
        'predict_pair.optical predict_pair.sar simulate_sar.optical '
        'simulate_speckled_sar.optical estimate_decibels.sar measure_speckle.sar '
        'mutual_information.shares',
        'object?': 'augmentation districts drain inputs like lock naming o2sp ohem optimization '
        'reliability rule_target schedule transforms valid weights MoEEncoder.experts '
        'Outputs.classes Outputs.polygons Outputs.quicklook Outputs.stac',
        'objects': 'format_total.summaries check_districts.scenes start_maps.parts check_outputs.outputs augmentations source_augmentations features files sources '
        'samplers patch_rows SceneList.scenes Check.looks '
        'median_look.looks',
        'counts': 'MapPlan.shape MapPlan.size MapPlan.stride',
        'counts or zeros': 'encoder_channels lefts starts',
        'pair of counts or zeros': 'used',
        'zeros or ones': 'images',
        'positives': 'std Relative.scale',
        'positives or zeros': 'limits RelativeDarkness.shares',
        'positives or zeros?': 'stage_weights class_weights Reliability.area',
        'weights of classes?': 'pos_weight',
        'shares?': 'Reliability.water',
        'quantiles': 'references',
        'finites': 'mean MapPlan.transform',
        'finites?': 'land speckle',
    }.items()
    for name in names.split()
}


def list_callables() -> Iterator[tuple[str, Callable[..., Any]]]:
    """List the public functions, and the classes with a constructor of their own."""
    modules = [importlib.import_module(f'torchgeo_m2cd.{name}') for name in PACKAGES]
    targets = {
        name: getattr(module, name) for module in modules for name in module.__all__
    }
    targets |= {
        target.__name__: target
        for target in (
            torchgeo_m2cd.predict.predict_scene,
            torchgeo_m2cd.predict.predict_pair,
        )
    }
    for name, target in targets.items():
        if isinstance(target, type):
            # Our outputs are tuples; some classes inherit the constructor of a library
            if issubclass(target, tuple | enum.Enum) or '__init__' not in vars(target):
                continue
            if inspect.isabstract(target):
                continue  # Subclasses have the same arguments
        yield name, target


def list_arguments() -> Iterator[tuple[str, str, inspect.Parameter]]:
    """List owner (function or class), name and parameter of all arguments."""
    for owner, function in list_callables():
        for name, parameter in inspect.signature(function).parameters.items():
            if parameter.kind is not parameter.VAR_KEYWORD:
                yield owner, name, parameter


CALLABLES = dict(list_callables())
ARGUMENTS = list(list_arguments())


def find_kind(owner: str, name: str) -> tuple[str, bool]:
    """Find the kind of an argument, and whether it may be None."""
    kind = KINDS.get(f'{owner}.{name}') or KINDS.get(name, '')
    return kind.removesuffix('?'), kind.endswith('?')


def example(hint: Any) -> Any:
    """Make a value that a type hint allows, for the arguments that are not tested."""
    while isinstance(hint, TypeAliasType):
        hint = hint.__value__
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if isinstance(hint, typing.TypeVar):
        return example(hint.__bound__ or hint.__constraints__[0])
    if origin is Annotated:
        number = getattr(args[1], 'ge', 1)
        return number if args[0] in (int, float) else example(args[0])
    if origin in (typing.Union, types.UnionType):
        return example(args[0])
    if origin is Literal:
        return args[0]
    if origin in (collections.abc.Sequence, list):
        return [example(args[0])]
    if origin is tuple:
        return tuple(map(example, args))
    if origin in (collections.abc.Mapping, dict):
        return {}
    if origin is type:
        return args[0]
    if hint in (int, float, str, bool):
        return hint(1)
    if hint is torch.Tensor:
        return torch.zeros(1, 1, 64, 64)
    return mock.Mock(spec=origin or hint)


def call(owner: str, name: str, value: Any) -> None:
    """Call a function with one argument and examples of its required arguments."""
    needed = {
        other: example(parameter.annotation)
        for other_owner, other, parameter in ARGUMENTS
        if other_owner == owner and parameter.default is parameter.empty
    }
    CALLABLES[owner](**{**needed, name: value})


def test_all_listed() -> None:
    """The table lists all arguments and no others."""
    used = set()
    for owner, name, _ in ARGUMENTS:
        key = f'{owner}.{name}' if f'{owner}.{name}' in KINDS else name
        assert key in KINDS, f'say in KINDS what {owner}({name}=...) takes'
        used.add(key)
    assert KINDS.keys() - used == set()
    assert {kind.removesuffix('?') for kind in KINDS.values()} == TAKES.keys()


@pytest.mark.parametrize(('owner', 'name'), [argument[:2] for argument in ARGUMENTS])
def test_bad(owner: str, name: str) -> None:
    """The error of a wrong value names the argument."""
    kind, optional = find_kind(owner, name)
    takes = {*TAKES[kind].split(), *(['none'] if optional else [])}
    silent, unclear = [], []
    for what, value in BAD.items():
        if what in takes:
            continue
        try:
            call(owner, name, value)
        except (TypeError, ValueError) as error:
            if name.lower() not in str(error).lower().replace(' ', '_'):
                unclear.append((what, str(error)))
        else:
            silent.append(what)
    assert (silent, unclear) == ([], [])


def is_allowed(kind: str, value: float) -> bool:
    """Whether a kind of argument takes a number."""
    whole = isinstance(value, int)
    return {
        'count': whole and value >= 1,
        'count or zero': whole and value >= 0,
        'integer': whole,
        'share': 0 <= value <= 1,
        'positive': 0 < value < math.inf,
        'positive or zero': 0 <= value < math.inf,
        'finite': math.isfinite(value),
        'any number': True,
        'zero or one': whole and value in (0, 1),
    }[kind]


NUMBERS = [
    (find_kind(owner, name)[0], parameter.annotation)
    for owner, name, parameter in ARGUMENTS
    if find_kind(owner, name)[0]
    in ('count or zero', 'integer', 'share', 'positive', 'positive or zero', 'finite',
        'any number', 'zero or one')
]  # fmt: skip


@given(argument=st.sampled_from(NUMBERS), value=st.integers() | st.floats())
def test_numbers(argument: tuple[str, Any], value: float) -> None:
    """An argument takes the numbers of its kind, and no others."""
    kind, hint = argument
    if is_allowed(kind, value):
        check_argument('name', value, hint)
    else:
        with pytest.raises((TypeError, ValueError), match=r'^name is '):
            check_argument('name', value, hint)
