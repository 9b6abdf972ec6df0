"""Every type of the catalogue through the shell: locked, audited, the lock taken off again, merged, as users do it."""

from pathlib import Path

import pytest

from redteam.anatomy.catalog import ARCHITECTURES, FOLDER
from redteam.symmetry.certificate import EXACT
from tools.commands import through_the_shell

TYPES = sorted(file.stem for file in FOLDER.glob("*.json"))
QUICK = ("llama", "granitemoe", "deepseek_v3")


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in QUICK else [pytest.mark.slow]) for n in TYPES])
def test_every_command_does_what_the_table_says(name: str, tmp_path: Path) -> None:
    told, found = ARCHITECTURES.data(name)["commands"], through_the_shell(name, tmp_path)
    assert found["lock"] == told["lock"]
    for command in ("protect", "attack", "merge"):
        assert max(found[command], told[command]) <= EXACT
    assert found["nearness"] == pytest.approx(told["nearness"], abs=0.01)
    assert told["nearness"] <= 1.01, "no further from the base than the model was before it was locked"
    locked, there, others = found["audit"]
    assert found["audit"] == told["audit"]
    assert (locked, others) == (there, 0)
