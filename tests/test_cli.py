# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""The ``torchgeo-m2cd`` command."""

import ast
import importlib
import json
import logging
import re
import subprocess
import sys
import tomllib
import warnings
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import lightning.pytorch
import pytest
import rasterio

import torchgeo_m2cd
from torchgeo_m2cd import cli
from torchgeo_m2cd.datasets import SARSource, Source, SyntheticFlood
from torchgeo_m2cd.maps import Districts
from torchgeo_m2cd.models import M2CD_Weights
from torchgeo_m2cd.predict import MapOptions, predict_scene
from torchgeo_m2cd.released import DEFAULT
from torchgeo_m2cd.task_cli import TaskCLI

PATCHES = ('--data_args.patch_size', '64', '--trainer_args.accelerator', 'cpu')


@pytest.fixture(scope='module')
def scene(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    paths = SyntheticFlood().write_scene(tmp_path_factory.mktemp('scene'), size=96)
    return str(paths['optical']), str(paths['sar'])


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The arguments that ``predict_scene`` was called with."""
    arguments: dict[str, Any] = {}
    monkeypatch.setattr(cli, 'predict_scene', None)
    parser = cli.make_parser

    def spy(**kwargs: Any) -> None:
        arguments.update(kwargs)

    def make_parser() -> Any:
        # The parser is made from the signature of the true function
        with monkeypatch.context() as patch:
            patch.setattr(cli, 'predict_scene', predict_scene)
            return parser()

    monkeypatch.setattr(cli, 'predict_scene', spy)
    monkeypatch.setattr(cli, 'make_parser', make_parser)
    return arguments


class TestMap:
    def test_two_arguments(
        self,
        scene: tuple[str, str],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        """Two images give the map of ``predict_scene``, a summary and progress."""
        monkeypatch.chdir(tmp_path)
        level = logging.getLogger('lightning.pytorch').level
        cli.main(['map', *scene])
        output, errors = capsys.readouterr()
        summary = json.loads(Path('change.json').read_text())
        assert '\nchange.tif\n  flooded' in output
        assert 'change.tif change.json change.qml' in output
        assert str(M2CD_Weights.DEFAULT) in output
        assert 'Predicting' in output
        for word in ('GPU', 'Tip', 'num_workers', 'Warning', 'scale is'):
            assert word not in errors
        assert logging.getLogger('lightning.pytorch').level == level
        trainer: dict[str, Any] = {'accelerator': 'cpu', 'enable_progress_bar': False}
        expected = predict_scene(*scene, 'again.tif', trainer_args=trainer)
        assert isinstance(expected, dict)
        assert summary['flooded_km2'] == expected['flooded_km2']
        with rasterio.open('change.tif') as src, rasterio.open('again.tif') as other:
            assert (src.read() == other.read()).mean() > 0.9
            assert src.tags() == other.tags()

    def test_options(self, called: dict[str, Any]) -> None:
        """All arguments of the function are options, also those of objects."""
        cli.main(
            [
                *('map', '{paths: a.tif, bands: [4], gain: 2}'),
                *('{paths: [b.tif, c.tif], scale: power}', '--output', 'o.tif'),
                *('--weights', 'M2CD_Weights.DEFAULT', '--classes', 'c.tif'),
                *('--polygons', 'p.gpkg', '--quicklook', 'q.png', '--stac', 's.json'),
                *('--districts.path', 'd.gpkg', '--districts.attribute', 'NAME'),
                *('--threshold', '0.4', '--min_area', '100', '--overwrite', 'true'),
                '--compile',
                *PATCHES,
            ]
        )
        assert called == {
            'optical': Source('a.tif', bands=[4], gain=2),
            'sar': SARSource(['b.tif', 'c.tif'], scale='power'),
            'output': 'o.tif',
            'weights': 'M2CD_Weights.DEFAULT',
            'scenes': None,
            'data_args': {'patch_size': 64},
            'trainer_args': {'enable_model_summary': False, 'accelerator': 'cpu'},
            'classes': 'c.tif',
            'polygons': 'p.gpkg',
            'quicklook': 'q.png',
            'stac': 's.json',
            'districts': Districts('d.gpkg', 'NAME'),
            'threshold': 0.4,
            'min_area': 100,
            'overwrite': True,
            'compile': True,
        }
        assert called.keys() >= MapOptions.__annotations__.keys()

    @pytest.mark.parametrize(
        ('words', 'expected'),
        [
            (['--overwrite'], True),
            (['--overwrite', '--classes', 'c.tif'], True),
            (['--overwrite', 'true'], True),
            (['--overwrite', 'Yes'], True),
            (['--overwrite', 'no'], False),
            (['--overwrite', 'off'], False),
            (['--overwrite=false'], False),
            (['--overwrite', 'False'], False),
        ],
    )
    @pytest.mark.parametrize('option', ['overwrite', 'compile'])
    def test_flags(
        self, option: str, words: list[str], expected: bool, called: dict[str, Any]
    ) -> None:
        """A flag, before or after the images, or an option with a value."""
        words = [word.replace('overwrite', option) for word in words]
        for arguments in ([*words, 'a.tif', 'b.tif'], ['a.tif', 'b.tif', *words]):
            cli.main(['map', *arguments])
            assert (called['optical'], called['sar']) == ('a.tif', 'b.tif')
            assert called[option] is expected

    def test_scenes(
        self, scene: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """A list of scenes is mapped into a folder that does not exist yet."""
        table = tmp_path / 'scenes.csv'
        optical, sar = scene
        lines = [f'{name},{optical},{sar}' for name in ('here', 'there')]
        table.write_text('\n'.join(['name,optical,sar', *lines]))
        command = ['map', '--scenes', str(table), *PATCHES]
        with pytest.raises(SystemExit):
            cli.main(command)
        assert "or a folder as output, such as 'maps/'" in capsys.readouterr().err
        folder = tmp_path / 'maps'
        cli.main([*command, '--output', f'{folder}/'])
        assert {path.name for path in folder.iterdir()} == {
            f'{name}_change{suffix}'
            for name in ('here', 'there')
            for suffix in ('.tif', '.json', '.qml')
        }
        # Other files of the same probabilities
        command += ['--output', str(folder), '--threshold', '0.4']
        with pytest.raises(SystemExit):
            cli.main(command)
        assert 'expected another path, or --overwrite' in capsys.readouterr().err
        command += ['--overwrite', '--polygons', str(folder / '{name}.gpkg')]
        cli.main(command)
        assert (folder / 'there.gpkg').exists()
        output = capsys.readouterr().out
        assert '2 of 2 maps: new files of the probabilities that are there' in output
        assert output.count('no interval: it is known for the threshold') == 2
        assert output.splitlines()[-1].startswith('2 maps: ')
        # All scenes that cannot be opened, before any is mapped
        table.write_text(
            f'name,optical,sar\nhere,{optical},{sar}\nx,no.tif,{sar}\ny,{sar},no.tif'
        )
        with pytest.raises(SystemExit):
            cli.main(['map', '--scenes', str(table), '--output', f'{tmp_path}/new/'])
        last = capsys.readouterr().err.splitlines()[-1]
        assert '2 of 3 scenes cannot be opened: x: optical file' in last
        assert '; y: SAR file' in last
        assert not (tmp_path / 'new').exists()
        table.write_text('\n'.join(['name,optical,sar', *lines]))
        # Settings for all of them
        cli.main([*command, '{gain: 2}', '{scale: db}'])
        assert 'assumed' not in capsys.readouterr().out

    @pytest.mark.parametrize(
        'words',
        [
            ['--classes', 'scene1.tif', 'scene1.tif', 'b.tif'],
            ['--weights', 'scene1.tif', 'a.tif', 'scene1.tif'],
            ['--output', 'scene1.tif', 'scene1.tif', '{paths: scene1.tif}'],
        ],
    )
    def test_no_import(
        self,
        words: list[str],
        called: dict[str, Any],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """A path is no attribute of a module."""
        monkeypatch.syspath_prepend(tmp_path)
        (tmp_path / 'scene1.py').write_text('')
        monkeypatch.delitem(sys.modules, 'scene1', raising=False)
        cli.main(['map', *words])
        assert called
        assert 'scene1' not in sys.modules

    def test_several_files(self, called: dict[str, Any]) -> None:
        cli.main(['map', '[a.tif, b.tif]', 'c.tif', '--weights', 'DEFAULT'])
        assert called['optical'] == ['a.tif', 'b.tif']
        assert called['weights'] == 'DEFAULT'

    @pytest.mark.parametrize(
        ('arguments', 'message'),
        [
            ([], 'expected "subcommand"'),
            (['mapp'], "invalid choice: 'mapp'"),
            (['map', 'a.tif'], 'expected the paths of optical and sar, or scenes'),
            (['map', 'no.tif', 'b.tif'], "optical file 'no.tif' does not exist"),
            (['map', 'a.tif', 'b.tif', '--weights', 'x'], "weights 'x' do not exist"),
            (['map', 'a.tif', 'b.tif', '--threshold', '7'], 'threshold is 7'),
            (['map', 'a.tif', 'b.tif', '--data_args.size', '7'], "argument 'size'"),
        ],
    )
    def test_mistakes(
        self, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """The message of a mistake is one line."""
        with pytest.raises(SystemExit) as caught:
            cli.main(arguments)
        assert caught.value.code == 2
        output, errors = capsys.readouterr()
        assert output == ''
        assert errors.startswith('torchgeo-m2cd: error: ')
        assert errors.count('\n') == 1
        assert message in errors

    def test_wrong_units(
        self, scene: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        output = ('--output', str(tmp_path / 'change.tif'))
        with pytest.raises(SystemExit):
            cli.main(['map', *reversed(scene), *output, *PATCHES])
        last = capsys.readouterr().err.splitlines()[-1]
        assert last.startswith('torchgeo-m2cd: error: optical file')
        assert not (tmp_path / 'change.tif').exists()

    @pytest.mark.parametrize(
        ('text', 'expected'),
        [
            ('expected another path, or overwrite=True', ', or --overwrite'),
            ('; check=False takes them', '; --data_args.check false takes them'),
            (
                "expected sar.scale='power' or",
                'expected sar "{paths: FILE, scale: power}" or',
            ),
            (
                'such as optical.nodata=-9.5;',
                'such as optical "{paths: FILE, nodata: -9.5}";',
            ),
            ('sar.bands={VV: 1}', 'sar "{paths: FILE, bands: {VV: 1}}"'),
            ('sar.bands takes its', 'sar "{paths: FILE, bands: ...}" takes its'),
        ],
    )
    def test_words(
        self,
        text: str,
        expected: str,
        monkeypatch: pytest.MonkeyPatch,
        called: dict[str, Any],
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        """Arguments of Python are given as they are typed in the terminal."""

        def fail(**kwargs: Any) -> None:
            raise ValueError(text)

        monkeypatch.setattr(cli, 'predict_scene', fail)
        with pytest.raises(SystemExit):
            cli.main(['map', 'a.tif', 'b.tif'])
        assert expected in capsys.readouterr().err

    def test_debug(self) -> None:
        with pytest.raises(FileNotFoundError, match=r"optical file 'no\.tif'"):
            cli.main(['map', 'no.tif', 'no.tif', '--debug'])

    def test_bug(self, monkeypatch: pytest.MonkeyPatch, called: dict[str, Any]) -> None:
        """A bug keeps its traceback."""

        def bug(**kwargs: Any) -> None:
            raise KeyError('bug')

        monkeypatch.setattr(cli, 'predict_scene', bug)
        with pytest.raises(KeyError, match='bug'):
            cli.main(['map', 'a.tif', 'b.tif'])

    @pytest.mark.parametrize('by_lightning', [False, True])
    def test_interrupt(
        self,
        by_lightning: bool,
        monkeypatch: pytest.MonkeyPatch,
        called: dict[str, Any],
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        """Ctrl-C has the status that shells expect, and the user learns how to go on."""

        def stop(**kwargs: Any) -> None:
            try:
                raise KeyboardInterrupt
            except KeyboardInterrupt:
                if by_lightning:
                    sys.exit(1)
                raise

        monkeypatch.setattr(cli, 'predict_scene', stop)
        with pytest.raises(SystemExit) as caught:
            cli.main(['map', 'a.tif', 'b.tif'])
        assert caught.value.code == 130
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(
            'torchgeo-m2cd: interrupted. Complete rows of patches, if any'
        )
        monkeypatch.setattr(cli, 'predict_scene', lambda **kwargs: sys.exit(3))
        with pytest.raises(SystemExit) as caught:
            cli.main(['map', 'a.tif', 'b.tif'])
        assert caught.value.code == 3
        # While the arguments are read
        monkeypatch.setattr(cli, 'make_parser', Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(SystemExit) as caught:
            cli.main(['map', 'a.tif', 'b.tif'])
        assert caught.value.code == 130
        assert 'It had not begun' in capsys.readouterr().err

    def test_warnings(
        self,
        monkeypatch: pytest.MonkeyPatch,
        called: dict[str, Any],
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        """Warnings of the map are one line each; those of libraries are hidden."""

        def warn(**kwargs: Any) -> None:
            for _ in range(2):
                warnings.warn('units of\nhttps://a:b@c.d/e.tif', stacklevel=1)
            warnings.warn('old', DeprecationWarning, stacklevel=1)
            path = str(Path(lightning.pytorch.__file__).with_name('a.py'))
            warnings.warn_explicit('advice', UserWarning, path, 1)

        monkeypatch.setattr(cli, 'predict_scene', warn)
        warnings.simplefilter('always')
        cli.main(['map', 'a.tif', 'b.tif'])
        errors = capsys.readouterr().err
        assert errors == 'torchgeo-m2cd: warning: units of https://c.d/e.tif\n'

    def test_help(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The help fits a screen, without markup of Sphinx or type hints."""
        monkeypatch.setenv('COLUMNS', '100')
        with pytest.raises(SystemExit):
            cli.main(['map', '--help'])
        text = capsys.readouterr().out
        assert len(text.splitlines()) <= 40
        assert not {':class:', '``', 'type:'} & set(text.split())
        for name in MapOptions.__annotations__:
            assert f'--{name}' in text
        assert '(default: change.tif)' in text


@pytest.mark.parametrize('command', cli.TASK_COMMANDS)
def test_help_of_tasks(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The short help fits a screen and is a part of the whole help."""
    with pytest.raises(SystemExit):
        cli.main([command, '--help'])
    text = capsys.readouterr().out
    assert len(text.splitlines()) <= 24
    with pytest.raises(SystemExit):
        TaskCLI([command, '--help'])
    everything = capsys.readouterr().out
    for option in re.findall(r'^  (--[\w.]+)', text, re.MULTILINE):
        assert option in everything or option == '--debug'


class TestWeights:
    def test_table(self, capsys: pytest.CaptureFixture[str]) -> None:
        cli.main(['weights'])
        lines = capsys.readouterr().out.splitlines()
        assert max(map(len, lines)) <= 100
        for weights in M2CD_Weights.__members__.values():
            assert any(line.startswith(str(weights)) for line in lines)
            meta: dict[str, Any] = weights.meta
            for split, figure in meta['figures'].items():
                assert any(
                    {split, f'{figure["IoU"]:.2f}'} <= set(line.split())
                    for line in lines
                )
        assert f'{M2CD_Weights.DEFAULT}, the default: ' in '\n'.join(lines)
        assert M2CD_Weights.DEFAULT.name == DEFAULT


@pytest.mark.parametrize('command', [['--help'], ['weights'], ['map', '--help']])
def test_start(command: list[str]) -> None:
    """Help does not import the slow libraries that only commands need."""
    code = f"""
import sys
from torchgeo_m2cd import cli
try:
    cli.main({command})
except SystemExit:
    pass
slow = {{'geopandas', 'lightning', 'matplotlib', 'pandas', 'rasterio', 'torch', 'torchgeo'}}
sys.exit(str(found) if (found := slow & sys.modules.keys()) else 0)
"""
    run = [sys.executable, '-c', code]
    result = subprocess.run(run, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize('package', ['datasets', 'maps', 'predict'])
def test_lazy_packages(package: str) -> None:
    """Lazy packages export the names of their stubs and no others."""
    module = importlib.import_module(f'torchgeo_m2cd.{package}')
    assert module.__file__ is not None
    stub = ast.parse(Path(module.__file__).with_suffix('.pyi').read_text())
    (names,) = (node.value for node in stub.body if isinstance(node, ast.Assign))
    assert dir(module) == sorted(ast.literal_eval(names))
    for name in dir(module):
        assert getattr(module, name).__module__.startswith(module.__name__)


def test_task_commands() -> None:
    assert set(cli.TASK_COMMANDS) == TaskCLI.subcommands().keys()


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(['--version'])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f'torchgeo-m2cd {torchgeo_m2cd.__version__}\n'


def test_console_script() -> None:
    root = Path(__file__).parents[1]
    project = tomllib.loads((root / 'pyproject.toml').read_text())['project']
    value = project['scripts']['torchgeo-m2cd']
    assert EntryPoint('torchgeo-m2cd', value, 'console_scripts').load() is cli.main


@pytest.mark.slow
def test_process() -> None:
    """A process exits with the status of a mistake, without a traceback."""
    command = [sys.executable, '-m', 'torchgeo_m2cd.cli', 'map', 'a.tif', 'no.tif']
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert 'Traceback' not in result.stderr
