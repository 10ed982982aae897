# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""The ``torchgeo`` command, with good and with bad input."""

import contextlib
import io
import os
import re
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import geopandas as gpd
import pytest
import rasterio
import rasterio.features
import torch
import torchgeo.main
import yaml
from jsonargparse import ArgumentError, ArgumentParser
from lightning.pytorch import Trainer
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torchgeo.datamodules import BaseDataModule
from torchgeo.datasets import DatasetNotFoundError

from tests.data.bright.data import make_bright
from tests.data.chips.data import make_chips
from tests.data.ombria.data import make_ombria
from torchgeo_m2cd.configs import config_path, list_configs, read_configs
from torchgeo_m2cd.datamodules import SceneDataModule, SyntheticFloodDataModule
from torchgeo_m2cd.datasets import MaskSource, SARSource, Source, SyntheticFlood
from torchgeo_m2cd.losses import OHEM
from torchgeo_m2cd.models import M2CD_Weights, OriginalO2SP, PhysicalO2SP
from torchgeo_m2cd.predict import predict_scene
from torchgeo_m2cd.tasks import ChangeDetectionTask, Cosine, Optimization, Polynomial

CONFIG = config_path('synthetic')
TINY = (
    *('--trainer.accelerator', 'cpu', '--trainer.max_epochs', '1'),
    *('--data.batch_size', '2', '--data.size', '64'),
    *('--data.length', '2', '--data.eval_length', '2'),
)
WARMUP = '--model.optimization.schedule.warmup_steps'
UNET = ('--model.model', 'unet', '--model.backbone', 'resnet18')

# Configs to merge with others, and complete configs
ON_TOP = [
    ['original', 'original_ombria'],
    ['original', 'original_bright', 'original_stage2'],
]
COMPLETE = [name for name in list_configs() if not re.match('original_', name)]

pytestmark = pytest.mark.filterwarnings('ignore:The .*dataloader.* does not have many')


class Run(NamedTuple):
    """Output and files of a command."""

    output: str  # stdout and stderr
    folder: Path  # of the logger

    @property
    def last(self) -> str:
        """The last checkpoint."""
        return str(self.folder / 'checkpoints' / 'last.ckpt')

    @property
    def config(self) -> dict[str, Any]:
        """The saved config."""
        config: dict[str, Any] = yaml.safe_load(
            (self.folder / 'config.yaml').read_text()
        )
        return config

    @property
    def events(self) -> EventAccumulator:
        """The events that TensorBoard shows."""
        events = EventAccumulator(str(self.folder))
        events.Reload()
        return events


def torchgeo_command(*args: str) -> str:
    """Run ``torchgeo`` and return its output."""
    output = io.StringIO()
    with (
        # The command sets environment variables
        patch.dict(os.environ),
        patch('sys.argv', ['torchgeo', *args]),
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(output),
    ):
        try:
            torchgeo.main.main()
        except SystemExit as error:
            if error.code:
                pytest.fail(output.getvalue())
    return output.getvalue()


def run(subcommand: str, folder: Path, *args: str) -> Run:
    """Run ``torchgeo`` on the synthetic config."""
    output = torchgeo_command(
        *(subcommand, '--config', str(CONFIG)),
        *('--trainer.default_root_dir', str(folder), *TINY, *args),
    )
    return Run(output, folder / 'lightning_logs' / 'version_0')


def read_metrics(output: str) -> dict[str, float]:
    """Read the table that ``validate`` and ``test`` print."""
    pattern = r'^ *((?:val|test)_\w+) +(\S+) *$'
    return {k: float(v) for k, v in re.findall(pattern, output, re.MULTILINE)}


@pytest.fixture(scope='module')
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run('fit', tmp_path_factory.mktemp('fit'))


def scene_arguments(folder: Path) -> list[str]:
    """Write a scene and its flood as polygons, and return arguments for the scene."""
    paths = SyntheticFlood().write_scene(folder, size=192)
    with rasterio.open(paths['mask']) as src:
        mask = src.read(1)
        flood = [
            {'geometry': geometry, 'properties': {}}
            for geometry, _ in rasterio.features.shapes(
                mask, mask == 1, transform=src.transform
            )
        ]
        table = gpd.GeoDataFrame.from_features(flood, crs=src.crs)
    table.to_crs(4326).to_file(folder / 'flood.geojson')
    return [
        *('--data.optical', str(paths['optical']), '--data.sar', str(paths['sar'])),
        *('--trainer.accelerator', 'cpu', '--data.num_workers', '0'),
    ]


@pytest.fixture(scope='module')
def fitted_unet(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run('fit', tmp_path_factory.mktemp('unet'), *UNET)


class TestFit:
    def test_output(self, fitted: Run) -> None:
        line = re.findall(r'Epoch 0: 100%.*', fitted.output)[-1]
        for name in ('train_loss', 'val_loss', 'val_IoU'):
            assert f'{name}=' in line
        names = {path.name for path in (fitted.folder / 'checkpoints').iterdir()}
        assert names == {'best.ckpt', 'last.ckpt'}

    def test_events(self, fitted: Run) -> None:
        tags = fitted.events.Tags()
        assert tags['images'] == ['val/0', 'val/1']
        expected = {
            *('val_loss', 'val_IoU', 'val_F1'),
            *('train_IoU', 'train_Accuracy'),
        }
        assert expected <= set(tags['scalars'])

    def test_same_seed(self, fitted: Run, tmp_path: Path) -> None:
        again = run('fit', tmp_path)
        weights, expected = (
            torch.load(r.last, weights_only=True)['state_dict'] for r in (again, fitted)
        )
        assert all(torch.equal(weights[key], expected[key]) for key in expected)
        for tag in ('val_loss', 'val_IoU'):
            values, others = (
                [s.value for s in r.events.Scalars(tag)] for r in (again, fitted)
            )
            assert values == others

    def test_resume(self, fitted: Run, tmp_path: Path) -> None:
        args = ('--ckpt_path', fitted.last, '--trainer.max_epochs', '2')
        resumed = run('fit', tmp_path, *args)
        # Only the second epoch: one step per epoch, counted from 0
        scalars: Any = resumed.events.Scalars('val_loss')
        assert [scalar.step for scalar in scalars] == [1]
        assert torch.load(resumed.last, weights_only=True)['epoch'] == 1

    def test_objects(self, tmp_path: Path) -> None:
        """Short names make objects, and other commands read them from the checkpoint."""
        args = (
            *('--model.o2sp', 'PhysicalO2SP', '--model.o2sp.weight', '0.5'),
            *('--model.ohem.min_kept', '9', '--model.optimization.head_lr_factor', '2'),
            *('--model.optimization.schedule', 'Cosine'),
            *('--model.optimization.schedule.interval', 'step'),
            *('--model.model_args', '{experts: {balance_weight: 0.5}}'),
        )
        fitted = run('fit', tmp_path / 'fit', *args)
        expected = {
            'o2sp': PhysicalO2SP(weight=0.5).to_dict(),
            'ohem': OHEM(min_kept=9).to_dict(),
            'optimization': Optimization(Cosine('step'), head_lr_factor=2).to_dict(),
            'model_args': {'experts': {'balance_weight': 0.5}},
        }
        saved = torch.load(fitted.last, weights_only=True)['hyper_parameters']
        assert {name: saved[name] for name in expected} == expected
        result = run('predict', tmp_path / 'predict', '--ckpt_path', fitted.last)
        own = result.config['model']['init_args']
        assert {name: own[name] for name in expected} == expected
        task = ChangeDetectionTask.load_from_checkpoint(fitted.last, weights_only=True)
        assert {name: task.hparams[name] for name in expected} == expected
        assert isinstance(task.o2sp, PhysicalO2SP)

    def test_other_model(self, fitted_unet: Run) -> None:
        checkpoint = torch.load(fitted_unet.last, weights_only=True)
        assert checkpoint['hyper_parameters']['model'] == 'unet'
        assert 'val_IoU=' in fitted_unet.output


class TestEvaluate:
    @pytest.mark.parametrize('subcommand', ['validate', 'test', 'predict'])
    def test_subcommand(self, subcommand: str, fitted: Run, tmp_path: Path) -> None:
        output = run(subcommand, tmp_path, '--ckpt_path', fitted.last).output
        metrics = read_metrics(output)
        if subcommand == 'validate':
            last: Any = fitted.events.Scalars('val_loss')[-1]
            assert metrics['val_loss'] == pytest.approx(last.value, rel=1e-3)
        elif subcommand == 'test':
            assert 0 <= metrics['test_IoU'] <= 1
        else:
            assert 'Predicting DataLoader 0: 100%' in output

    def test_model_is_that_of_the_checkpoint(
        self, fitted_unet: Run, tmp_path: Path
    ) -> None:
        checkpoint = ('--ckpt_path', fitted_unet.last)
        run_m2cd = run('test', tmp_path / 'm2cd', *checkpoint)
        run_unet = run('test', tmp_path / 'unet', *checkpoint, *UNET)
        assert read_metrics(run_m2cd.output) == read_metrics(run_unet.output)
        assert run_m2cd.config['model']['init_args']['model'] == 'unet'

    def test_checkpoint_made_in_python(self, tmp_path: Path) -> None:
        trainer = Trainer(
            accelerator='cpu',
            default_root_dir=tmp_path,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        args: dict[str, Any] = {
            'in_channels': (4, 1),
            'model_args': {'experts': {'top_k': 1}},
        }
        task = ChangeDetectionTask(backbone='mit_b0', **args)
        datamodule = SyntheticFloodDataModule(
            batch_size=2, length=2, eval_length=2, size=64
        )
        (expected,) = trainer.test(task, datamodule, verbose=False)
        path = str(tmp_path / 'python.ckpt')
        trainer.save_checkpoint(path)

        # Initial weights are not loaded: the checkpoint has its own
        weights = ('--model.weights', 'ResNet18_Weights.NONE')
        result = run('test', tmp_path, '--ckpt_path', path, *weights)
        assert read_metrics(result.output) == pytest.approx(expected, rel=1e-3)
        init_args = result.config['model']['init_args']
        assert init_args['in_channels'] == [4, 1]
        assert init_args['model_args'] == {'experts': {'top_k': 1}}
        loaded = ChangeDetectionTask.load_from_checkpoint(path, weights_only=True)
        assert loaded.hparams['model_args'] == {'experts': {'top_k': 1}}


class TestConfigs:
    @pytest.mark.parametrize('names', [[name] for name in COMPLETE] + ON_TOP)
    def test_parse(self, names: list[str]) -> None:
        """Merged text gives the same config as several --config arguments."""
        subcommand = 'predict' if names == ['scene'] else 'fit'
        paths = [('--config', str(config_path(name))) for name in names]
        output = torchgeo_command(subcommand, *sum(paths, ()), '--print_config')
        text = read_configs(*names)
        assert (
            torchgeo_command(subcommand, '--config', text, '--print_config') == output
        )
        config = yaml.safe_load(output)
        assert config['model']['class_path'].endswith('.ChangeDetectionTask')
        assert config['data']['class_path'].startswith('torchgeo_m2cd.datamodules.')
        used = {name for row in ON_TOP for name in row} | set(COMPLETE)
        assert used == set(list_configs())

    @pytest.mark.parametrize('stage', [1, 2])
    @pytest.mark.parametrize(
        ('name', 'steps', 'every', 'warmup', 'classes', 'min_kept', 'size', 'data'),
        [
            (None, 200000, 1000, 1000, 2, 100000, 256, 'CAUFloodDataModule'),
            ('ombria', 8000, 200, 400, 2, 100000, 256, 'OMBRIADataModule'),
            ('bright', 50000, 1000, 1000, 4, 400000, 512, 'BRIGHTDFC2025DataModule'),
        ],
    )
    def test_original(
        self,
        name: str | None,
        steps: int,
        every: int,
        warmup: int,
        classes: int,
        min_kept: int,
        size: int,
        data: str,
        stage: int,
    ) -> None:
        """Configs have the published values, and each dataset's changes."""
        names = ['original', *([f'original_{name}'] if name else [])]
        names += ['original_stage2'] if stage == 2 else []
        output = torchgeo_command(
            'fit', '--config', read_configs(*names), '--print_config'
        )
        config = yaml.safe_load(output)
        trainer, task = config['trainer'], config['model']['init_args']
        assert (trainer['max_steps'], trainer['val_check_interval']) == (steps, every)
        assert trainer['check_val_every_n_epoch'] is None
        assert trainer['callbacks'][0]['init_args']['monitor'] == 'val_IoU'
        expected = {
            'model': 'm2cd', 'backbone': 'mit_b1', 'in_channels': 3, 'loss': 'ce',
            'task': 'multiclass', 'num_classes': classes, 'lr': 0.0001,
            'weights': True if stage == 1 else None,
            'init_from': None if stage == 1 else 'best.ckpt',
        }  # fmt: skip
        assert {key: task[key] for key in expected} == expected
        assert len(task['labels']) == classes
        assert task['ohem'] == OHEM(0.7, min_kept).to_dict()
        optimization = Optimization(Polynomial(warmup), 0.01, 10)
        assert task['optimization'] == optimization.to_dict()
        o2sp = None if stage == 1 else OriginalO2SP(weight=0.0001).to_dict()
        assert task['o2sp'] == o2sp
        assert config['data']['class_path'].endswith(f'.{data}')
        module = config['data']['init_args']
        assert (module['batch_size'], module['patch_size']) == (8, size)
        augmentation = module['augmentation']['init_args']
        assert [
            len(augmentation[k]) for k in ('source_augmentations', 'augmentations')
        ] == [1, 1]

    def test_inputs(self) -> None:
        """Read the inputs of ombria.yaml, also with one changed key."""
        config = ('fit', '--config', str(config_path('ombria')), '--print_config')
        own = yaml.safe_load(torchgeo_command(*config))['data']['init_args']['inputs']
        changed = yaml.safe_load(
            torchgeo_command(*config, '--data.inputs.sar.references', '[0.85]')
        )['data']['init_args']['inputs']
        assert own['init_args']['sar']['init_args']['references'] == ['otsu']
        assert changed['init_args']['sar']['init_args'].pop('references') == [0.85]
        own['init_args']['sar']['init_args'].pop('references')
        assert changed == own

    @pytest.mark.parametrize(
        ('name', 'value', 'expected'),
        [
            ('weights', 'true', True),
            ('weights', 'false', False),
            ('weights', 'null', None),
            ('weights', 'encoder.pth', 'encoder.pth'),
            ('weights', '[s2.pth, s1.pth]', ['s2.pth', 's1.pth']),
            ('pos_weight', '0.5', 0.5),
            ('pos_weight', '[0.5, 2]', [0.5, 2]),
        ],
    )
    def test_types(self, name: str, value: str, expected: Any) -> None:
        output = torchgeo_command(
            'fit', '--config', str(CONFIG), f'--model.{name}', value, '--print_config'
        )
        assert yaml.safe_load(output)['model']['init_args'][name] == expected


class TestScenePaths:
    """Files in configs and on the command line, without running anything."""

    def parse(self, *args: str) -> SceneDataModule:
        parser = ArgumentParser(exit_on_error=False)
        parser.add_subclass_arguments(BaseDataModule, 'data')
        parser.add_argument('--config', action='config')
        config = parser.parse_args(
            ['--data', 'torchgeo_m2cd.datamodules.SceneDataModule', *args]
        )
        module = parser.instantiate_classes(config).data
        assert isinstance(module, SceneDataModule)
        return module

    @pytest.mark.parametrize(
        ('given', 'expected'),
        [
            ('a.tif', 'a.tif'),
            ('a [1], #2.tif', 'a [1], #2.tif'),
            ('[a].tif', '[a].tif'),
            ('C:\\data\\a.tif', 'C:\\data\\a.tif'),
            ('NETCDF:a.nc:vv', 'NETCDF:a.nc:vv'),
            ('https://host/a.tif?b=[1]&c={2}', 'https://host/a.tif?b=[1]&c={2}'),
            ('5', '5'),
            ('true', 'true'),
            ('2024-01-01', '2024-01-01'),
            ('[a.tif]', ['a.tif']),
            ('[a.tif, b.tif]', ['a.tif', 'b.tif']),
            ('[a.tif,~/b.tif]', ['a.tif', '~/b.tif']),
            ('["a [1].tif", NETCDF:a.nc:vv]', ['a [1].tif', 'NETCDF:a.nc:vv']),
        ],
    )
    @pytest.mark.parametrize('key', ['', '.paths'])
    def test_one_or_more(self, given: str, expected: Any, key: str) -> None:
        arguments = (f'--data.{name}{key}' for name in ('optical', 'sar', 'mask'))
        module = self.parse(*(word for name in arguments for word in (name, given)))
        ((_, optical, sar),) = module.entries
        mask = MaskSource.of(module.mask)
        assert optical.paths == sar.paths == mask.paths == expected

    def test_append(self) -> None:
        module = self.parse(
            *('--data.optical', 'a.tif', '--data.optical+', 'b.tif'),
            *('--data.sar.paths', 'a.tif', '--data.sar.paths+', 'b.tif'),
            *('--data.sar.scale', 'power'),
        )
        ((_, optical, sar),) = module.entries
        assert optical.paths == ['a.tif', 'b.tif']
        assert sar == SARSource(['a.tif', 'b.tif'], scale='power')

    def test_paths_of_a_config(self, tmp_path: Path) -> None:
        """Other settings of the config stay as they are."""
        config = tmp_path / 'config.yaml'
        config.write_text('data: {init_args: {optical: a.tif, sar: {scale: power}}}')
        module = self.parse('--config', str(config), '--data.sar.paths', '[b.tif]')
        ((_, _, sar),) = module.entries
        assert sar == SARSource(['b.tif'], scale='power')

    @pytest.mark.parametrize('has_class_path', [True, False])
    def test_yaml(self, has_class_path: bool, tmp_path: Path) -> None:
        settings: Any = {'paths': ['s.tif', 't.tif'], 'bands': [1], 'scale': 'power'}
        if has_class_path:
            path = 'torchgeo_m2cd.datasets.SARSource'
            settings = {'class_path': path, 'init_args': settings}
        arguments = {'optical': ['a.tif', 'b.tif'], 'sar': settings, 'mask': ['m.tif']}
        config = tmp_path / 'config.yaml'
        config.write_text(yaml.safe_dump({'data': {'init_args': arguments}}))
        module = self.parse('--config', str(config))
        ((_, optical, sar),) = module.entries
        assert optical == Source(['a.tif', 'b.tif'])
        assert sar == SARSource(['s.tif', 't.tif'], [1], scale='power')
        assert module.mask == ['m.tif']

    def test_files_are_no_configs(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """jsonargparse may read the values of arguments from files."""
        monkeypatch.chdir(tmp_path)
        for name in ('a.json', 'b.json', 'list.json'):
            Path(name).write_text('{"paths": "c.tif", "optical": "c.tif"}')
        module = self.parse('--data.optical', 'a.json', '--data.sar', '[b.json]')
        ((_, optical, sar),) = module.entries
        assert (optical.paths, sar.paths) == ('a.json', ['b.json'])

    @pytest.mark.parametrize('value', ['5', 'true', '[1, 2]', '[a.tif, null]', '1.5'])
    def test_no_names(self, value: str, tmp_path: Path) -> None:
        config = tmp_path / 'config.yaml'
        config.write_text(f'data: {{init_args: {{optical: a.tif, sar: {value}}}}}')
        with pytest.raises(ArgumentError, match=r'(?s)"sar".*Given value: '):
            self.parse('--config', str(config))

    def test_paths_before_settings(self) -> None:
        """jsonargparse drops the paths, which is an error that says how to give both."""
        with pytest.raises(ValueError, match=r'they are optical\.paths and sar\.paths'):
            self.parse(
                *('--data.optical', 'a.tif', '--data.sar', 'b.tif'),
                *('--data.sar.scale', 'power'),
            )


class TestErrors:
    @pytest.mark.parametrize(
        ('old', 'new', 'message'),
        [
            ('trainer:', 'trainr:', 'trainr'),
            ('max_epochs:', 'max_epoch:', "'trainer.max_epoch'"),
            ('monitor:', 'monitr:', "Option 'monitr' is not accepted"),
            ('FigureLogger', 'FigureLoger', "has no attribute 'FigureLoger'"),
            ('ChangeDetectionTask', 'ChangeTask', "has no attribute 'ChangeTask'"),
            ('backbone:', 'bakbone:', "Option 'bakbone' is not accepted"),
            ('model: m2cd', 'model: m2dc', "'m2cd', 'unet', .*Got value: m2dc"),
            ('lr:', 'learning_rate:', "Option 'learning_rate' is not accepted"),
            ('batch_size:', 'batchsize:', "Option 'batchsize' is not accepted"),
            ('batch_size: 8', 'batch_size: many', "'int'>. Got value: many"),
            ('trainer:', 'trainer: [', 'Problems parsing config'),
        ],
    )
    def test_bad_config(self, old: str, new: str, message: str, tmp_path: Path) -> None:
        text = CONFIG.read_text()
        assert old in text
        path = tmp_path / 'config.yaml'
        path.write_text(text.replace(old, new))
        with pytest.raises(pytest.fail.Exception, match=message):
            torchgeo_command('fit', '--config', str(path))

    @pytest.mark.parametrize(
        ('args', 'message'),
        [
            (('--data.inputs.windw', '64'), 'windw'),
            (('--data.inputs.sar.scal', '[5]'), 'scal'),
            (('--data.inputs.sar.init_args.references', '[otzu]'), 'otzu'),
            (('--data.inputs.optical', 'torchgeo_m2cd.transforms.Darknes'), 'Darknes'),
            (
                ('--data.inputs.sar.scale', '[-1]'),
                r'scale\[0\] is -1.0: expected more than 0',
            ),
            (('--data.mean', '[1]'), 'mean'),
        ],
    )
    def test_bad_inputs(self, args: tuple[str, ...], message: str) -> None:
        """The error names a typo in a key or in a value."""
        with pytest.raises((pytest.fail.Exception, ValueError), match=message):
            torchgeo_command('fit', '--config', str(config_path('ombria')), *args)

    @pytest.mark.parametrize(
        ('args', 'message'),
        [
            (('--model.o2sp', 'OriginalO2S'), 'o2sp.*OriginalO2S'),
            (('--model.o2sp', 'torchgeo_m2cd.models.O2S'), "no attribute 'O2S'"),
            (
                ('--model.o2sp', 'OriginalO2SP', '--model.o2sp.wait', '1'),
                "'wait' is not",
            ),
            (('--model.optimization.schedule', 'Cosin'), 'schedule.*Cosin'),
            (('--model.ohem.treshold', '0.5'), "'treshold' is not accepted"),
            (('--model.ohem.threshold', 'hard'), "'float'>. Got value: hard"),
        ],
    )
    def test_bad_object(self, args: tuple[str, ...], message: str) -> None:
        with pytest.raises(pytest.fail.Exception, match=f'(?s){message}'):
            torchgeo_command('fit', '--config', str(CONFIG), *args)

    def test_no_config(self, tmp_path: Path) -> None:
        path = str(tmp_path / 'no.yaml')
        with pytest.raises(pytest.fail.Exception, match=f'not exist: {path!r}'):
            torchgeo_command('fit', '--config', path)

    @pytest.mark.parametrize(
        ('args', 'message'),
        [
            (
                ('--model.model_args', '{experts: {num_expert: 2}}'),
                "key of experts 'num_expert', did you mean 'num_experts'?",
            ),
            (
                ('--model.backbone', 'mit_b9'),
                "unknown encoder 'mit_b9', did you mean 'mit_b",
            ),
            (
                ('--model.model', 'unet', '--model.backbone', 'resnet19'),
                "unknown encoder 'resnet19', did you mean 'resnet1",
            ),
            (('--model.weights', 'no.pth'), "weights 'no.pth' are neither a file nor"),
            (
                ('--model.in_channels', '3'),
                'but the inputs have 4 optical and 1 SAR channels: expected 4 or [4, 1]',
            ),
            (
                (*UNET, '--model.in_channels', '3'),
                'but the inputs have 4 optical and 1 SAR channels: expected 4',
            ),
            (
                ('--optimizer', 'SGD', '--optimizer.lr', '0.1'),
                'would replace model.lr and model.optimization: expected only the latter',
            ),
            (('--data.size', '80'), 'Expected image height and width divisible by 32'),
            (('--data.patch_size', '0'), 'patch_size is 0: expected at least 1'),
            (
                ('--ckpt_path', 'no.ckpt'),
                'does not exist: expected the path of a checkpoint',
            ),
        ],
    )
    def test_bad_value(
        self, args: tuple[str, ...], message: str, tmp_path: Path
    ) -> None:
        errors = (ValueError, RuntimeError, FileNotFoundError)
        with pytest.raises(errors, match=re.escape(message)):
            run('fit', tmp_path, *args)
        assert not list(tmp_path.rglob('*.ckpt'))

    @pytest.mark.parametrize(
        'names', [['ombria'], ['original'], ['original', 'original_bright']]
    )
    def test_no_data(self, names: list[str], tmp_path: Path) -> None:
        root = str(tmp_path / 'no')
        with pytest.raises(DatasetNotFoundError, match=re.escape(root)):
            torchgeo_command(
                *('fit', '--config', read_configs(*names), '--data.root', root),
                *('--trainer.default_root_dir', str(tmp_path)),
                *('--model.weights', 'null'),
            )


@pytest.mark.slow
class TestStages:
    def test_both(self, tmp_path: Path) -> None:
        """The second stage starts from the best checkpoint of the first."""
        make_ombria(tmp_path)
        for path in tmp_path.rglob('*.png'):
            # Encoders have a stride of 32
            image = Image.open(path).resize((32, 32), Image.Resampling.NEAREST)
            image.save(path)
        tiny = [
            *('--data.root', str(tmp_path), '--data.batch_size', '2'),
            *('--data.patch_size', '32', '--data.num_workers', '0'),
            *('--trainer.accelerator', 'cpu', '--trainer.default_root_dir'),
        ]
        steps = ('--trainer.max_steps', '4', '--trainer.val_check_interval', '2')
        model = ('--model.backbone', 'mit_b0', WARMUP, '1')
        stages = ['original', 'original_ombria', 'original_stage2']
        configs = [read_configs(*stages[:2]), read_configs(*stages)]
        first, second = tmp_path / 'first', tmp_path / 'second'
        torchgeo_command(
            *('fit', '--config', configs[0], *tiny, str(first), *steps, *model),
            *('--model.weights', 'null'),
        )
        (best,) = first.rglob('best.ckpt')
        # At this learning rate, weights stay as they are
        torchgeo_command(
            *('fit', '--config', configs[1], *tiny, str(second), *steps, *model),
            *('--model.init_from', str(best), '--model.lr', '1e-9'),
        )
        checkpoints = [
            torch.load(path, weights_only=True)
            for path in (best, *second.rglob('last.ckpt'))
        ]
        arguments = [checkpoint['hyper_parameters'] for checkpoint in checkpoints]
        o2sp = [args['o2sp'] for args in arguments]
        assert o2sp == [None, OriginalO2SP(weight=0.0001).to_dict()]
        assert checkpoints[1]['global_step'] == 4
        assert checkpoints[0]['global_step'] in (2, 4)
        weights = [checkpoint['state_dict'] for checkpoint in checkpoints]
        for name in dict(ChangeDetectionTask(backbone='mit_b0').named_parameters()):
            torch.testing.assert_close(*(w[name] for w in weights))
        # The second stage's checkpoint does not need the first stage's
        best.unlink()
        (last,) = second.rglob('last.ckpt')
        output = torchgeo_command(
            *('test', '--config', configs[1], *tiny, str(second)),
            *('--ckpt_path', str(last)),
        )
        assert 'test_IoU' in output

    def test_bright(self, tmp_path: Path) -> None:
        """Both stages and predictions work with four classes."""
        make_bright(tmp_path)
        tiny = [
            *('--data.root', str(tmp_path), '--data.batch_size', '2'),
            *('--data.patch_size', '32', '--data.num_workers', '0'),
            *('--trainer.accelerator', 'cpu', '--trainer.default_root_dir'),
        ]
        model = ('--model.backbone', 'mit_b0', WARMUP, '1')
        steps = ('--trainer.max_steps', '2', '--trainer.val_check_interval', '2')
        start = ['--model.weights', 'null']
        for stage in (1, 2):
            stages = ['original', 'original_bright', 'original_stage2']
            config = read_configs(*stages[: stage + 1])
            folder = tmp_path / str(stage)
            torchgeo_command(
                *('fit', '--config', config, *tiny, str(folder), *steps, *model), *start
            )
            (best,) = folder.rglob('best.ckpt')
            start = ['--model.init_from', str(best)]
        output = torchgeo_command(
            *('test', '--config', config, *tiny, str(folder)),
            *('--ckpt_path', str(best)),
        )
        assert 'test_IoU' in output
        torchgeo_command(
            *('predict', '--config', config, *tiny, str(folder)),
            *('--ckpt_path', str(best), '--return_predictions', 'false'),
        )
        # A scene needs these inputs
        inputs = torch.load(best, weights_only=True)['inputs']
        mean = inputs['optical']['init_args']['mean']
        assert mean == pytest.approx([123.675, 116.28, 103.53])
        assert inputs['sar']['init_args']['std'] == pytest.approx([58.395])
        (events,) = folder.rglob('version_0/events*')
        figures = EventAccumulator(str(events)).Reload().Tags()['images']
        assert figures == ['val/0', 'val/1']

    def test_average_of_weights(self, tmp_path: Path) -> None:
        """A resumed run with ombria.yaml averages over as many steps as a whole run."""
        make_ombria(tmp_path)
        for path in tmp_path.rglob('*.png'):
            image = Image.open(path).resize((32, 32), Image.Resampling.NEAREST)
            image.save(path)
        config = str(config_path('ombria'))
        tiny = [
            *('--data.root', str(tmp_path), '--data.batch_size', '2'),
            *('--data.augmentation', 'null', '--data.patch_size', '32'),
            *('--trainer.accelerator', 'cpu'),
            '--trainer.default_root_dir',
        ]

        def fit(name: str, epochs: str, *args: str) -> Path:
            torchgeo_command(
                *('fit', '--config', config, *tiny, str(tmp_path / name)),
                *('--trainer.max_epochs', epochs, *args),
            )
            return max((tmp_path / name).rglob('last.ckpt'), key=os.path.getmtime)

        last = fit('parts', '1')
        paths = fit('whole', '2'), fit('parts', '2', '--ckpt_path', str(last))
        first, whole, parts = (
            torch.load(path, weights_only=True) for path in (last, *paths)
        )
        steps = [int(c['averaging_state']['n_averaged']) for c in (whole, parts)]
        assert steps[0] == steps[1] == 2 * first['averaging_state']['n_averaged']
        # The average changes less than the weights
        name = 'model.segmentation_head.conv.weight'
        averages, weights = (
            [checkpoint[key][name] for checkpoint in (first, parts)]
            for key in ('state_dict', 'current_model_state')
        )
        moved = (averages[1] - averages[0]).norm()
        assert 0 < moved < (weights[1] - averages[0]).norm()
        output = torchgeo_command(
            *(
                'test',
                '--config',
                config,
                *tiny,
                str(tmp_path),
                '--ckpt_path',
                str(last),
            )
        )
        assert 'test_IoU' in output


@pytest.mark.slow
class TestScene:
    def test_train_test_and_map(self, tmp_path: Path) -> None:
        """Users get from their files to a map without writing Python."""
        files = scene_arguments(tmp_path)
        train = [
            *('--config', str(config_path('scene_train')), *files, *UNET),
            *('--data.mask', str(tmp_path / 'flood.geojson'), '--data.length', '4'),
            *('--data.patch_size', '32', '--data.grid_size', '3'),
            *('--data.batch_size', '2', '--trainer.default_root_dir', str(tmp_path)),
            *('--trainer.max_epochs', '1'),
        ]
        torchgeo_command('fit', *train)
        (best,) = tmp_path.rglob('best.ckpt')
        output = torchgeo_command('test', *train, '--ckpt_path', str(best))
        assert 'test_IoU' in output
        change, polygons = tmp_path / 'change.tif', tmp_path / 'change.gpkg'
        torchgeo_command(
            *('predict', '--config', str(config_path('scene')), *files),
            *('--ckpt_path', str(best), '--trainer.callbacks.output', str(change)),
            *('--trainer.callbacks.polygons', str(polygons)),
            *('--trainer.default_root_dir', str(tmp_path)),
            *('--data.patch_size', '64', '--data.stride', '32'),
        )
        with rasterio.open(change) as src:
            assert src.crs == 'EPSG:32633'
            assert src.shape == (168, 168)
            assert src.tags()['CHECKPOINT'] == str(best)
        assert gpd.read_file(polygons).crs == 'EPSG:32633'
        # predict_scene writes the same bytes
        again = tmp_path / 'again.tif'
        predict_scene(
            files[1], files[3], again, best,
            data_args={'patch_size': 64, 'stride': 32},
            trainer_args={'accelerator': 'cpu', 'enable_progress_bar': False},
        )  # fmt: skip
        assert again.read_bytes() == change.read_bytes()

    def test_defaults(self, fitted_unet: Run, tmp_path: Path) -> None:
        """Command and function have the same default patches."""
        files = scene_arguments(tmp_path)
        maps = tmp_path / 'a.tif', tmp_path / 'b.tif'
        torchgeo_command(
            *('predict', '--config', str(config_path('scene')), *files),
            *('--data.optical', f'[{files[1]}]', '--data.sar.paths', f'[{files[3]}]'),
            *('--ckpt_path', fitted_unet.last, '--trainer.callbacks.output'),
            *(str(maps[0]), '--trainer.default_root_dir', str(tmp_path)),
        )
        predict_scene(
            files[1], files[3], maps[1], fitted_unet.last,
            trainer_args={'accelerator': 'cpu', 'enable_progress_bar': False},
        )  # fmt: skip
        assert maps[0].read_bytes() == maps[1].read_bytes()
        with rasterio.open(maps[0]) as src:
            assert src.tags()['CHECKPOINT'] == fitted_unet.last

    def test_released_weights(self, tmp_path: Path) -> None:
        """Without a checkpoint, the map is that of the default weights."""
        files = scene_arguments(tmp_path)
        small = ('--data.patch_size', '64', '--trainer.default_root_dir', str(tmp_path))
        maps = tmp_path / 'a.tif', tmp_path / 'b.tif'
        output = torchgeo_command(
            *('predict', '--config', str(config_path('scene')), *files, *small),
            *('--trainer.callbacks.output', str(maps[0])),
        )
        assert str(M2CD_Weights.DEFAULT) in output
        predict_scene(
            files[1], files[3], maps[1], data_args={'patch_size': 64},
            trainer_args={'accelerator': 'cpu', 'enable_progress_bar': False},
        )  # fmt: skip
        assert maps[0].read_bytes() == maps[1].read_bytes()

    def test_training_from_released_weights(self, tmp_path: Path) -> None:
        output = torchgeo_command(
            *('fit', '--config', str(config_path('scene_train'))),
            *scene_arguments(tmp_path),
            *('--data.mask', str(tmp_path / 'flood.geojson'), '--data.length', '2'),
            *('--data.patch_size', '32', '--data.grid_size', '3'),
            *('--data.batch_size', '2', '--trainer.default_root_dir', str(tmp_path)),
            *('--trainer.max_epochs', '1', '--model.weights', 'M2CD_Weights.DEFAULT'),
            *('--model.backbone', 'null', '--model.in_channels', 'null'),
        )
        assert 'val_IoU' in output
        (best,) = tmp_path.rglob('best.ckpt')
        content = torch.load(best, weights_only=True)
        expected: Any = M2CD_Weights.DEFAULT
        assert content['inputs'] == expected.transforms().to_dict()
        assert content['hyper_parameters']['weights'] is None
        own = expected.meta['model']
        assert content['hyper_parameters']['backbone'] == own['encoder_name']


@pytest.mark.slow
class TestChips:
    def test_all_stages(self, tmp_path: Path) -> None:
        """Train, validate and test on chips of one's own, and predict those without masks."""
        make_chips(tmp_path, {'train': 4, 'val': 2, 'test': 2, 'new': 1})
        (tmp_path / 'new/label/8.png').unlink()
        arguments = (
            *('--config', str(config_path('chips')), '--data.root', str(tmp_path)),
            *('--data.batch_size', '2', '--data.num_workers', '0'),
            *('--trainer.accelerator', 'cpu', '--trainer.max_epochs', '2'),
            *('--trainer.default_root_dir', str(tmp_path)),
        )
        torchgeo_command('fit', *arguments, '--data.sar.bands', '[2, 1]')
        (best,) = tmp_path.rglob('best.ckpt')
        inputs = torch.load(best, weights_only=True)['inputs']
        assert inputs['sar']['init_args']['mean'] == pytest.approx([-15, -15], abs=1)
        more = ('--ckpt_path', str(best), '--data.sar.bands', '[2, 1]')
        for stage in ('val', 'test'):
            command = {'val': 'validate', 'test': 'test'}[stage]
            metrics = read_metrics(torchgeo_command(command, *arguments, *more))
            assert metrics[f'{stage}_IoU'] > 0.3
        torchgeo_command(
            *('predict', *arguments, *more, '--data.predict_split', 'new'),
            *('--return_predictions', 'false'),
        )

    @pytest.mark.parametrize(
        ('option', 'message'),
        [
            (('--data.optical.paths', '{split}/C/*'), "no optical file matches '"),
            (('--data.splits', '{val: 0.75}'), 'batch_size is 2, but there are only 1'),
            (('--data.optical.bands', '[5]'), 'optical.bands has 5: expected numbers'),
            (
                ('--data.optical.bands', '[1]'),
                'the inputs have 1 optical and 2 SAR chan',
            ),
            (('--data.mask.classes', '{0: 0, 7: 1}'), ".png' has the values 255: exp"),
        ],
    )
    def test_errors(
        self, option: tuple[str, str], message: str, tmp_path: Path
    ) -> None:
        make_chips(tmp_path)
        with pytest.raises((ValueError, FileNotFoundError), match=re.escape(message)):
            torchgeo_command(
                *('fit', '--config', str(config_path('chips')), *option),
                *('--data.root', str(tmp_path), '--trainer.accelerator', 'cpu'),
                *('--data.batch_size', '2', '--data.num_workers', '0'),
                *('--trainer.default_root_dir', str(tmp_path)),
            )
