# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from torchmetrics.classification import BinaryConfusionMatrix, BinaryJaccardIndex

from benchmarks import compare, report
from tests.data.ombria.data import arrays, make_ombria


@pytest.fixture
def matrix(tmp_path: Path) -> dict[str, Any]:
    make_ombria(tmp_path / 'data')
    return {
        'config': 'ombria',
        'arguments': {
            'data.root': str(tmp_path / 'data'),
            'data.batch_size': 2,
            'data.patch_size': None,
            'data.augmentation': None,
            'data.inputs': {
                'class_path': 'torchgeo_m2cd.transforms.Inputs',
                'init_args': {
                    'optical': {
                        'class_path': 'torchgeo_m2cd.transforms.LeftOut',
                        'init_args': {'bands': 3},
                    },
                    'sar': {
                        'class_path': 'torchgeo_m2cd.transforms.Standardize',
                        'init_args': {'mean': [150], 'std': [50]},
                    },
                },
            },
        },
        'datasets': {'OMBRIA': {'splits': ['test', 'albania']}},
        'models': {'Otsu': {'threshold': 'otsu', 'seeds': [1]}},
        'seeds': [0, 1],
    }


def write(matrix: dict[str, Any], tmp_path: Path) -> Path:
    path = tmp_path / 'matrix.yaml'
    path.write_text(yaml.safe_dump(matrix, sort_keys=False))
    return path


class TestReadMatrix:
    def test_cells(self, matrix: dict[str, Any], tmp_path: Path) -> None:
        matrix['models']['M²CD, MoE'] = {'arguments': {'data.batch_size': 4}}
        cells = compare.read_matrix(write(matrix, tmp_path), tmp_path / 'out')
        assert [(cell.model, cell.seed) for cell in cells] == [
            ('M²CD, MoE', 0),
            ('Otsu', 1),
            ('M²CD, MoE', 1),
        ]
        assert cells[0].path == tmp_path / 'out' / 'ombria' / 'm2cd-moe' / '0'
        assert cells[0].arguments['data.batch_size'] == 4
        assert cells[1].arguments['data.batch_size'] == 2
        assert '--data.batch_size=4' in compare.fit_arguments(cells[0])
        assert '--seed_everything=0' in compare.fit_arguments(cells[0])
        # More of them than all others have
        matrix['models']['Otsu']['seeds'] = [1, 7]
        cells = compare.read_matrix(write(matrix, tmp_path), tmp_path / 'out')
        assert [(cell.model, cell.seed) for cell in cells[3:]] == [('Otsu', 7)]

    def test_goes_on(self, matrix: dict[str, Any], tmp_path: Path) -> None:
        matrix['models'] = {'U-Net': None}
        cell, _ = compare.read_matrix(write(matrix, tmp_path), tmp_path)
        last = cell.path / 'fit' / 'checkpoints' / 'last.ckpt'
        last.parent.mkdir(parents=True)
        assert not any('ckpt_path' in a for a in compare.fit_arguments(cell))
        last.touch()
        assert f'--ckpt_path={last}' in compare.fit_arguments(cell)

    @pytest.mark.parametrize(
        ('key', 'match'), [('model', 'models'), ('seed', 'seeds'), ('x', 'config')]
    )
    def test_unknown_key(
        self, matrix: dict[str, Any], tmp_path: Path, key: str, match: str
    ) -> None:
        matrix[key] = {}
        with pytest.raises(ValueError, match=f"unknown key '{key}'.*{match}"):
            compare.read_matrix(write(matrix, tmp_path), tmp_path)

    def test_same_name(self, matrix: dict[str, Any], tmp_path: Path) -> None:
        matrix['models'] = {'U-Net': None, 'u net': None}
        with pytest.raises(ValueError, match='differ in punctuation only'):
            compare.read_matrix(write(matrix, tmp_path), tmp_path)

    def test_after_no_model(self, matrix: dict[str, Any], tmp_path: Path) -> None:
        matrix['models'] = {'a': {'after': 'U-Nt'}, 'U-Net': None}
        with pytest.raises(
            ValueError, match="unknown after 'U-Nt', did you mean 'U-Net'"
        ):
            compare.read_matrix(write(matrix, tmp_path), tmp_path)


def smooth(image: np.ndarray) -> np.ndarray:
    """Gaussian filter along the rows, standard deviation 2, 9 pixels."""
    kernel = np.exp(-(np.arange(-4, 5) ** 2) / 8)
    padded = np.pad(image, ((0, 0), (4, 4)), mode='reflect')
    rows = [np.convolve(row, kernel / kernel.sum(), mode='valid') for row in padded]
    return np.stack(rows)


class TestThresholds:
    def test_otsu(self, matrix: dict[str, Any], tmp_path: Path) -> None:
        path, output = write(matrix, tmp_path), tmp_path / 'out'
        assert compare.main([str(path), str(output)]) == 0
        counts = pd.read_csv(output / 'counts.csv')
        assert list(counts['chip']) == [
            *('S1_mask_0013', 'S1_mask_0770'),
            *('gt_1', 'gt_2', 'gt_10'),
        ]
        # Every value from 0 to 255 is as frequent in a chip: half of it is dark
        total = counts[list(compare.COUNTS)].sum(axis=1)
        assert (total == 64).all()
        assert (counts['tp'] + counts['fp']).between(24, 40).all()
        assert counts['versions'].str.contains('torchgeo ').all()
        # Once more: nothing is done, and no commit becomes a number
        (finished,) = (output / 'ombria').glob('*/1/counts.csv')
        one = pd.read_csv(finished).assign(commit='7e20829')
        one.to_csv(finished, index=False)
        before = finished.stat().st_mtime_ns
        assert compare.main([str(path), str(output)]) == 0
        assert finished.stat().st_mtime_ns == before
        assert set(pd.read_csv(output / 'counts.csv', dtype=str)['commit']) == {
            '7e20829'
        }
        # Of other arguments: refused
        matrix['arguments']['data.batch_size'] = 1
        assert compare.main([str(write(matrix, tmp_path)), str(output)]) == 1

    def test_best(self) -> None:
        sar = torch.tensor([[10.0, 20.0, 30.0, 200.0]]).expand(2, 3, 1, 4)
        flood, none = torch.tensor([[[1, 1, 0, 255]]]), torch.zeros(1, 1, 4).long()
        samples = [{'image': sar, 'mask': mask} for mask in (flood, none)]
        assert compare.best_threshold(samples[:1]) == 20
        assert compare.best_threshold(samples) == 20
        assert compare.best_threshold(samples[1:]) == -1

    def test_darkness(self) -> None:
        # Land, water before, flood, and flood that SAR doesn't show
        sar = torch.tensor([[200.0, 10, 10, 200]]).expand(3, 1, 4)
        optical = torch.tensor([[90.0, 7, 80, 80]]).expand(3, 1, 4)
        sample = {'image': torch.stack([optical, sar])}
        sample['mask'] = torch.tensor([[[0, 0, 1, 1]]])
        assert compare.best_darkness([sample]) == 7
        sample['mask'] = torch.tensor([[[0, 1, 1, 1]]])
        assert compare.best_darkness([sample]) == 0

    @pytest.mark.parametrize('kind', ['global', 'change', 'oracle', 'smooth-oracle'])
    def test_kinds(self, matrix: dict[str, Any], tmp_path: Path, kind: str) -> None:
        matrix['models'] = {kind: {'threshold': kind, 'seeds': [0]}}
        output = tmp_path / 'out'
        assert compare.main([str(write(matrix, tmp_path)), str(output)]) == 0
        counts = pd.read_csv(output / 'counts.csv')
        for chip in counts.itertuples():
            number = int(str(chip.chip).split('_')[-1])
            _, sar, mask = arrays(number)
            if kind == 'smooth-oracle':
                sar = smooth(smooth(sar.astype(float)).T).T.round()
            best = max(
                (sar <= t)[mask > 0].sum() / ((sar <= t) | (mask > 0)).sum()
                for t in range(256)
            )
            iou = chip.tp / (chip.tp + chip.fp + chip.fn)
            assert iou == pytest.approx(best) if 'oracle' in kind else iou <= best


def test_trained_cell(matrix: dict[str, Any], tmp_path: Path) -> None:
    matrix['models'] = {
        'FCN': {
            'variants': ['optical swapped', 'orientations averaged'],
            'arguments': {
                'trainer.max_epochs': 1,
                'trainer.accelerator': 'cpu',
                'model.model': 'fcn',
                'data.inputs': None,
            },
        }
    }
    # Named first, but there is nothing yet for it to start from
    second = {'arguments': matrix['models']['FCN']['arguments'], 'after': 'FCN'}
    matrix['models'] = {'FCN, second stage': second, **matrix['models']}
    matrix['seeds'] = [3]
    path, output = write(matrix, tmp_path), tmp_path / 'out'
    assert compare.main([str(path), str(output)]) == 0
    counts = pd.read_csv(output / 'counts.csv')
    models = [
        *('FCN, second stage', 'FCN'),
        *('FCN, optical swapped', 'FCN, orientations averaged'),
    ]
    assert list(dict.fromkeys(counts['model'])) == models
    assert set(counts['seed']) == {3}
    cells = compare.read_matrix(path, output)
    config = yaml.safe_load((cells[0].path / 'fit' / 'config.yaml').read_text())
    first = compare.best_checkpoint(cells[1].path)
    assert config['model']['init_args']['init_from'] == str(first)
    # A score that TorchMetrics did not give is found
    assert report.check(cells) < 1e-3
    scores = json.loads((cells[0].path / 'scores.json').read_text())
    scores['albania']['test_IoU'] += 0.1
    (cells[0].path / 'scores.json').write_text(json.dumps(scores))
    with pytest.raises(ValueError, match=r'IoU differs by 0\.1'):
        report.check(cells)
    scores['albania']['test_IoU'] -= 0.1
    (cells[0].path / 'scores.json').write_text(json.dumps(scores))
    report.main([str(path), str(output), str(tmp_path / 'o'), '--events', 'albania'])
    names = {file.name for file in tmp_path.glob('o*') if file.is_file()}
    assert {'o.csv', 'o.md', 'o.tex', 'o-iou.svg', 'o-chips.png'} <= names
    table = pd.read_csv(tmp_path / 'o.csv')
    levels = pd.read_csv(tmp_path / 'o-levels.csv')
    assert list(levels)[-2:] == ['albania', 'albania gain']
    assert list(table['model']) == models
    assert list(table['mean of albania']) == list(table['albania'])


def test_average_orientations() -> None:
    class Corner:
        """Sees the upper left pixel alone."""

        def predict_step(self, batch: dict[str, torch.Tensor], _: int) -> torch.Tensor:
            output = torch.zeros_like(batch['image'][:, 0])
            output[..., 0, 0] = batch['image'][:, 0, ..., 0, 0]
            return output

    image = torch.arange(16.0).reshape(1, 1, 1, 4, 4)
    output = compare.average_orientations(Corner(), {'image': image})  # type: ignore[arg-type]
    corners = torch.zeros(4, 4)
    for row, column in ((0, 0), (0, 3), (3, 0), (3, 3)):
        corners[row, column] = image[0, 0, 0, row, column] / 4
    torch.testing.assert_close(output[0, 0], corners)


def test_failing_cell(
    matrix: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    matrix['arguments']['data.root'] = str(tmp_path / 'nowhere')
    assert compare.main([str(write(matrix, tmp_path)), str(tmp_path / 'out')]) == 1
    assert 'exit code 1' in capsys.readouterr().out
    assert not (tmp_path / 'out' / 'counts.csv').exists()


def test_count_and_iou() -> None:
    rng = np.random.default_rng(0)
    probability = rng.integers(256, size=(40, 50)).astype(np.uint8)
    mask = rng.choice([0, 1, 255], size=(40, 50)).astype(np.uint8)
    counts = compare.count(probability, mask)
    p, m = torch.from_numpy(probability >= 128).int(), torch.from_numpy(mask).int()
    expected = BinaryConfusionMatrix(ignore_index=255)(p, m)
    assert expected.tolist() == [
        [counts['tn'], counts['fp']],
        [counts['fn'], counts['tp']],
    ]
    jaccard = BinaryJaccardIndex(ignore_index=255)(p, m)
    values = np.array([counts[name] for name in compare.COUNTS])
    assert report.iou(values) == pytest.approx(jaccard.item())


def test_difference() -> None:
    """Models that err on the same chips differ by what they are apart, for sure."""
    rows = []
    for chip, right in enumerate(np.random.default_rng(0).integers(1, 60, 40)):
        for model, more in (('base', 0), ('better', 20), ('better still', 40)):
            for split in ('a', 'b'):
                outcome = {
                    'tp': right + more,
                    'fp': 100 - right - more,
                    'fn': 0,
                    'tn': 5,
                }
                where = {'dataset': 'D', 'split': split, 'model': model, 'seed': 0}
                rows.append({**where, 'chip': chip, **outcome})
    scores = report.summarize(pd.DataFrame(rows), ['a', 'b'], 'base')
    minus = scores[scores['split'] == 'minus base'].set_index('model')
    for name, expected in (('base', 0), ('better', 0.2), ('better still', 0.4)):
        for column in ('IoU', 'low', 'high'):
            assert minus.loc[name, column] == pytest.approx(expected)
    mean = scores[scores['split'] == 'mean of a, b']
    assert (mean['high'] - mean['low'] > 0.05).all()
    with pytest.raises(
        ValueError, match="unknown reference 'bas', did you mean 'base'"
    ):
        report.summarize(pd.DataFrame(rows), ['a', 'b'], 'bas')


def test_sort_by_share() -> None:
    """Chips of 100 pixels, by how many of them are flooded."""
    flooded = [5, 40, 10, 0, 29, 30, 100]
    rows = [
        {
            'dataset': 'D', 'split': 'a', 'model': 'm', 'seed': 0, 'chip': chip,
            'tp': flood - flood // 2, 'fn': flood // 2, 'fp': 0, 'tn': 100 - flood,
        }
        for chip, flood in enumerate(flooded)
    ]  # fmt: skip
    table = report.sort_by_share(pd.DataFrame(rows), [0.1, 0.3])
    found = {split: list(part['chip']) for split, part in table.groupby('split')}
    assert found == {
        'flooded 0 to 0.1': [0, 3],
        'flooded 0.1 to 0.3': [2, 4],
        'flooded 0.3 to 1': [1, 5, 6],
    }


def test_best_levels(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    cells = []
    for seed in (0, 1):
        mask = rng.choice([0, 1, 255], size=(3, 20, 20)).astype(np.uint8)
        # Too sure of no flood
        probability = (mask == 1) * 50 + rng.integers(90, size=mask.shape)
        folder = tmp_path / str(seed)
        (folder / 'predictions').mkdir(parents=True)
        np.savez(
            folder / 'predictions' / 'a.npz',
            probability=probability.astype(np.uint8),
            mask=mask,
        )
        cells.append(compare.Cell(str(folder), 'D', 'model', seed, 'ombria', {}, ['a']))
    files = [np.load(cell.path / 'predictions' / 'a.npz') for cell in cells]
    p, m = (
        torch.from_numpy(np.stack([file[key] for file in files]))
        for key in ('probability', 'mask')
    )
    scores = [
        BinaryJaccardIndex(ignore_index=255)((p >= level).int(), m.int()).item()
        for level in range(256)
    ]
    best = int(np.argmax(scores))
    table = report.best_levels(cells)
    assert table.to_dict('records') == [
        {
            'model': 'model',
            'a': f'{scores[best]:.3f} at {best / 255:.2f}',
            'a gain': f'{scores[best] - scores[128]:.3f}',
        }
    ]
    assert 40 < best < 128


def test_bootstrap() -> None:
    # Chips of IoU 1 and 0, of one size: the mean of draws is binomial
    counts = np.zeros((1, 100, 4))
    counts[0, :50, 0] = counts[0, 50:, 1] = 10
    draws = report.bootstrap(counts)
    assert draws.mean() == pytest.approx(0.5, abs=0.01)
    assert draws.std() == pytest.approx(0.05, rel=0.1)
    # Two seeds, one always right: half of the draws of seeds are not mixed
    counts = np.zeros((2, 3, 4))
    counts[0, :, 0] = counts[1, :, 1] = 10
    draws = report.bootstrap(counts)
    assert {round(float(v), 3) for v in draws} == {0.0, 0.5, 1.0}
    assert (draws == 0.5).mean() == pytest.approx(0.5, abs=0.05)
