"""What is sent to `safezone serve`: wrong files are told in a sentence and leave nothing behind."""

import io
import json
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final
from unittest.mock import Mock

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from safezone.audit.cases import read_cases
from safezone.cli import main
from safezone.errors import UserError
from safezone.images import read_mask
from safezone.serve import uploads
from safezone.serve.app import Pages, listen
from safezone.serve.runner import DONE, RUN, Runner
from safezone.serve.session import SHOWN_SIDE, open_session
from wrong_uploads import WRONG, black, picture, promise, three

HOST: Final = "127.0.0.1"


def _tree(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.fixture
def client(tmp_path: Path) -> Iterator[TestClient]:
    pages = Pages(tmp_path / "kept", Runner(["mini"]))
    with TestClient(pages.app(), base_url=f"http://{HOST}") as client:
        yield client


@pytest.fixture
def kept(tmp_path: Path, client: TestClient) -> Path:
    """Three pictures without masks."""
    answer = client.post("/new", files=three(), data={"title": "Mine", "class_word": "toy"})
    assert answer.json() == {"go": "/s/mine"}
    return tmp_path / "kept"


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_upload_is_told_and_leaves_nothing(
    name: str, client: TestClient, kept: Path
) -> None:
    files, words = WRONG[name]
    before = _tree(kept)
    answer = client.post("/new", files=files() or [("title", (None, b""))])
    assert answer.status_code == 400
    told = answer.json()["error"]
    assert words in told
    assert "\n" not in told and str(kept) not in told and ".partial" not in told
    assert _tree(kept) == before


def test_too_many_bytes_are_refused_before_they_are_kept(
    client: TestClient, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = _tree(kept)
    monkeypatch.setattr(uploads, "MOST_BYTES", 1000)
    large = three(b=picture() + bytes(2000))
    assert "b.png has 0 MB, more than" in client.post("/new", files=large).json()["error"]
    monkeypatch.setattr(uploads, "MOST_SENT", 1000)
    assert client.post("/new", files=large).status_code == 413
    chunks = client.post(
        "/new",
        content=iter([b"x" * 600] * 3),
        headers={"content-type": "multipart/form-data; boundary=x"},
    )
    assert chunks.status_code == 400
    assert "more than the" in chunks.json()["error"]
    assert client.put("/s/mine/mask/0", content=b"x" * 1001).status_code == 413
    assert _tree(kept) == before


def test_good_pictures_are_kept_as_they_were_sent(client: TestClient, kept: Path) -> None:
    folder = kept / "mine"
    assert (folder / "protected" / "a.png").read_bytes() == picture()
    words = json.loads((folder / "protected" / "concept.json").read_text())
    assert words == {"name": "mine", "class_word": "toy"}
    assert (
        client.post("/new", files=three("clean"), data={"title": "Mine"}).json()["go"]
        == "/s/mine-2"
    )
    assert open_session(kept, "mine-2").protects and not open_session(kept, "mine").protects
    page = client.get("/")
    assert page.text.count('href="/s/mine') == 2
    assert "default-src 'self'" in page.headers["content-security-policy"]
    shown = client.get("/s/mine/picture/protected/0")
    assert Image.open(io.BytesIO(shown.content)).size == (64, 48)
    assert client.post("/s/mine/remove").json() == {"go": "/"}
    assert not folder.exists()


def test_a_removal_that_was_stopped_can_be_done_again(
    client: TestClient, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = open_session(kept, "mine")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("shutil.rmtree", Mock(side_effect=KeyboardInterrupt))
        session.remove()
    assert 'href="/s/mine' in client.get("/").text
    for path in (kept / "mine").iterdir():  # as if it had come nearly to its end
        if path.is_dir():
            shutil.rmtree(path)
    assert 'href="/s/mine' in client.get("/").text
    assert client.post("/s/mine/remove").json() == {"go": "/"}
    assert not (kept / "mine").exists()


PAINTED: Final[Mapping[str, tuple[bytes, str]]] = {
    "a text": (b"white", "the painted mask is not an image"),
    "nothing": (b"", "the painted mask is not an image"),
    "another size": (picture((32, 32), mode="L"), "32 x 32 pixels and its picture is shown in"),
    "huge": (promise(9000, 9000), "9000 x 9000 pixels, more than"),
    "black": (black(), "is empty"),
}


@pytest.mark.parametrize("name", PAINTED)
def test_a_wrong_mask_is_told_and_changes_nothing(
    name: str, client: TestClient, kept: Path
) -> None:
    png, words = PAINTED[name]
    before = _tree(kept)
    answer = client.put("/s/mine/mask/1", content=png)
    assert answer.status_code == 400
    assert words in answer.json()["error"]
    assert _tree(kept) == before


def test_a_mask_is_painted_at_the_size_that_is_shown_and_kept_at_that_of_the_file(
    client: TestClient, kept: Path
) -> None:
    wide = three("clean", a=picture((2 * SHOWN_SIDE, SHOWN_SIDE)))
    client.post("/new", files=wide, data={"title": "wide"})
    assert client.get("/s/wide/state").json()["masks"] == [False] * 3
    blank = Image.open(io.BytesIO(client.get("/s/wide/mask/0").content))
    assert blank.size == (SHOWN_SIDE, SHOWN_SIDE // 2) and blank.getextrema()[1] == 0
    assert client.put("/s/wide/mask/0", content=picture(blank.size, mode="L")).json() == {}
    mask = read_mask(kept / "wide" / "clean" / "masks" / "a.png")
    assert mask.shape == (SHOWN_SIDE, 2 * SHOWN_SIDE)
    assert abs(mask.mean() - 1 / 9) < 0.01
    error = client.post("/s/wide/start", json={"model": "mini"}).json()["error"]
    assert error.startswith("other pictures have a mask, but not b.png, c.png; paint the object")
    assert client.post("/s/wide/masks").json() == {"told": []}  # GrabCut draws the other two
    assert client.get("/s/wide/state").json()["masks"] == [True] * 3
    folder = kept / "wide" / "clean"
    assert read_cases(folder, None, 64)[0].generated_masks  # until somebody has looked at them
    for index in (1, 2):
        painted = client.get(f"/s/wide/mask/{index}").content
        assert client.put(f"/s/wide/mask/{index}", content=painted).status_code == 200
    assert not read_cases(folder, None, 64)[0].generated_masks
    found = read_mask(kept / "wide" / "clean" / "masks" / "b.png")
    assert 0.05 < found.mean() < 0.2
    assert np.array_equal(mask, read_mask(kept / "wide" / "clean" / "masks" / "a.png"))


def _masks(client: TestClient, name: str) -> list[bool]:
    masks: list[bool] = client.get(f"/s/{name}/state").json()["masks"]
    return masks


def test_a_mask_is_taken_away_and_with_it_what_was_made_of_it(
    client: TestClient, tmp_path: Path
) -> None:
    client.post("/new", files=three("clean"), data={"title": "mine"})
    folder = tmp_path / "kept" / "mine"
    before = _tree(folder)
    white = picture(mode="L")
    assert client.put("/s/mine/mask/1", content=white).status_code == 200
    assert _masks(client, "mine") == [False, True, False]
    (folder / "protected").mkdir()  # made here, with the mask in it
    for _ in range(2):  # the second click finds nothing
        assert client.delete("/s/mine/mask/1").json() == {}
        assert _masks(client, "mine") == [False] * 3
        assert _tree(folder) == before | {"clean/masks"}
    open_session(tmp_path / "kept", "mine").require_masks_of_all_or_none()
    uploads.require_pictures(folder)
    assert client.delete("/s/mine/mask/3").status_code == 400
    refused = client.delete("/s/mine/mask/1", headers={"origin": "http://evil.example"})
    assert refused.status_code == 403


def test_a_mask_of_another_ending_is_shown_and_painted_over(
    client: TestClient, tmp_path: Path
) -> None:
    masks = [("masks", (f"{stem}.bmp", picture(mode="L", form="BMP"))) for stem in "abc"]
    client.post("/new", files=[*three("clean"), *masks], data={"title": "mine"})
    assert _masks(client, "mine") == [True] * 3
    assert client.put("/s/mine/mask/1", content=picture(mode="L")).status_code == 200
    files = sorted((tmp_path / "kept" / "mine" / "clean" / "masks").iterdir())
    assert [file.name for file in files] == ["a.bmp", "b.png", "c.bmp"]
    assert client.delete("/s/mine/mask/0").status_code == 200
    assert _masks(client, "mine") == [False, True, True]


def test_an_example_has_its_own_masks_and_words(client: TestClient, tmp_path: Path) -> None:
    assert client.post("/example", json={"concept": "HattedMug"}).json() == {"go": "/s/hattedmug"}
    session = open_session(tmp_path / "kept", "hattedmug")
    assert session.protects
    assert all(client.get("/s/hattedmug/state").json()["masks"])
    assert "Protection" in client.get("/s/hattedmug").text
    before = _tree(tmp_path)
    for name in ("Mug", "../x", ""):
        answer = client.post("/example", json={"concept": name})
        assert answer.status_code == 400 and "is unknown" in answer.json()["error"]
    assert _tree(tmp_path) == before


CHOICES: Final[Mapping[str, tuple[Any, str]]] = {
    "another model": ({"model": "/etc"}, "was not given to `safezone serve`"),
    "no method": ({"methods": []}, "methods is empty"),
    "an unknown method": ({"methods": ["x"]}, "there is no method 'x'"),
    "an option as method": ({"methods": ["--out=/tmp/x"]}, "there is no method"),
    "an unknown suite": ({"suite": "strict"}, "there is no suite 'strict'"),
    "an unknown poison": ({"poison": "--help"}, "--help"),
    "a level of 0": ({"level": 0}, "level is 0"),
    "more than is asked": ({"out": "/tmp"}, "out is not known"),
    "a list": ([], "no JSON object"),
    "no JSON": (b"{", "no JSON"),
}


@pytest.mark.parametrize("name", CHOICES)
def test_a_wrong_choice_is_told_and_starts_nothing(
    name: str, client: TestClient, kept: Path
) -> None:
    sent, words = CHOICES[name]
    body = sent if isinstance(sent, bytes) else json.dumps(sent).encode()
    answer = client.post("/s/mine/start", content=body)
    assert answer.status_code == 400
    assert words in answer.json()["error"]
    assert not (kept / "mine" / RUN).exists()


@pytest.mark.parametrize(
    "address", ["/s/none", "/s/%2e%2e", "/s/mine%2f..", "/s/.lock", "/s/MINE/state"]
)
def test_no_other_folder_is_opened(address: str, client: TestClient, kept: Path) -> None:
    (kept.parent / uploads.ABOUT).write_text("{}")
    assert client.get(address).status_code in (400, 404)
    assert client.get("/s/mine/picture/protected/3").status_code == 400
    assert client.get("/s/mine/report").json()["error"].startswith("the audit is not finished")


def test_other_sites_and_other_names_are_not_answered(client: TestClient, kept: Path) -> None:
    assert client.get("/", headers={"host": "evil.example"}).status_code == 400
    before = _tree(kept)
    for origin in ("http://evil.example", "null", f"http://{HOST}:1"):
        answer = client.post("/s/mine/remove", headers={"origin": origin})
        assert answer.status_code == 403
    assert _tree(kept) == before
    assert client.post("/s/mine/remove", headers={"origin": f"http://{HOST}"}).status_code == 200


def test_only_this_machine_is_listened_to() -> None:
    with listen(0) as listening:
        address, port = listening.getsockname()
        assert address == HOST
        with pytest.raises(UserError, match=f"port {port} cannot be used"):
            listen(port)


def test_whoever_opens_an_address_reads_a_page_whatever_is_wrong(
    client: TestClient, kept: Path
) -> None:
    record = {"choices": {}, "state": DONE, "sentence": ""}
    (kept / "mine" / RUN).write_text(json.dumps(record))  # its audit.json is gone
    state = client.get("/s/mine/state")
    assert state.status_code == 400 and "audit.json" in state.json()["error"]
    assert "audit/audit.json does not exist" in client.get("/").text
    browser = {"accept": "text/html"}
    for address, status in (("/s/none", 400), ("/nowhere", 404), ("/s/mine/report", 400)):
        page = client.get(address, headers=browser)
        assert page.status_code == status
        assert "<h1>" in page.text and 'href="/"' in page.text
    assert client.get("/s/mine", headers=browser).status_code == 200


@pytest.mark.parametrize("name", ["starlette", "uvicorn", "python_multipart"])
def test_without_the_extra_the_command_says_what_to_install(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in [each for each in sys.modules if each.startswith((name, "safezone.serve"))]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, name, None)
    assert main(["serve", "--folder", str(tmp_path / "kept"), "--port", "0"]) == 2
    assert f"needs {name}; install it with `pip install safezone[ui]`" in capsys.readouterr().err
    assert not (tmp_path / "kept").exists()
