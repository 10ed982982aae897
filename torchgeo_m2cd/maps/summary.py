# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""What a map was made of and what it shows, for a reader and for programs."""

import dataclasses
import json
import math
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

from .. import __version__
from ..checks import checked
from ..datasets import SceneDataset
from ..models import Reliability
from .district_areas import to_km2
from .outputs import Outputs
from .plan import MapPlan
from .rasters import Measures
from .styles import WATER_BEFORE, WATER_LABEL

# From this share on, nothing is said of what is missing
_WHOLE = 0.995


@checked
@dataclasses.dataclass
class Run:
    """The run that makes maps.

    Args:
        checkpoint: Path of the checkpoint, if there is one.
        warnings: Warnings that were issued.
        progress: Whether to show a progress bar.
        start: When it began, in seconds of :func:`time.monotonic`.
        reliability: How much the maps of the model can be trusted, if that is known.
    """

    checkpoint: str | None = None
    warnings: list[str] = dataclasses.field(default_factory=list)
    progress: bool = False
    start: float = dataclasses.field(default_factory=time.monotonic)
    reliability: Reliability | None = None

    @property
    def seconds(self) -> float:
        """Seconds since the beginning."""
        return round(time.monotonic() - self.start, 1)


def summarize(
    scene: SceneDataset,
    outputs: Outputs,
    plan: MapPlan,
    run: Run,
    measures: Measures,
    labels: Mapping[int, str],
) -> dict[str, Any]:
    """Sum up a map.

    Args:
        scene: The scene.
        outputs: The files that are made.
        plan: The plan of the map.
        run: The run that makes it.
        measures: What was measured in its rasters.
        labels: Name of each class.

    Returns:
        Plain values. ``flooded_km2`` leaves out what was water before, if the inputs
        tell; ``flooded_km2_with_water_before`` does not. ``water_before_km2`` is None if
        they do not tell. ``flooded_km2_90`` are the ends of an interval that held the
        area in nine of ten groups of scenes; where it is None,
        ``flooded_km2_90_missing`` says why. Areas are None where pixels have several
        labels. ``seconds`` are those since the start of the run, which may make other maps,
        too.
    """
    height, width = scene.shape
    axes = scene.crs.axis_info  # A local CRS may have none
    knows_water = labels.get(WATER_BEFORE) == WATER_LABEL
    before = float(measures.area[WATER_BEFORE]) if knows_water else None
    flooded = float(measures.area[1:255].sum()) - (before or 0.0)
    interval, missing = _find_interval(flooded, outputs, plan, run.reliability)
    areas: dict[str, Any] = {
        'flooded_km2': to_km2(flooded),
        'flooded_km2_90': interval,
        'flooded_km2_90_missing': missing,
        'flooded_km2_with_water_before': to_km2(measures.changed),
        'water_before_km2': None if before is None else to_km2(before),
        'class_km2': {
            name: to_km2(measures.area[value]) for value, name in labels.items()
        },
    }
    if plan.arguments.get('task') == 'multilabel':
        areas = dict.fromkeys(areas)
    return {
        'files': {name: str(path) for name, path in outputs.files.items()},
        'mapped_km2': to_km2(measures.area[:255].sum()),
        'optical_share': scene.optical_share,
        'valid_share': round(measures.valid / (height * width), 6),
        **areas,
        'rule': None,
        'polygons': None,
        'districts': None,
        'classes': {str(value): name for value, name in labels.items()},
        'threshold': float(outputs.threshold),
        'min_area_m2': float(outputs.min_area),
        'grid': {
            'crs': plan.crs,
            'resolution': list(scene.grid.res),
            'unit': axes[0].unit_name if axes else '',
            'shape': [height, width],
        },
        'optical': scene.optical.describe(),
        'sar': scene.sar.describe(),
        'model': {
            'name': plan.model['MODEL'],
            'weights_sha256': plan.model['WEIGHTS_SHA256'],
            'checkpoint': run.checkpoint,
        },
        'version': __version__,
        'seconds': None,  # Known at the end
        'warnings': [],
    }


def _find_interval(
    flooded: float, outputs: Outputs, plan: MapPlan, reliability: Reliability | None
) -> tuple[list[float] | None, str | None]:
    """Compute the interval of a flooded area in m², in km², or say why there is none."""
    if plan.arguments.get('model') == 'threshold':
        return None, 'for the rule, IoU was measured, and not the error of areas'
    if reliability is None or reliability.area is None:
        return None, 'the error of areas was not measured for this model'
    if outputs.threshold != reliability.threshold:
        return None, f'it is known for the threshold {reliability.threshold:g} only'
    return [to_km2(factor * flooded) for factor in reliability.area], None


def make_tags(summary: Mapping[str, Any], plan: MapPlan) -> dict[str, str]:
    """Make the tags of the rasters of a map.

    They say nothing of the run, so that a map that was resumed is the same.

    Args:
        summary: The summary.
        plan: The plan of the map.

    Returns:
        Names and values.
    """
    checkpoint = summary['model']['checkpoint']
    tags = {
        'TIFFTAG_SOFTWARE': f'torchgeo-m2cd {__version__}',
        **({'CHECKPOINT': checkpoint} if checkpoint else {}),
        **plan.model,
        'INPUTS': json.dumps(plan.inputs),
        'THRESHOLD': str(summary['threshold']),
        'MIN_AREA_M2': str(summary['min_area_m2']),
        'CLASSES': json.dumps(summary['classes']),
    }
    for name in ('optical', 'sar'):
        image = summary[name]
        tags[name.upper()] = ', '.join(image['files'])
        if image['dates']:
            tags[f'{name.upper()}_DATES'] = ', '.join(image['dates'])
    return tags


def to_json(values: Any) -> bytes:
    """Write plain values as JSON.

    Args:
        values: The values. Numbers that are not finite become text.

    Returns:
        The file.
    """
    text = json.dumps(_finite(values), indent=2, ensure_ascii=False, allow_nan=False)
    return f'{text}\n'.encode()


@checked
def read_summary(outputs: Outputs) -> dict[str, Any]:
    """Read the summary of a map that is complete.

    Args:
        outputs: The files of the map.

    Returns:
        What the file beside the map says.
    """
    summary: dict[str, Any] = json.loads(outputs.summary.read_text(encoding='utf-8'))
    return summary


@checked
def format_summary(summary: Mapping[str, Any]) -> str:
    """Write a summary for the terminal.

    Args:
        summary: The summary of a map, see :func:`read_summary`.

    Returns:
        Lines of text.
    """
    grid, model = summary['grid'], summary['model']
    unit = {'metre': 'm', 'degree': '°'}.get(grid['unit'], grid['unit'])
    height, width = grid['shape']
    rows = {
        **_format_areas(summary),
        'grid': (
            f'{grid["crs"]}, {" x ".join(f"{v:.6g}" for v in grid["resolution"])} {unit}, '
            f'{width} x {height} pixels'
        ),
        'optical': _format_image(summary['optical']),
        'SAR': _format_image(summary['sar']),
        'model': (
            f'{model["name"]}, weights {model["weights_sha256"][:8]}, '
            f'threshold {summary["threshold"]:g}'
        ),
        'files': ' '.join(
            pathlib.Path(f).name for f in summary['files'].values() if f is not None
        ),
        'time': f'{summary["seconds"]:.0f} s since the start',
    }
    lines = [str(summary['files']['output'])]
    rows_of_text = [*rows.items(), *(('WARNING', w) for w in summary['warnings'])]
    for name, text in rows_of_text:
        first, *more = text.splitlines()
        lines += [f'  {name:<10} {first}', *(f'{"":<13}{line}' for line in more)]
    # Control characters of names would control the terminal
    return '\n'.join(
        ''.join(c if c.isprintable() else repr(c)[1:-1] for c in line) for line in lines
    )


@checked
def format_total(summaries: Sequence[Mapping[str, Any]]) -> str:
    """Sum up several maps for the terminal.

    Args:
        summaries: The summary of each map, see :func:`read_summary`.

    Returns:
        A line of text. What is in two scenes counts twice.
    """
    mapped = math.fsum(summary['mapped_km2'] for summary in summaries)
    text = f'{len(summaries)} maps: {_km2(mapped)} mapped'
    areas = [summary['flooded_km2'] for summary in summaries]
    if None in areas:
        return text
    flooded = math.fsum(areas)
    is_known = all(summary['water_before_km2'] is not None for summary in summaries)
    return (
        f'{text}, {_km2(flooded)} {"flooded" if is_known else "changed"} (what is in two '
        'scenes counts twice)'
    )


def format_change(summary: Mapping[str, Any]) -> str:
    """Write how much has changed, in one or two lines.

    Args:
        summary: The summary of a map.

    Returns:
        The text, empty if pixels have several labels.
    """
    return ' '.join(next(iter(_format_change(summary).items()), ()))


def _format_areas(summary: Mapping[str, Any]) -> dict[str, str]:
    """Write what a map shows."""
    mapped = summary['mapped_km2']
    rows = _format_change(summary)
    if summary['water_before_km2'] is not None:
        before = _km2(summary['water_before_km2'])
        rows['water'] = f'{before} before the event, not counted'
    if summary['rule'] is not None:
        rule = summary['rule']
        share, by_rule = (
            _percent(rule[key]) for key in ('flooded_share', 'flooded_share_by_rule')
        )
        rows['rule'] = (
            f'{_km2(rule["flooded_km2"])} (no interval is known), {by_rule} where the map '
            f'floods {share}, IoU of both {rule["iou"]:.2f}'
        )
    rows['mapped'] = (
        f'{_km2(mapped)}, {_percent(summary["valid_share"])} of the scene has data'
    )
    if summary['optical_share'] < _WHOLE:
        rows['mapped'] += (
            f'\nthe scene is where both images are: {_percent(summary["optical_share"])} '
            'of the optical one'
        )
    if summary['polygons'] is not None:
        least = summary['min_area_m2']
        numbers = [f'{number} {name}' for name, number in summary['polygons'].items()]
        rows['polygons'] = ', '.join(numbers) + (
            f', from {least:g} m²' if least else ''
        )
    if summary['districts']:
        most = max(summary['districts'], key=lambda row: row['flooded_km2'])
        rows['districts'] = (
            f'{len(summary["districts"])}, most in {most["name"]}: '
            f'{_km2(most["flooded_km2"])}'
        )
        if most['mapped_share'] < _WHOLE:
            rows['districts'] += f', {_percent(most["mapped_share"])} of it is mapped'
    return rows


def _format_change(summary: Mapping[str, Any]) -> dict[str, str]:
    """Write how much has changed, under its name."""
    flooded = summary['flooded_km2']
    if flooded is None:
        return {}
    share = f'{_percent(flooded / summary["mapped_km2"])} of what was mapped'
    if summary['water_before_km2'] is None:
        name, text = 'changed', f'{_km2(flooded)}, {share}, water before included'
    else:
        name, text = 'flooded', f'{_km2(flooded)}, {share}'
    if summary['flooded_km2_90'] is not None:
        low, high = map(_km2, summary['flooded_km2_90'])
        text += f'\nin nine of ten cases {low} to {high}'
    else:
        text += f'\nno interval: {summary["flooded_km2_90_missing"]}'
    return {name: text}


def _format_image(image: Mapping[str, Any]) -> str:
    """Write how an image was read."""
    names = [pathlib.PurePath(file).name for file in image['files']]
    more = f' and {len(names) - 1} more' if len(names) > 1 else ''
    bands = [band for band in image['bands'] if isinstance(band, str)]
    known = [
        f'{names[0]}{more}',
        *image['dates'],
        *([' '.join(bands)] if bands else []),
        *([image['scale']] if 'scale' in image else []),
    ]
    return '\n'.join([', '.join(known), *(f'assumed: {a}' for a in image['assumed'])])


def _percent(share: float) -> str:
    """Write a share."""
    return f'{100 * share:.3g} %'


def _km2(area: float) -> str:
    """Write an area."""
    return f'{area:,.0f} km²' if area >= 1000 else f'{area:.3g} km²'


def _finite(values: Any) -> Any:
    """Turn numbers that are not finite, and what JSON does not know, into text."""
    match values:
        case Mapping():
            return {str(key): _finite(value) for key, value in values.items()}
        case list() | tuple():
            return [_finite(value) for value in values]
        case float() if not math.isfinite(values):
            return str(values)
        case str() | int() | float() | None:
            return values
    return str(values)
