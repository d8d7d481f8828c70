"""The example of docs/adding-a-defense.md runs, and is as short as it claims to be."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from safezone.concepts import Concept
from safezone.defenses import AtLeast, Defense, defend, defense
from safezone.errors import UserError

PAGE = Path(__file__).parents[2] / "docs" / "adding-a-defense.md"


def test_the_example_is_a_defense_of_at_most_20_lines() -> None:
    code, row = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(code.splitlines()) <= 20
    names: dict[str, Any] = {"__name__": "example", "Defense": Defense, "defense": defense}
    exec(compile(code, str(PAGE), "exec"), names)
    name = row.split("\n\n")[1].strip()
    assert f'`{name} + defense("t600")`' in PAGE.read_text()
    faded = eval(f'{name} + defense("t600")', names)
    assert isinstance(faded, Defense)
    assert faded.name == "fade+t600"
    assert faded.timesteps == AtLeast(0.6)
    images = torch.tensor([0, 255], dtype=torch.uint8).repeat(1, 3, 8, 4)
    concept = Concept(name="Toy", class_word="toy", images=images, image_names=("a",))
    assert defend(concept, faded, 0).images.unique().tolist() == [38, 217]
    with pytest.raises(UserError, match="fade"):
        names["Fade"](share=2)
