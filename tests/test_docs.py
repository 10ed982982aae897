# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""What the documentation tells users to type."""

import doctest
import importlib
import re
import runpy
import shlex
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
import torchgeo.main
from lightning.pytorch import Trainer

from benchmarks.matrix import read_matrix
from tests.models.test_m2cd import untraced
from torchgeo_m2cd import cli
from torchgeo_m2cd.configs import config_path
from torchgeo_m2cd.datamodules import SyntheticFloodDataModule
from torchgeo_m2cd.tasks import ChangeDetectionTask

ROOT = Path(__file__).parents[1]
RECIPES = ROOT / 'docs' / 'user' / 'recipes.rst'

# Modules and pages with examples
EXAMPLES = sorted(
    path
    for pattern in ('torchgeo_m2cd/**/*.py', 'docs/api/*.rst')
    for path in ROOT.glob(pattern)
    if '>>> ' in path.read_text()
)


def find_blocks(path: Path, language: str) -> list[str]:
    """Find the code blocks of a page in one language."""
    pattern = rf'^\.\. code-block:: {language}\n\n((?:(?:   .*)?\n)+)'
    blocks = re.findall(pattern, path.read_text(), flags=re.MULTILINE)
    return [textwrap.dedent(block).strip() for block in blocks]


def find_commands(path: Path) -> list[list[str]]:
    """Find the commands of a page, split into words."""
    lines = '\n'.join(find_blocks(path, 'console')).replace('\\\n', '').splitlines()
    return [shlex.split(line.removeprefix('$ ')) for line in lines]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make the folder in which the recipes are followed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    # Other tests must not see the classes that a recipe defines
    monkeypatch.delitem(sys.modules, 'steps', raising=False)
    Path('mine.yaml').write_text(config_path('ombria').read_text())
    return tmp_path


@pytest.mark.parametrize('path', EXAMPLES, ids=lambda path: str(path.relative_to(ROOT)))
def test_examples(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The examples of the API print the output that they show."""
    monkeypatch.chdir(tmp_path)
    flags = doctest.ELLIPSIS
    if path.suffix == '.rst':
        results = doctest.testfile(str(path), module_relative=False, optionflags=flags)
    else:
        name = '.'.join(path.relative_to(ROOT).with_suffix('').parts)
        module = importlib.import_module(name)
        results = doctest.testmod(module, globs={}, optionflags=flags)
    assert results.attempted > 2
    assert results.failed == 0


@pytest.mark.parametrize('path', sorted(ROOT.glob('*.md')), ids=lambda path: path.name)
def test_links(path: Path) -> None:
    """The files and headings that a page links to exist."""
    for link in re.findall(r'\]\((?!https?:)([^)]+)\)', path.read_text()):
        file, _, anchor = link.partition('#')
        text = (ROOT / file).read_bytes().decode(errors='ignore')
        titles = {re.sub(r'\W+', '-', line.lower()) for line in text.splitlines()}
        assert not anchor or anchor in titles


def test_hash_of_package(tmp_path: Path) -> None:
    """Tutorials run again if any file of the package has changed, or has another name."""
    hash_package = runpy.run_path(str(ROOT / 'docs' / 'run_tutorials.py'))[
        'hash_package'
    ]
    config = tmp_path / 'configs' / 'a.yaml'
    config.parent.mkdir()
    digests = []
    for text in ('a', 'b'):
        config.write_text(text)
        digests.append(hash_package(tmp_path))
    config = config.rename(config.with_name('b.yaml'))
    digests.append(hash_package(tmp_path))
    assert len({*digests}) == 3
    (tmp_path / '__pycache__').mkdir()
    (tmp_path / '__pycache__' / 'a.pyc').write_text('a')
    assert hash_package(tmp_path) == digests[-1]


@pytest.mark.slow
class TestRecipes:
    def test_python(self, folder: Path) -> None:
        datamodule = SyntheticFloodDataModule(
            batch_size=2, length=2, eval_length=2, size=64
        )
        task = ChangeDetectionTask(
            'm2cd', 'resnet18', in_channels=4, model_args={'experts': None}
        )
        trainer = Trainer(
            accelerator='cpu', logger=False, enable_checkpointing=False,
            enable_progress_bar=False, fast_dev_run=True,
        )  # fmt: skip
        trainer.fit(task, datamodule)
        trainer.save_checkpoint('best.ckpt')
        namespace: dict[str, Any] = {
            'optical': torch.rand(4, 64, 64) * 5000,
            'sar': -20 * torch.rand(1, 64, 64),
        }
        for block in find_blocks(RECIPES, 'python'):
            Path('block.py').write_text(block)
            with untraced():  # One of them exports a model
                namespace |= runpy.run_path('block.py', namespace)
        assert namespace['probability'].shape == (64, 64)
        assert Path('flood.onnx').exists()
        image = torch.tensor([[[[8.0]], [[3.0]]]])
        shown = namespace['Ratio']()(image, torch.empty(1, 0, 1, 1))
        assert shown.tolist() == [[[[2.0]]]]

    def test_commands(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (step,) = (b for b in find_blocks(RECIPES, 'python') if 'InputStep' in b)
        Path('steps.py').write_text(step)
        commands = find_commands(RECIPES)
        for words in commands:
            if words[0].startswith('PYTHONPATH='):
                words = words[1:]
            match words[0], words[1]:
                case 'torchgeo' | 'torchgeo-m2cd', 'fit' | 'predict':
                    with pytest.raises(SystemExit, match='0'):
                        torchgeo.main.main([*words[1:], '--print_config'])
                    assert 'class_path' in capsys.readouterr().out
                case 'torchgeo-m2cd', 'map':
                    cli.make_parser().parse_args(words[1:])
                case 'python', '-m':
                    assert words[2] in ('benchmarks.compare', 'benchmarks.report')
                case _:
                    pytest.fail(f'{words} is not tested')
        assert len(commands) > 8

    def test_matrix(self, folder: Path) -> None:
        (matrix,) = find_blocks(RECIPES, 'yaml')
        Path('matrix.yaml').write_text(matrix)
        cells = read_matrix(Path('matrix.yaml'), folder / 'output')
        assert len(cells) == 7
