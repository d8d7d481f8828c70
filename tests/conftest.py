"""Shared fixtures: one tiny model for the whole session, one thread, no network."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent))

import jaxtyping
import pytest
import torch

from shapes import checked_modules

jaxtyping.install_import_hook(checked_modules(), "shapes.check_shapes")  # before their import

from safezone.models import Model, load_model  # noqa: E402
from tiny import write_tiny_folder  # noqa: E402

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A diffusers folder with random weights: 64 x 64 pixels, f = 8, epsilon prediction."""
    return write_tiny_folder(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def tiny_model(tiny_model_folder: Path) -> Model:
    """The folder above, loaded by ``load_model`` on the CPU in float32."""
    return load_model(tiny_model_folder)


@pytest.fixture
def unchecked_shapes() -> Iterator[None]:
    """For what the package itself says of wrong shapes, which tests otherwise never reach."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
