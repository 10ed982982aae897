# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

import sys
from pathlib import Path

import pytest

from benchmarks.routing import main

TABLE = """\
epoch,step,split,stage,path,expert,quantity,value
0,5,val,3,optical,0,share,0.5
0,5,val,3,optical,1,share,0.5
0,5,val,3,sar,0,share,0.5
0,5,val,3,sar,1,share,0.5
0,5,val,3,,,mutual_information,0.0
1,10,train,3,optical,0,share,0.9
1,10,train,3,optical,1,share,0.1
1,10,train,3,sar,0,share,0.9
1,10,train,3,sar,1,share,0.1
1,10,train,3,simulated,0,share,0.4
1,10,train,3,simulated,1,share,0.6
1,10,train,3,,,mutual_information,0.0
1,10,val,3,optical,0,share,1.0
1,10,val,3,optical,1,share,0.0
1,10,val,3,sar,0,share,0.25
1,10,val,3,sar,1,share,0.75
1,10,val,3,,,mutual_information,0.548795
"""


def test_main(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = TABLE.splitlines(keepends=True)
    without = [line for line in lines if ',simulated,' not in line]
    (tmp_path / 'm2cd.csv').write_text(TABLE)
    (tmp_path / 'plain.csv').write_text(''.join(without))
    output = tmp_path / 'new' / 'routing'
    tables = [str(tmp_path / name) for name in ('m2cd.csv', 'plain.csv')]
    monkeypatch.setattr(sys, 'argv', ['routing', *tables, '--output', str(output)])
    main()
    assert output.with_suffix('.md').read_text().splitlines()[2:] == [
        '| m2cd | 3 | 100 / 0 | 25 / 75 | 40 / 60 | 0.549 |',
        '| plain | 3 | 100 / 0 | 25 / 75 |  | 0.549 |',
    ]
    assert {path.name for path in output.parent.iterdir()} == {
        'routing.csv',
        'routing.md',
        'routing-m2cd.png',
        'routing-plain.png',
        'routing-training.png',
    }
