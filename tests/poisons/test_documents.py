"""The example of docs/adding-a-poison.md runs as it stands."""

import re
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch

from safezone.concepts import Concept, save_concept
from safezone.models import BUILTIN, builtin_folder
from tiny import write_tiny_folder

DOCUMENT = Path(__file__).parents[2] / "docs" / "adding-a-poison.md"


def test_the_example_is_short_and_makes_a_poison(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    assert len([line for line in example.splitlines() if line.strip()]) <= 20
    assert "mini" in BUILTIN
    assert builtin_folder("mini").is_dir()
    write_tiny_folder(tmp_path / "mini")  # the example's model would take longer
    monkeypatch.chdir(tmp_path)
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    save_concept(
        Concept(
            name="HattedMug",
            class_word="mug",
            images=(images * 255).to(torch.uint8),
            image_names=("0",),
        ),
        tmp_path / "concepts" / "HattedMug",
    )
    script = example.replace('"mini"', '"./mini"')
    (tmp_path / "example.py").write_text(script)
    found: dict[str, Any] = runpy.run_path(str(tmp_path / "example.py"))
    before, after = (found[name].pixels() for name in ("concept", "poisoned"))
    contrast = [
        found["latent_contrast"](found["model"], images, [], WeighNothing())
        for images in (before, after)
    ]
    assert contrast[1] < 0.98 * contrast[0]
    assert 0 < (after - before).abs().max() <= 16.01 / 255
    assert "tensor" in capsys.readouterr().out


class WeighNothing:
    """A guide without a mask."""

    @staticmethod
    def weigh(error: torch.Tensor, factor: int) -> torch.Tensor:
        return error
