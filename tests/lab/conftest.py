"""The small lab, in a folder of the test's own."""

from pathlib import Path

import pytest

from safezone.lab.lab import Lab
from safezone.models import Model
from small_lab import small_lab


@pytest.fixture
def lab(tmp_path: Path, tiny_model: Model) -> Lab:
    return small_lab(tmp_path / "work", tiny_model)
