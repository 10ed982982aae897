# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Mistakes on the command line are one short line, with the culprit first."""

import time
from argparse import ArgumentError
from pathlib import Path

import pytest

from tests.test_safe_yaml import make_bomb
from torchgeo_m2cd import cli
from torchgeo_m2cd.configs import config_path
from torchgeo_m2cd.mistakes import explain

DATA = 'torchgeo_m2cd.datamodules.SyntheticFloodDataModule'
CHIPS = ('--data', 'torchgeo_m2cd.datamodules.ChipFolderDataModule')
CALLBACK = 'lightning.pytorch.callbacks.ModelCheckpoint'


def fail(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    """Run a command that fails, and return its message."""
    with pytest.raises(SystemExit) as caught:
        cli.main(list(args))
    assert caught.value.code == 2
    output, errors = capsys.readouterr()
    assert output == ''
    assert 'Traceback' not in errors
    line: str = errors.splitlines()[-1]  # Lightning may have said its seed
    message = line.removeprefix('torchgeo-m2cd: error: ')
    assert len(message) <= 300
    return message


@pytest.mark.parametrize(
    ('args', 'message'),
    [
        (
            ('--data.bathc_size', '4'),
            f"unknown option 'bathc_size' of {DATA}, did you mean 'batch_size'?",
        ),
        (
            ('--config', '{data: {init_args: {bathc_size: 4}}}'),
            f"unknown option 'bathc_size' of {DATA}, did you mean 'batch_size'?",
        ),
        (
            ('--data.batch-size', '4'),
            f"unknown option 'batch-size' of {DATA}, did you mean 'batch_size'?",
        ),
        (
            ('--trainer.max-epochs=3',),
            "unknown option 'trainer.max-epochs', did you mean 'trainer.max_epochs'?",
        ),
        (
            (
                '--trainer.callbacks',
                '[{class_path: torchgeo_m2cd.callbacks.SceneWriter}]',
            ),
            (
                'trainer.callbacks: torchgeo_m2cd.callbacks.SceneWriter: the following '
                'arguments are required: output'
            ),
        ),
        (
            ('--trainer.callbacks', '[{class_path: broken_callbacks.One}]'),
            "trainer.callbacks: broken_callbacks.One: No module named 'not_there'",
        ),
        (('--data', 'os.path.join'), 'data: Import path does not correspond'),
        (('--data.augmentation', 'x'), "unknown class 'x' for data.augmentation"),
        (
            (
                '--data',
                'torchgeo_m2cd.datamodules.ChipFolderDataModule',
                '--data.mask',
                '{paths: a, clases: {0: 0}}',
            ),
            (
                "unknown option 'clases' of torchgeo_m2cd.datasets.MaskSource, did you mean "
                "'classes'?"
            ),
        ),
        (
            (*CHIPS, '--data.maks.classes', '{255: 1}'),
            (
                "unknown option 'maks.classes' of "
                "torchgeo_m2cd.datamodules.ChipFolderDataModule, did you mean 'mask.classes'?"
            ),
        ),
        (
            (*CHIPS, '--data.mask.clases', '{255: 1}'),
            (
                "unknown option 'clases' of torchgeo_m2cd.datasets.MaskSource, did you mean "
                "'classes'?"
            ),
        ),
        ((*CHIPS, '--data.mask', '{nodata: a}'), 'data.mask'),
        (('--modle.lr', '4'), "unknown option 'modle.lr', did you mean 'model.lr'?"),
        (
            ('--config', '{trainer: {max_epoch: 4}}'),
            "unknown option 'trainer.max_epoch', did you mean 'trainer.max_epochs'?",
        ),
        (
            ('--config', '{dataa: {init_args: {size: 4}}}'),
            (
                "unknown option 'dataa.init_args.size', did you mean "
                "'data.init_args.size'?"
            ),
        ),
        (
            (
                '--trainer.callbacks',
                f'[{{class_path: {CALLBACK}, init_args: {{x: 1}}}}]',
            ),
            f"unknown option 'x' of {CALLBACK}",
        ),
        (
            ('--trainer.callbacks', f'[{{class_path: {CALLBACK[:-1]}}}]'),
            f"unknown class {CALLBACK[:-1]}, did you mean 'ModelCheckpoint'?",
        ),
        (
            ('--lr_scheduler', 'CosineAnneling'),
            "unknown class 'CosineAnneling' for lr_scheduler, did you mean 'CosineAnnealingLR'?",
        ),
        (
            ('--optimizer', 'AdamWx'),
            "unknown class 'AdamWx' for optimizer, did you mean 'AdamW'?",
        ),
        (
            ('--trainer.logger', 'TensorBordLogger'),
            (
                "unknown class 'TensorBordLogger' for trainer.logger, did you mean "
                "'TensorBoardLogger'?"
            ),
        ),
        (
            ('--model.o2sp', 'PhysicalO2S'),
            "unknown class 'PhysicalO2S' for model.o2sp, did you mean 'PhysicalO2SP'?",
        ),
        (
            ('--data', 'OMBRIADataModul'),
            "unknown class 'OMBRIADataModul' for data, did you mean 'OMBRIADataModule'?",
        ),
        (('--data.batch_size', 'x'), "data.batch_size is 'x': expected an integer"),
        (('--trainer.max_epochs', 'x'), "trainer.max_epochs is 'x': expected an inte"),
        (
            ('--trainer.deterministic', '[]'),
            "trainer.deterministic is '[]': expected true or false or 'warn'",
        ),
        (('--config', 'no.yaml'), 'config: File does not exist: '),
        (
            ('--model.optimization.schedule.warmup_step', '4'),
            'unknown schedule None: expected one of torchgeo_m2cd.tasks.Cosine',
        ),
    ],
)
def test_task(
    args: tuple[str, ...],
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / 'broken_callbacks.py').write_text('import not_there')
    config = ('--config', str(config_path('synthetic')))
    assert fail(capsys, 'fit', *config, *args).startswith(message)


@pytest.mark.parametrize(
    ('args', 'message'),
    [
        (
            ('a.tif', 'b.tif', '--polygonn', 'c'),
            "unknown option 'polygonn', did you mean 'polygons'?",
        ),
        (('a.tif', 'b.tif', '--threshold', 'x'), "threshold is 'x': expected a number"),
        (
            ('{path: a.tif}', 'b.tif'),
            "unknown option 'path' of torchgeo_m2cd.datasets.Source, did you mean 'paths",
        ),
        (
            ('a.tif', '{paths: b.tif, scal: db}'),
            "unknown option 'scal' of torchgeo_m2cd.datasets.SARSource, did you mean 'sc",
        ),
        (
            ('a.tif', 'b.tif', '--min-area', '5'),
            "unknown option 'min-area', did you mean 'min_area'?",
        ),
        (
            ('a.tif', 'b.tif', '--districts', 'd.gpkg'),
            "districts is 'd.gpkg': expected --districts.path FILE --districts.attribut",
        ),
        (
            ('a.tif', 'b.tif', '--districts.path', 'd.gpkg'),
            'districts: torchgeo_m2cd.maps.Districts: the following arguments are requi',
        ),
        (
            ('a.tif', 'b.tif', '--sar.scale', 'power'),
            (
                '--sar.scale is no option of map: expected it beside the path, sar as '
                '"{paths: FILE, scale: ...}"'
            ),
        ),
        (
            ('a.tif', '{paths: b.tif scale: power}'),
            "sar is '{paths: b.tif scale: power}': expected a path, or a YAML mapping",
        ),
        (('{abc}', 'b.tif'), "optical is '{abc}': expected a path, or a YAML mapping"),
        (
            ('{paths: a.tif, gain: 0}', 'b.tif'),
            'gain is 0: expected a factor that keeps the values',
        ),
        (
            ('{paths: a.tif, naming: os.path}', 'b.tif'),
            'optical.naming: torchgeo_m2cd.datasets.Source: Expected an import path',
        ),
        (
            ('a.tif', 'b.tif', '--districts.attribut', 'c'),
            "unknown option 'attribut' of torchgeo_m2cd.maps.Districts, did you mean 'at",
        ),
    ],
)
def test_map(
    args: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fail(capsys, 'map', *args).startswith(message)


def test_debug() -> None:
    """With debugging, the whole message of jsonargparse is shown."""
    with pytest.raises(Exception, match='Does not validate against any of the Union'):
        cli.main(['map', 'a.tif', 'b.tif', '--threshold', 'x', '--debug'])


def test_long() -> None:
    text = 'a\n' * 1000
    assert explain(ArgumentError(None, text)) == 'a ' * 149 + 'a…'
    assert explain(ValueError(text)) == 'a ' * 999 + 'a'


def test_odd() -> None:
    """Unknown messages of jsonargparse are shown as they are."""
    text = "Expected a <class 'int'>"
    assert explain(ArgumentError(None, text)) == text
    text = "Problem with given class_path 'os.path': no Given value: {a b}"
    assert explain(ArgumentError(None, text)) == 'os.path: no'


class TestBomb:
    """Short YAML that expands to billions of values is refused at once, everywhere."""

    bomb = '{' + make_bomb(12).strip().replace('\n', ', ') + '}'

    @pytest.mark.parametrize(
        'args',
        [
            ('fit', '--data', bomb),
            ('fit', '--seed_everything', bomb),
            ('fit', '--model', f'{{class_path: x, init_args: {{a: "{bomb}"}}}}'),
            ('map', bomb, 'b.tif'),
            ('map', 'a.tif', 'b.tif', '--data_args', bomb),
            ('map', 'a.tif', 'b.tif', '--threshold', bomb),
        ],
    )
    def test_inline(
        self, args: tuple[str, ...], capsys: pytest.CaptureFixture[str]
    ) -> None:
        start = time.process_time()
        assert 'stands for more than 100,000 values' in fail(capsys, *args)
        assert time.process_time() - start < 5

    def test_config(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path = tmp_path / 'bomb.yaml'
        path.write_text(make_bomb(12))
        message = fail(capsys, 'fit', '--config', str(path))
        assert 'stands for more than 100,000 values' in message
        path.write_text(f'data: {path}')
        assert fail(capsys, 'fit', '--config', str(path))
