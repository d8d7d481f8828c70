"""The leaderboard's page: its order, what attacks lower, nothing from outside, nothing of a
stranger's text as HTML."""

import json
import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from board_entries import SUITE, make_entry
from safezone.audit.entry import BoardEntry, Change, Claimed
from safezone.audit.leaderboard import boards, leaderboard_page, read_entries
from safezone.cli import main
from safezone.errors import UserError
from safezone.files import write_json
from safezone.results.page import render_page

OTHER = "f" * 64


def _entries() -> dict[str, BoardEntry]:
    return {
        "weak.json": make_entry("ea", 0.3),
        "strong.json": make_entry("adm+", 0.1, claimed=Claimed(0.05, None, "<b>us & them</b>")),
        "middle.json": make_entry("mist", 0.2),
    }


def test_the_lowest_worst_case_stands_first() -> None:
    (board,) = boards(_entries())
    assert [each.entry.poison.name for each in board.standings] == ["adm+", "mist", "ea"]
    assert [each.lowered for each in board.standings] == [False] * 3
    assert board.standings[0].by == "Safe-Zone Training"
    assert board.standings[0].tied
    assert board.standings[0].psnr == pytest.approx(30)


def test_an_attack_lowers_the_protection_that_it_is_on_and_no_other() -> None:
    entries = {
        **_entries(),
        "a.json": make_entry("adm+", 0.7, attack="jpeg50+t500"),
        "weaker.json": make_entry("mist", 0.0, attack="blur"),
        "other-code.json": replace(
            make_entry("ea", 0.7, attack="blur"), poison=replace(make_entry("ea").poison, key=OTHER)
        ),
    }
    (board,) = boards(entries)
    assert [each.entry.poison.name for each in board.standings] == ["mist", "ea", "adm+"]
    lowered = board.standings[-1]
    assert lowered.lowered
    assert lowered.by == "jpeg50+t500, a.json"
    assert lowered.worst.mean > lowered.entry.worst.mean
    assert not any(each.lowered for each in board.standings[:2])
    assert [file for file, _, _ in board.attacks] == ["a.json", "weaker.json", "other-code.json"]


def test_attacks_of_one_name_on_one_protection_keep_their_own_columns() -> None:
    levels = {"a.json": 0.2, "b.json": 0.6}
    attacks = {file: make_entry("ea", level, attack="blur") for file, level in levels.items()}
    page = leaderboard_page(boards({**_entries(), **attacks}))
    concept = SUITE.concepts[0]
    assert {
        (row.defense, row.value)
        for row in page.rows
        if row.concept == concept and "blur" in row.defense
    } == {(f"blur ({file})", attacks[file].measured[concept]["attack"][0]) for file in levels}
    assert "blur (b.json)" in render_page(page).lower()


@pytest.mark.parametrize("name", ["model", "encoder", "networks", "settings", "images"])
def test_what_cannot_be_compared_stands_on_boards_of_its_own(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other: Any = dict.fromkeys(SUITE.concepts, OTHER) if name == "images" else OTHER

    def moved(entry: BoardEntry) -> BoardEntry:
        return replace(entry, hashes=replace(entry.hashes, **{name: other}))

    attack = moved(make_entry("adm+", 0.7, attack="blur"))
    entries = {**_entries(), "other.json": moved(make_entry("pid", 0.1)), "attack.json": attack}
    first, second = boards(entries)
    assert [len(board.standings) for board in (first, second)] == [3, 1]
    assert [getattr(board.hashes, name) for board in (first, second)][1] == other
    assert not any(each.lowered for each in first.standings)  # by an attack of another scale
    assert [len(board.attacks) for board in (first, second)] == [0, 1]
    assert first.title != second.title
    text = render_page(leaderboard_page(boards(entries)))
    for file, entry in entries.items():
        write_json(tmp_path / "entries" / file, asdict(entry))
    assert main(["leaderboard", str(tmp_path / "entries"), "--out", str(tmp_path / "a.html")]) == 0
    said = capsys.readouterr().out
    for board in (first, second):
        assert text.count(board.title) == 1
        assert board.basis.capitalize() in text
        assert f"{board.title}:\n" in said
    assert len(re.findall(r'<section id="objects-quick-1-mini-[12]">', text)) == 2


def test_an_entry_of_a_chosen_seed_gets_no_page(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", asdict(make_entry(seed=7)))
    with pytest.raises(UserError, match=r"a\.json: the seed is 7 and has to be 0"):
        read_entries(tmp_path)


def test_the_page_asks_nobody_and_escapes_what_strangers_wrote(tmp_path: Path) -> None:
    entries = {**_entries(), "a.json": make_entry("adm+", 0.7, attack="jpeg50+t500")}
    folder = tmp_path / "entries"
    for file, entry in entries.items():
        write_json(folder / file, asdict(entry))
    assert read_entries(folder) == dict(sorted(entries.items()))
    text = render_page(leaderboard_page(boards(read_entries(folder)), "safezone leaderboard"))
    assert not re.search(r"https?:|@import|url\(|[\"'(]//", text)
    assert "default-src 'none'" in text
    assert "<b>us" not in text
    assert "&lt;b&gt;us &amp; them&lt;/b&gt;" in text
    lead = text[text.index('<section class="lead">') : text.index("Contributed attacks")]
    assert [lead.index(f">{name}") for name in ("mist", "ea", "adm+")] == sorted(
        lead.index(f">{name}") for name in ("mist", "ea", "adm+")
    )
    assert text.count('<table class="scores">') == 1  # every number, poisons by trainings
    assert "Contributed attacks" in text


def test_the_command_writes_the_page_and_says_the_order(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for file, entry in _entries().items():
        write_json(tmp_path / "entries" / file, asdict(entry))
    page = tmp_path / "page.html"
    arguments = ["leaderboard", str(tmp_path / "entries"), "--out", str(page)]
    assert main([*arguments, "--json"]) == 0
    (board,) = json.loads(capsys.readouterr().out)["boards"]
    files = [each["file"] for each in board["protections"]]
    assert files == ["strong.json", "middle.json", "weak.json"]
    assert page.read_text().count("<html") == 1
    assert main(arguments) == 0
    assert "adm+: worst case" in capsys.readouterr().out


def test_entries_that_contradict_themselves_get_no_page(tmp_path: Path) -> None:
    content = json.loads(json.dumps(asdict(make_entry())))
    content["worst"]["mean"] = 0.0
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"a\.json: worst does not follow"):
        read_entries(tmp_path)


def test_a_page_without_protections_has_attacks_alone() -> None:
    page = leaderboard_page(boards({"a.json": make_entry(attack="blur")}))
    assert "Contributed attacks" in render_page(page)


def test_visibility_is_of_all_concepts() -> None:
    changes = {c: Change(16, 30.0 + place) for place, c in enumerate(SUITE.concepts)}
    ((line,),) = (board.standings for board in boards({"a.json": make_entry(changes=changes)}))
    assert (line.psnr, line.largest) == (31.0, 16)
