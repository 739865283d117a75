from __future__ import annotations

import re
from pathlib import Path

import pytest

from include.run_params import run_params
from include.settings import Settings


@pytest.mark.parametrize("name", ["architecture", "epochs"])
def test_the_form_starts_with_the_scripts_own_default(root: Path, name: str) -> None:
    script = (root / "include" / "ml" / "train.py").read_text()
    [default] = re.findall(rf'add_argument\("--{name}", .*default="?(\w+)"?\)', script)
    assert str(run_params(Settings())[name].value) == default
