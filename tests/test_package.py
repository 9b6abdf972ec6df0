"""What `redteam` exports is there, is documented, and costs nothing until it is used."""

import subprocess
import sys

import pytest

import redteam


@pytest.mark.parametrize("name", redteam.__all__)
def test_every_exported_name_is_there_and_documented(name: str) -> None:
    assert getattr(redteam, name).__doc__


def test_the_list_of_names_and_their_homes_agree() -> None:
    assert sorted(redteam._HOME) == sorted(redteam.__all__) == dir(redteam)


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'nothing'"):
        redteam.nothing  # noqa: B018


def test_importing_the_package_imports_no_torch() -> None:
    code = "import redteam, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
