"""The paper's tables, a user's grids, and what lies in a workspace."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from safezone.cli import main
from safezone.commands.arguments import parse
from safezone.commands.grid_run import GridRunCommand
from safezone.errors import UserError
from safezone.lab import trainings
from safezone.lab.grids import missing_names, read_grid, require_method, require_names
from safezone.lab.lab import Lab
from safezone.lab.memory import Capacity, OutOfMemory
from safezone.lab.presets import PRESETS, preset, training_preset
from safezone.lab.run import TEXTUAL_INVERSION, Grid, Run, Scope
from safezone.lab.schedule import run_grid
from safezone.lab.settings import BenchScope, Cells, Poisoning
from safezone.lab.variants import METHOD_NAMES, setting_of, training_of
from safezone.models.known import KNOWN
from safezone.paper.claim import claim_grid
from safezone.paper.named import command, finding, headline, model_for
from safezone.paper.rows import PAPER
from safezone.personalize import train
from safezone.results.artifacts import images_of_each
from safezone.results.folder import page_of
from safezone.results.published import AVERAGE, published
from safezone.scores import read_rows
from small_lab import grid

SCOPE = Scope("m", ("A", "B"), (0, 1))


# The paper's tables


TABLES = [name for name in PAPER if name.startswith("table")]


@pytest.mark.parametrize("name", TABLES)
def test_a_table_has_the_papers_rows_and_columns(name: str) -> None:
    grid = PAPER[name].build(SCOPE)
    assert grid.table is not None
    paper = published(grid.table)
    assert {run.poison for run in grid} == {*paper.poisons} - {AVERAGE}
    columns = tuple(dict.fromkeys(setting_of(run.method) or run.defense for run in grid))
    assert columns == paper.columns
    assert len(grid) == 4 * len(columns) * len({run.poison for run in grid})
    assert f"grid run {name} " in command(PAPER[name])


def test_the_document_names_every_table() -> None:
    document = Path(__file__).parents[2] / "docs" / "reproduce-on-a-gpu.md"
    text = document.read_text(encoding="utf-8")
    lines = re.findall(r"^\| `(table\d+)` \| (.*?) \| (.*?) \|", text, re.M)
    expected = [(n, headline(PAPER[n]).rstrip("."), finding(PAPER[n])) for n in TABLES]
    assert lines == expected


def test_all_tables_with_scores_are_there() -> None:
    assert [f"table{n}" for n in range(1, 41) if n != 3] == TABLES


def test_a_figures_trainings_are_those_of_a_table() -> None:
    scope = Scope("m", tuple("ABCDEFGHIJ"), (0,))
    whole = set(PAPER["table17"].build(scope))
    for number in (1, 6, 8, 11, 16, 18, 19, 20, 21):
        assert set(PAPER[f"figure{number}"].build(scope)) < whole
    assert [run.concept for run in PAPER["figure19"].build(SCOPE)] == ["B"] * 140


def test_a_figure_of_images_has_its_own_prompt_unless_told() -> None:
    own = parse(GridRunCommand, ["figure18"]).sampling
    assert own.prompts == ("a {} in the snow",)
    assert own.images_per_prompt == 4
    assert replace(own, prompts=("mini",), images_per_prompt=1) == preset("mini").sampling
    assert parse(GridRunCommand, ["figure18", "--sampling.prompts", "a {}"]).sampling.prompts == (
        "a {}",
    )
    assert parse(GridRunCommand, ["figure6"]).sampling == preset("mini").sampling


@pytest.mark.parametrize(("wrong", "right"), [(12, 17), (13, 18), (14, 19)])
def test_the_corrected_labels_agree_with_the_tables_run_again(wrong: int, right: int) -> None:
    ours, theirs = published(wrong), published(right)
    assert "corrected" in ours.note
    assert not theirs.note
    most = {12: 0.06, 13: 20, 14: 0.06}[wrong]
    for poison in ("sds+", "sds-", "ea"):
        for name in ("nominal", "lm"):
            assert abs(ours.values[poison, name] - theirs.values[poison, name]) <= most


def test_tables_of_one_experiment_share_their_runs() -> None:
    runs = {name: set(PAPER[name].build(SCOPE)) for name in ("table17", "table18", "table9")}
    assert runs["table17"] == runs["table18"]
    assert len(runs["table17"] & runs["table9"]) == 4 * 7 * 2


def test_hyperparameters_are_scaled_to_the_preset() -> None:
    method = "textual inversion; schedule=linear; lr=5e-3; steps=1k"
    paper = training_of(PRESETS["sd15"].training, method, "sd15")
    assert (paper.schedule, paper.learning_rate, paper.steps) == ("linear", 5e-3, 1000)
    mini = training_of(PRESETS["mini"].training, method, "mini")
    assert mini.learning_rate == pytest.approx(10 * PRESETS["mini"].training.learning_rate)
    assert mini.steps == 40
    same = training_of(PRESETS["mini"].training, TEXTUAL_INVERSION, "mini")
    assert same == PRESETS["mini"].training


def test_a_setting_that_comes_twice_is_refused() -> None:
    with pytest.raises(UserError, match="has lr twice; remove one"):
        training_of(PRESETS["mini"].training, "textual inversion; lr=5e-3; lr=5e-4", "mini")


def test_spaces_make_no_second_method(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    methods = '["textual inversion;lr=5e-3", "textual inversion ;  LR=5e-3"]'
    axes = f"{{poisons: [clean], defenses: [nominal], methods: {methods}, seeds: [0, 1]}}"
    exclude = '[{method: "textual inversion; lr=5e-3 ", seed: 1}]'
    file.write_text(f"name: mine\naxes: {axes}\nexclude: {exclude}\n")
    runs = read_grid(file, PRESETS["mini"]).at_scope(replace(SCOPE, concepts=("CatHeart",)))
    assert [(r.method, r.seed) for r in runs] == [("textual inversion; lr=5e-3", 0)]


@pytest.mark.parametrize("method", ["lora", "custom diffusion", "custom diffusion crop"])
def test_other_methods_have_presets_of_their_own(method: str) -> None:
    training = training_of(PRESETS["mini"].training, method, "mini")
    assert training.method == METHOD_NAMES[method]
    assert training.crop_rescale == ("crop" in method)
    assert training.personalization().name in method


def test_every_method_of_a_grid_runs_on_the_machine_as_it_was_told() -> None:
    told = replace(PRESETS["mini"].training, runs_per_pass=3, checkpointing=True, tracker="wandb")
    lora = training_of(told, "lora", "mini")
    assert (lora.runs_per_pass, lora.checkpointing, lora.tracker) == (3, True, "wandb")
    assert lora == training_preset("mini", "lora").on_machine_of(told)


def test_a_method_whose_settings_no_run_would_have_is_refused() -> None:
    mini, inversion, lora = PRESETS["mini"], PAPER["table17"].build(SCOPE), PAPER["table32"]
    other = replace(mini, training=training_preset("mini", "lora"))
    with pytest.raises(UserError, match="table17 trains textual inversion, and --method is lora"):
        require_method(inversion, other)
    short = replace(mini, training=replace(mini.training, steps=10))
    with pytest.raises(UserError, match="give --method lora"):
        require_method(lora.build(SCOPE), short)
    require_method(inversion, short)
    require_method(lora.build(SCOPE), other)
    require_method(lora.build(SCOPE), mini)  # nothing was said
    few = replace(mini, training=replace(mini.training, runs_per_pass=2))
    require_method(lora.build(SCOPE), few)
    linear = replace(mini, training=replace(mini.training, schedule="linear"))
    with pytest.raises(UserError, match="every method of table2 names its schedule"):
        require_method(PAPER["table2"].build(SCOPE), linear)
    require_method(inversion, linear)


@pytest.mark.parametrize("part", ["schedule=square", "lr=fast", "depth=3", "steps"])
def test_a_wrong_setting_in_a_methods_name_is_told(part: str) -> None:
    with pytest.raises(UserError, match="textual inversion"):
        training_of(PRESETS["mini"].training, f"textual inversion; {part}", "mini")


def test_a_defense_may_be_a_list_of_its_parts_as_in_other_yaml(tmp_path: Path) -> None:
    text = "name: x\naxes: {poisons: [clean], defenses: [nominal, [JPEG, t600]]}\n"
    assert {run.defense for run in _grid(text, tmp_path)} == {"nominal", "jpeg+t600"}


def test_what_is_missing_is_named_at_once() -> None:
    runs = [replace(PAPER["table9"].build(SCOPE).runs[0], poison="p9", defense="d9", method="m9")]
    grid = Grid("mine", tuple(runs))
    missing = missing_names(grid, PRESETS["mini"])
    assert missing == {"poison": ["p9"], "defense": ["d9"], "method": ["m9"]}
    with pytest.raises(UserError, match=r"poison p9 and the defense d9 and the method m9"):
        require_names(grid, PRESETS["mini"])


def test_settings_that_no_poison_takes_are_told_themselves(tmp_path: Path) -> None:
    wrong = replace(PRESETS["mini"], poisoning=Poisoning(norm="l2"))
    with pytest.raises(UserError, match=r"^The norm is l2.*give both"):
        require_names(PAPER["table17"].build(SCOPE), wrong)
    (tmp_path / "grid.yaml").write_text(GOOD)
    with pytest.raises(UserError, match=r"^The norm is l2"):
        read_grid(tmp_path / "grid.yaml", wrong)


@pytest.mark.parametrize("setting", ["steps=inf", "steps=nan", "steps=0", "steps=-1k", "lr=inf"])
def test_a_number_that_a_method_cannot_have_is_refused(setting: str) -> None:
    with pytest.raises(UserError, match=rf"'{setting[setting.index('=') + 1 :]}' where a number"):
        training_of(PRESETS["mini"].training, f"{TEXTUAL_INVERSION}; {setting}", "mini")


def test_a_family_stands_for_the_tables_own_model() -> None:
    assert model_for("table17", "sd15") == KNOWN["sd15"].hub
    assert model_for("table23", "sd15") == "XCLiu/2_rectified_flow_from_sd_1_5"
    assert model_for("table28", "sd15") == "ByteDance/sd2.1-base-zsnr-laionaes5"
    assert model_for("table23", "mini") == "mini-rf"
    assert model_for("table23", "my/folder") == "my/folder"
    with pytest.raises(UserError, match="no built-in twin"):
        model_for("table30", "mini")


def test_the_preset_is_that_of_the_tables_own_model() -> None:
    options = parse(GridRunCommand, ["table30", "--model", "sd15", "--seeds", "1"])
    assert options.training == preset(KNOWN["sdxl"].hub).training
    assert options.training != preset("sd15").training
    given = parse(GridRunCommand, ["table30", "--model", "sd15", "--steps", "7"]).training
    assert given == replace(options.training, steps=7)
    assert parse(GridRunCommand, ["table17"]).training == preset("mini").training
    lora = parse(GridRunCommand, ["table32", "--steps", "7"]).training
    assert lora == replace(preset("mini", "lora").training, steps=7)


# A user's grid

GOOD = """\
name: mine
axes:
  poisons: [clean, adm+]
  defenses:
    - nominal
    - szt
include:
  - {poison: adm+, defense: lm}
exclude:
  - {poison: clean, defense: szt}
"""


def _grid(text: str, tmp_path: Path) -> Grid:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return read_grid(path, PRESETS["mini"]).at_scope(SCOPE)


def test_a_file_says_axes_includes_and_excludes(tmp_path: Path) -> None:
    grid = _grid(GOOD, tmp_path)
    cells = dict.fromkeys((run.poison, run.defense) for run in grid)
    assert set(cells) == {
        ("clean", "nominal"),
        ("adm+", "nominal"),
        ("adm+", "szt"),
        ("adm+", "lm"),
    }
    assert len(grid) == 4 * 4


def test_names_are_one_name_in_any_case(tmp_path: Path, lab: Lab) -> None:
    text = GOOD.replace("adm+]", "Adm+, ADM+]").replace("nominal", "Nominal").replace("szt", "SZT")
    assert _grid(text, tmp_path) == _grid(GOOD, tmp_path)
    cells = Cells(2, 1, ("ADM+", "adm+"), ("Nominal", "SZT", "szt"))
    claimed = claim_grid(replace(lab, settings=replace(lab.settings, cells=cells)))
    assert {run.defense for run in claimed} == {"nominal", "szt"} and len(claimed) == 2 * 2 * 2
    assert BenchScope(poisons=("ADM+",)).data(()) == ["clean", "adm+"]


@pytest.mark.parametrize(
    ("before", "after", "line"),
    [
        ("[clean, adm+]", "[]", 3),
        ("include:", "  seeds: [-1]\ninclude:", 7),
        ("    - szt", "    - sztt", 6),
        ("[clean, adm+]", "[clean, nothing]", 3),
        ("name: mine", "nam: mine", 1),
        ("name: mine", "# a name is missing\n\n", 4),  # told where the settings begin
        ("  defenses:", "  defences:", 4),
        ("defense: lm}", "defense: 7}", 8),
        ("defense: lm}", "concept: C}", 8),
        ("poison: clean, defense: szt}", "poison: ea}", 10),
        ("poison: clean, defense: szt}", "seed: x}", 10),
        ("include:", "include: [", 8),
    ],
)
def test_a_wrong_line_is_named(before: str, after: str, line: int, tmp_path: Path) -> None:
    assert before in GOOD
    with pytest.raises(UserError, match=rf"mine.yaml.* line {line}\b"):
        _grid(GOOD.replace(before, after), tmp_path)


def test_a_wrong_file_is_told_before_a_model_is_opened(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(GOOD.replace("    - szt", "    - sztt"))
    assert main(["grid", "run", str(file), "--model", str(tmp_path)]) == 2  # it holds no model
    assert "mine.yaml, line 6: " in capsys.readouterr().err


# Memory


def test_a_run_that_never_fits_is_a_row_with_its_reason(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(model: object, runs: list[object], *rest: object, **more: object) -> object:
        if len(runs) > 1 or "Two" in runs[0].key:  # type: ignore[attr-defined]
            raise torch.OutOfMemoryError("CUDA out of memory")
        return train(model, runs, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(trainings, "train", full)
    results = run_grid(lab, grid(lab, ("clean",)), progress=False)
    assert {run.concept for run in results.failed} == {"Two"}
    assert all("out of memory" in reason for reason in results.failed.values())
    assert {r.concept: bool(r.reason) for r in results.rows} == {"One": False, "Two": True}
    with pytest.raises(OutOfMemory):
        Capacity(lab.folder, lab.model, "train", 1, 1).fit(lambda size: full(None, [1, 2]))


def test_an_unreadable_concept_fails_its_runs_alone(lab: Lab) -> None:
    runs = grid(lab, ("clean", "adm+"))
    only = replace(
        lab, concepts={"One": lab.concepts["One"]}, unreadable={"Two": "two/a.png is damaged"}
    )
    results = run_grid(only, runs, progress=False)
    assert {run.concept for run in results.failed} == {"Two"}
    assert set(results.failed.values()) == {"two/a.png is damaged"}


# The commands


def _arguments(model: Path, out: Path) -> list[str]:
    return [
        *("--model", str(model), "--out", str(out), "--concepts", "1", "--seeds", "1"),
        *("--steps", "2", "--poisoning.steps", "1", "--sampling.steps", "2"),
        *("--sampling.prompts", "a {}", "--instance-encoder", "mini-instance"),
        *("--text-image-encoder", "mini-clip"),
    ]


def test_a_grid_from_file_to_export(
    tmp_path: Path, tiny_model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = tmp_path / "mine.yaml", tmp_path / "out"
    file.write_text(GOOD)
    arguments = ["grid", "run", str(file), *_arguments(tiny_model_folder, out)]
    assert main([*arguments, "--dry-run", "--json"]) == 0
    dry = json.loads(capsys.readouterr().out)
    assert dry["stages"]["personalize"]["todo"] == dry["runs"] == 4
    assert dry["stages"]["personalize"]["seconds"] > 0 and not dry["failed"]
    assert not out.exists()
    assert main(arguments) == 0
    assert main([*arguments, "--dry-run", "--json"]) == 0
    again = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {stage["todo"] for stage in again["stages"].values()} == {0}
    # an index that is gone or damaged is made anew from the artifacts
    assert main(["grid", "status", "--out", str(out), "--json"]) == 0
    status = capsys.readouterr().out
    assert json.loads(status)["grids"]["mine"]["done"] == json.loads(status)["grids"]["mine"]["all"]
    (out / "work" / "catalogue.json").write_text("{")
    assert main(["grid", "status", "--out", str(out), "--json"]) == 0
    assert capsys.readouterr().out == status
    # a part does not replace the whole; without the whole the rest is garbage
    before = (out / "mine" / "rows.jsonl").read_bytes()
    for part, lost in ((["--without", "lm"], 1), (["--only", "lm", "--dry-run"], 3)):
        assert main([*arguments, *part]) == 2
        told = f"{out / 'mine'} holds results that --only or --without leaves out (runs: {lost})"
        assert told in capsys.readouterr().err
    assert (out / "mine" / "rows.jsonl").read_bytes() == before
    shutil.rmtree(out / "mine")
    for _ in range(2):  # the same part again is no other
        assert main([*arguments, "--without", "lm"]) == 0
    capsys.readouterr()
    assert main(["grid", "gc", "--out", str(out), "--json"]) == 0
    removed = json.loads(capsys.readouterr().out)["folders"]
    assert removed
    assert all("lm" in Path(folder).name for folder in removed)
    assert main(["grid", "export", str(tmp_path / "given"), "--out", str(out)]) == 0
    names = {path.name for path in (tmp_path / "given" / "mine").iterdir()}
    assert {"rows.csv", "table.csv", "table.md", "table.tex", "report.html"} <= names
    # one grid, its page small enough to keep with a text
    whole = (out / "mine" / "report.html").stat().st_size
    sizes = []
    for pictures in (100, 0):
        to = tmp_path / f"small{pictures}"
        small = ["--only", "mine", "--pictures", str(pictures)]
        assert main(["grid", "export", str(to), "--out", str(out), *small]) == 0
        text = (to / "mine" / "report.html").read_text(encoding="utf-8")
        assert ("data:image/webp" in text) is (pictures > 0)
        sizes.append(len(text.encode()))
    assert whole >= sizes[0] > sizes[1]
    for wrong in (["--only", "yours"], ["--pictures", "-1"]):
        assert main(["grid", "export", str(tmp_path / "no"), "--out", str(out), *wrong]) == 2
        assert wrong[1] in capsys.readouterr().err
    # all tables on one page, and one of a part
    assert main([*arguments, "--only", "szt", "--name", "part"]) == 0
    assert len(read_rows(out / "part" / "rows.jsonl")) < len(read_rows(out / "mine" / "rows.jsonl"))
    assert main(["report", str(out), "--title", "Both"]) == 0
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "<h1>Both</h1>" in page
    assert re.findall(r'<section id="(\w+)">', page) == ["mine", "part", "made"]
    assert "data:image/webp" in page


@pytest.mark.parametrize(
    ("pictures", "counts"),
    [
        *((0, [0, 0, 0]), (3, [0, 0, 0]), (4, [1, 0, 0]), (11, [1, 1, 0])),
        *((12, [1, 1, 1]), (35, [2, 2, 2]), (4000, [6, 6, 6])),
    ],
)
def test_few_pictures_are_of_the_same_concepts_in_every_cell(
    pictures: int, counts: list[int]
) -> None:
    runs = [
        Run(concept, poison, defense, "textual inversion", "mini", 0)
        for concept in "abc"
        for poison in ("clean", "adm+")
        for defense in ("nominal", "szt")
    ]
    assert images_of_each(runs, pictures) == dict(zip("abc", counts, strict=True))


def test_every_method_has_its_own_tables_and_images_on_the_page(
    tmp_path: Path, tiny_model_folder: Path
) -> None:
    file, out = tmp_path / "two.yaml", tmp_path / "out"
    methods = ("lora; steps=5", "custom diffusion; steps=5")
    axes = {"poisons": ["clean"], "defenses": ["nominal"], "methods": list(methods), "seeds": [0]}
    file.write_text(json.dumps({"name": "two", "axes": axes}))
    words = [*_arguments(tiny_model_folder, out), "--method", "lora"]
    assert main(["grid", "run", str(file), *words]) == 0
    lora, custom = page_of(out / "two").sections
    assert [part.method for part in (lora, custom)] == ["lora", "custom diffusion"]
    learned = []
    for part in (lora, custom):
        assert {row.method for row in part.rows} == {part.method}
        ((cell, strips),) = part.evidence.strips.items()
        assert cell == ("clean", "steps=5")  # the same for both
        learned += [strip.learned for strip in strips.values()]
    assert "vector" not in learned[0]
    assert "vector" in learned[1]
    page = (out / "two" / "report.html").read_text(encoding="utf-8")
    assert re.findall(r'<section id="([\w-]+)">', page) == [
        *("two-lora", "two-custom-diffusion", "made")
    ]
    assert {"table.csv", "table-2.csv"} <= {path.name for path in (out / "two").iterdir()}


def test_a_stopped_grid_says_how_to_go_on(
    tmp_path: Path,
    tiny_model_folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def stopped(*arguments: object, **named: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("safezone.lab.makers.write_images", stopped)
    monkeypatch.setattr("sys.argv", ["safezone", "grid", "run", "mine.yaml"])
    file = tmp_path / "mine.yaml"
    file.write_text(GOOD)
    arguments = _arguments(tiny_model_folder, tmp_path / "out")
    assert main(["grid", "run", str(file), *arguments]) == 130
    assert "Go on with:\n    safezone grid run mine.yaml" in capsys.readouterr().err
    monkeypatch.undo()
    assert main(["grid", "run", str(file), *arguments]) == 0


def test_list_and_show(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["grid", "list"]) == 0
    listed = capsys.readouterr().out
    assert re.findall(r"^  (\w+)", listed, re.M) == list(PAPER)
    headings = re.findall(r"^(\w.*)", listed, re.M)
    assert headings == [
        *("Textual inversion, SD 1.5", "Other models", "Other methods, SD 1.5", "Figures")
    ]
    assert main(["grid", "show", "figure8"]) == 0
    assert "its prompt: a R* on the beach" in capsys.readouterr().out
    assert main(["grid", "show", "table14"]) == 0
    told = capsys.readouterr().out
    assert "corrected labels" in told
    assert "T600+LM-D16" in told


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["grid", "walk"], "no verb 'walk'"),
        (["grid", "show", "table3"], "no grid 'table3'"),
        (["grid", "show", "mine.yaml"], "or give `safezone grid run` a YAML file of your own"),
        (["grid", "run", "table171"], "did you mean"),
        (["grid", "run", "table17", "--without", "x"], "no run of 'x'"),
        (["grid", "run", "missing.yaml"], "missing.yaml does not exist"),
        (["grid", "status", "--out", "nowhere"], "no folder of"),
        (["grid", "run", "table30"], "no built-in twin"),
        (["grid", "run", "table19", "--text-image-encoder", "none"], "--text-image-encoder meas"),
        (["grid", "run", "table17", "--workers", "4"], "processes or ray or slurm, not of here"),
        (["grid", "run", "table17", "--executor", "ray", "--slurm", "a=1"], "of --executor slurm"),
        (["grid", "run", "table17", "--executor", "slurm", "--slurm", "gpu"], "write KEY=VALUE"),
        (
            *(["grid", "run", "table17", "--executor", "ray", "--address", "a:1", "--workers=2"],),
            "leave --workers or --address out",
        ),
    ],
)
def test_wrong_words_get_one_sentence(
    arguments: list[str], hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    told = capsys.readouterr().err.strip()
    assert hint in told
    assert "\n" not in told


def test_a_placeholder_that_is_a_word_fails_its_own_runs(lab: Lab) -> None:
    wrong = replace(lab.concepts["Two"], placeholder="a")
    lab = replace(lab, concepts={**lab.concepts, "Two": wrong})
    results = run_grid(lab, grid(lab, ("clean",)), progress=False)
    assert {run.concept for run in results.failed} == {"Two"}
    assert all("already a word" in reason for reason in results.failed.values())
    assert {row.concept: bool(row.reason) for row in results.rows} == {"One": False, "Two": True}
