"""The pages of docs/adding-*.md to the letter: one file and one row in a copy of the package."""

import ast
import json
import re
import shlex
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

import safezone
from processes import run, run_pytest
from safezone.arrays import randn, stream
from safezone.errors import UserError
from safezone.models import Model, load_model
from tiny import write_tiny_folder
from training import __main__ as training

DOCS = Path(__file__).parents[1] / "docs"
SOURCE = Path(safezone.__file__).parent
WEIGHTS = Path("models", "weights")


def _blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)


def _elements(node: Any) -> Any:
    """The literal inside ``MappingProxyType({...})`` and ``{... for row in (...)}``."""
    if isinstance(node, ast.Call):
        return _elements(node.args[0])
    return node.generators[0].iter if isinstance(node, ast.DictComp) else node


def _add_row(source: str, table: str, block: str) -> str:
    """The module with the block's imports above its table and the block's row at its end."""
    imports, row = block.split("\n\n", 1)
    for node in ast.parse(source).body:
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        if isinstance(target, ast.Name) and target.id == table:
            break
    else:
        raise AssertionError(f"there is no table {table}")
    literal = _elements(node.value)  # type: ignore[attr-defined]
    lines = source.splitlines(keepends=True)
    end = sum(map(len, lines[: literal.end_lineno - 1])) + literal.end_col_offset - 1
    head, tail = source[:end].rstrip().rstrip(","), source[end:]
    start = sum(map(len, lines[: node.lineno - 1]))
    return f"{head[:start]}{imports}\n{head[start:]},\n{row.strip()},\n{tail}"


@dataclass(frozen=True)
class Page:
    """A page's file and row: where they go, and the claim's options that use them.

    ``prediction``: what the network of the claim's model gives.
    """

    name: str
    file: str
    table: str
    module: str
    options: tuple[str, ...]
    made: Callable[[Path], bool]
    prediction: str = "epsilon"


def _row_of(out: Path, **cell: str) -> bool:
    rows = [json.loads(line) for line in (out / "rows.jsonl").read_text().splitlines()]
    return any(cell.items() <= row.items() and row["value"] is not None for row in rows)


PAGES = (
    Page(
        "adding-a-poison.md",
        "poisons/flatten.py",
        "_ROWS",
        "poisons/table.py",
        ("--poison", "flatten"),
        lambda out: _row_of(out, poison="flatten"),
    ),
    Page(
        "adding-a-defense.md",
        "defenses/fade.py",
        "DEFENSES",
        "defenses/table.py",
        ("--defense", "fade+t600"),
        lambda out: _row_of(out, defense="fade+t600"),
    ),
    Page(
        "adding-a-method.md",
        "personalize/values_only.py",
        "METHODS",
        "personalize/__init__.py",
        ("--method", "values-only"),
        lambda out: _row_of(out, method="values only"),
    ),
    Page(
        "adding-a-stage.md",
        "lab/sharpness.py",
        "STAGES",
        "lab/stage.py",
        (),
        lambda out: (
            all(
                0 < step < 255
                for path in (out / "work").glob("sharpness/*/sharpness.json")
                for step in json.loads(path.read_text())["sharpness"].values()
            )
            and any((out / "work").glob("sharpness/*/sharpness.json"))
        ),
    ),
    Page(
        "adding-a-model.md",
        "models/sample.py",
        "PROCESSES",
        "models/schedulers.py",
        (),
        lambda out: all(_row_of(out, model="sample", poison=name) for name in ("clean", "ea")),
        prediction="sample",
    ),
)
PER_PAGE = pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])


@pytest.fixture
def copy(tmp_path: Path, page: Page) -> Path:
    """The package with the page's file and row."""
    folder = tmp_path / "copy" / "safezone"
    shutil.copytree(SOURCE, folder, ignore=shutil.ignore_patterns("weights"))
    (folder / WEIGHTS).symlink_to(SOURCE / WEIGHTS)
    blocks = _blocks(page.name)
    (folder / page.file).write_text(blocks[0])
    module = folder / page.module
    row = next(each for each in blocks[1:] if each.startswith(f"from safezone.{_dotted(page)}"))
    module.write_text(_add_row(module.read_text(), page.table, row))
    return folder.parent


def _dotted(page: Page) -> str:
    return page.file.removesuffix(".py").replace("/", ".")


def _safezone(package: Path, *arguments: str) -> str:
    done = run(package, *arguments)
    assert done.status == 0, done.error
    return done.out


@PER_PAGE
def test_one_file_and_one_row_are_a_claim_with_it(page: Page, copy: Path, tmp_path: Path) -> None:
    model = write_tiny_folder(tmp_path / page.prediction, prediction_type=page.prediction)
    assert f"src/safezone/{page.module}" in (DOCS / page.name).read_text()
    assert len([line for line in _blocks(page.name)[0].splitlines() if line.strip()]) <= 24
    cells = ["--concepts", "1", "--seeds", "1", "--steps", "1", "--text-image-encoder", "none"]
    cells += ["--sampling.prompts", "a {}", "--sampling.steps", "1", "--poisoning.steps", "1"]
    cells += [] if "--poison" in page.options else ["--poison", "ea"]
    cells += [] if "--defense" in page.options else ["--defense", "nominal"]
    cells += ["--model", str(model), "--instance-encoder", "mini-instance"]
    _safezone(copy, "claim", *cells, *page.options, "--out", str(tmp_path / "out"))
    assert page.made(tmp_path / "out")


def test_without_the_pages_row_its_model_is_refused_and_with_its_file_it_is_consistent(
    tmp_path: Path, tiny_model: Model
) -> None:
    folder = write_tiny_folder(tmp_path / "sample", prediction_type="sample")
    with pytest.raises(UserError, match="has prediction_type 'sample'"):
        load_model(folder)
    names: dict[str, Any] = {}
    exec(_blocks("adding-a-model.md")[0], names)
    epsilon: Any = tiny_model.process
    process = names["Sample"](epsilon.alphas_cumprod)
    clean, noise = (randn([stream(name, i) for i in range(3)], (4, 8, 8)) for name in "cn")
    times = torch.tensor([0, 500, 999])
    noisy, target = process.corrupt(clean, noise, times), process.target(clean, noise, times)
    assert torch.equal(noisy, epsilon.corrupt(clean, noise, times))
    assert torch.equal(process.to_clean(noisy, target, times), clean)
    torch.testing.assert_close(process.to_noise(noisy, target, times), noise, atol=1e-3, rtol=1e-3)


def test_the_command_that_trains_the_twins_asks_for_stages_that_there_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (line,) = re.findall(r"```sh\n(.*?)\n```", (DOCS / "adding-a-model.md").read_text(), re.DOTALL)
    python, dash, module, *arguments = shlex.split(line)
    assert (python, dash, module) == ("python", "-m", "training")
    asked: list[tuple[str, ...]] = []
    monkeypatch.setattr(training, "run", lambda plan, stages: asked.append(stages))
    training.main(arguments)
    assert asked == [("corpus", "v", "rf")]


@pytest.mark.parametrize("page", PAGES[:1], ids=["poison"])
def test_the_example_as_a_row_does_not_break_the_tests_of_its_page(page: Page, copy: Path) -> None:
    tests = str(Path(__file__).parent / "poisons" / "test_documents.py")
    done = run_pytest(copy, tests, "-m", "not slow", "-k", "not network")
    assert done.status == 0 and " passed" in done.out, done
    assert "_ROWS" in (DOCS / page.name).read_text()


@pytest.mark.parametrize("page", PAGES[2:3], ids=["method"])
def test_a_grid_and_the_lists_know_the_new_method(
    page: Page, copy: Path, tiny_model_folder: Path, tmp_path: Path
) -> None:
    assert "values-only" in json.loads(_safezone(copy, "list", "methods", "--json"))["methods"]
    file = tmp_path / "mine.yaml"
    file.write_text(
        "name: mine\naxes: {poisons: [clean], defenses: [lm], methods: [values only]}\n"
    )
    told = ["grid", "run", str(file), "--model", str(tiny_model_folder), "--concepts", "1"]
    told += ["--instance-encoder", "mini-instance", "--text-image-encoder", "none", "--dry-run"]
    answer = json.loads(_safezone(copy, *told, "--out", str(tmp_path / "grids"), "--json"))
    assert answer["stages"]["personalize"]["todo"] == 3
