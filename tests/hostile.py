"""Two hundred wrong inputs over all commands: what a test gives, and a word of the answer.

A line of ``OPTIONS`` is a command with its usual arguments (``USUAL``), what is added to them, and
behind ``|`` a word of the sentence that refuses it. The other tables add a file first.
"""

import json
import os
import struct
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file


@dataclass(frozen=True)
class Place:
    """A folder with three good images and masks, a tiny model, and where output may go."""

    images: Path
    model: Path
    out: Path

    @property
    def root(self) -> Path:
        return self.images.parent

    def words(self, text: str) -> list[str]:
        """The words of a command line, its places filled in."""
        names = {"images": self.images, "model": self.model, "out": self.out, "root": self.root}
        return [word.format_map(names).replace("~", " ") for word in text.split(" ") if word]


_MODEL: Final = "--model {model}"
_ENCODERS: Final = "--instance-encoder mini-instance --text-image-encoder none"
_SMALL: Final = f"{_MODEL} --concepts 1 --seeds 1 --steps 1 {_ENCODERS}"
USUAL: Final[Mapping[str, str]] = {
    "poison": f"{{images}} {_MODEL} --out {{out}} --steps 1",
    "mask": "{images}",
    "personalize": f"{{images}} {_MODEL} --out {{out}} --class-word ball --steps 1",
    "generate": f"{{root}}/e.safetensors {_MODEL} --out {{out}} --prompts a~{{{{}}}} --steps 1",
    "export": "{root}/e.safetensors --out {out}",
    "score": f"{{images}} --clean {{images}} {_ENCODERS}",
    "evaluate": "--out {out}/e.json --work {out}",
    "verify": "{root}/entry.json --work {out}",
    "leaderboard": "{images} --out {out}/p.html",
    "inspect": "{images}",
    "report": "{images}",
    "claim": f"--out {{out}} {_SMALL}",
    "demo": f"--out {{out}} {_SMALL}",
    "figure": f"--out {{out}} {_SMALL.replace('--seeds 1 ', '')}",
    "analyze histogram": "{images} {images} --out {out}",
    "analyze spectrum": "{images} {images} --out {out}",
    "analyze timesteps": f"{{images}} {_MODEL} --out {{out}}",
    "analyze sensitivity": f"{{images}} {_MODEL} --out {{out}} --prompt a~ball --word ball",
    "audit": f"{{images}} {_MODEL} --out {{out}} {_ENCODERS}",
    "serve": "--folder {out} --port 0",
    "grid run": f"--out {{out}} {_SMALL}",
    "grid show": "",
    "grid list": "",
    "grid status": "--out {out}",
    "grid gc": "--out {out}",
    "grid export": "{root}/copy --out {out}",
    "list": "",
    "concepts": "",
    "models": "",
    "prompts": "",
}
"""What a command needs at least; ``~`` stands for a space within a word."""

OPTIONS: Final = """
evaluate nope | adm
evaluate {root}/none.py | none.py
evaluate adm+ --suite objects | objects-1, objects-quick-1
evaluate adm+ --model sd15 | built-in
evaluate adm+ --model {model} | built-in
evaluate adm+ --attack sztt | szt
evaluate adm+ --attack {root}/none.py | none.py
evaluate adm+ --claimed-plain 7 | --claimed-plain
evaluate adm+ --claimed-worst nan | --claimed-worst
evaluate adm+ --claimed-plain 0.2 --claimed-source ~é | --claimed-source is wrong
evaluate adm+ --claimed-source my~paper | --claimed-plain
evaluate adm+ --threads 0 | --threads
evaluate adm+ --out {images} | .json
evaluate adm+ --work {root}/e.safetensors | --work
evaluate adm+ --work= | --work is empty; give a file or folder
personalize --config= | --config is empty; give a file or folder
personalize --out= | --out is empty; give a file or folder
verify --code= | --code is empty; give a file or folder
verify {images} | a folder
verify --threads x | whole number
verify --concepts 0 | --concepts
verify --seed -1 | --seed
verify --noise x | --noise
verify --code {root}/none.py | none.py
leaderboard --json | holds no entries
leaderboard --out {root}/p.txt | .html
audit --attacker strict | quick-1
audit --method tii | ti
audit --seeds 0 | --seeds
audit --partial 0 | --partial
audit --partial 50 | --clean
audit --budgets 256 | --budgets
audit --budgets 4 | --clean
audit --budgets 4 --poisoning.kappa 4/255 | --poisoning.kappa
audit --budgets 4 --poisoning.norm l2 | --poisoning.norm
audit --poisoning.steps 3 | --budgets
audit --clean {images} | originals
audit --clean {root}/none | none
audit --sampling.scheduler magic | magic
audit --sampling.steps 2000 | 1000
audit --sampling.prompts toy | toy
poison --kappa 0 | kappa
poison --kappa much | --kappa
poison --kappa 16 | 255
poison --kappa nan | kappa
poison --kappa 1/0 | --kappa
poison --kappa -1/255 | kappa
poison --eta 0 | eta
poison --eta nan | eta
poison --steps 0 | --steps
poison --steps -3 | --steps
poison --steps 1.5 | --steps
poison --steps x | whole number
poison --repetitions 0 | --repetitions
poison --norm l3 | l2, linf
poison --norm l2 --kappa 3 | eta
poison --start middle | --start
poison --target blue.png --poison ea | blue.png
poison --target grey | adm+ reads no target
poison --prompt grass --poison ea@szt | ea@szt reads no prompt
poison --transform jpeg+swirl | swirl
poison --transform jpeg500 | at most 100
poison --poison adm | adm+
poison --poison adm+@nothing | @nothing
poison --poison a/b | a/b
poison --poison-file {root}/none.py | none.py
poison --seed -1 | --seed
poison --seed x | --seed
poison --model no-model | no-model
poison --model sd16-rf | sd15-rf
poison --model {images} | toy
poison --device abacus | abacus
poison --threads 0 | --threads
poison --config {root}/none.yaml | none.yaml
poison --out | --out
poison --out {root}/x.jpg | PNG
poison --out {root}/e.safetensors | e.safetensors
poison --epsilon 3 | --epsilon
poison --ot 3 | --ot
poison {images} | takes
mask --size 100 | --size
mask --size 0 | --size
mask --source sam | --sam
mask --sam {root}/none | --source
mask --source sam --sam {root}/none --overwrite | none
mask --source magic | --source
mask --source grabcut | --overwrite
personalize --defense sztt | szt
personalize --defense jpeg0 | jpeg
personalize --defense t500+t600 | t500
personalize --defense t2000 | t2000
personalize --defense lm-d1.5 | whole
personalize --defense= | defense
personalize --method tii | ti
personalize --method lora --vectors 2 | vectors
personalize --method lora --rank 0 | --rank
personalize --method lora --rank 100000 | rank
personalize --method lora --targets bogus | bogus
personalize --method lora --alpha 0 | --alpha
personalize --method lora --alpha nan | --alpha
personalize --rank 8 | rank
personalize --steps 0 | --steps
personalize --steps 1e3 | --steps
personalize --batch-size 0 | --batch-size
personalize --accumulation 0 | --accumulation
personalize --vectors 0 | --vectors
personalize --vectors 200 | 200
personalize --learning-rate nan | --learning-rate
personalize --learning-rate 0 | --learning-rate
personalize --learning-rate 1e38 | --learning-rate
personalize --learning-rate fast | --learning-rate
personalize --weight-decay -1 | --weight-decay
personalize --schedule square | constant
personalize --templates poems | poems
personalize --templates captions | .txt
personalize --initializer ball --random-rows | initializer
personalize --start {root}/none.safetensors | none.safetensors
personalize --tracker notebook | notebook
personalize --compile --checkpointing | compile
personalize --prior-weight -1 | --prior-weight
personalize --prior-images 0 | --prior-images
personalize --checkpoint-every 0 | --checkpoint-every
personalize --preview-every -1 | --preview-every
personalize --runs-per-pass 0 | --runs-per-pass
personalize --placeholder photo | photo
personalize --placeholder ball~<x | ball <x
personalize --seed -1 | --seed
personalize --seeds 0 | --seeds
personalize --precision float16 | float16
personalize --precision int8 | --precision
personalize --threads -1 | --threads
personalize {images} | toy
personalize --reuse {root}/none | none
generate --steps 0 | --steps
generate --images-per-prompt 0 | --images-per-prompt
generate --guidance nan | --guidance
generate --guidance -1 | --guidance
generate --steps 1001 | steps
generate --scheduler magic | magic
generate --prompts all26 | all26
generate --prompts {root}/none.txt | none.txt
generate --seed -5 | --seed
generate --precision float16 | float16
generate {root}/none.safetensors | none.safetensors
generate {images} | learned_embeds
generate {root}/e.safetensors --out {root}/e.safetensors | e.safetensors
export --form webui | kohya
export --rank 0 | rank
export --rank x | --rank
export --model no-model | no-model
export {root}/none.safetensors | none.safetensors
export {images} | learned_embeds
score --clean {root}/none | none
score --instance-encoder dinov3 | dinov
score --instance-encoder {images} | config.json
score --text-image-encoder mini-instance | reads no text
score --instance-encoder none | none
models list mini | mini
models path mini elsewhere | elsewhere
inspect --model {model} | --clean
inspect --model no-model --clean {images} | no-model
inspect --clean {root}/none | none
inspect --clean {images} | at least 19
inspect {root}/none | takes
report --pictures -1 | --pictures
report --pictures many | --pictures
claim --concepts 0 | --concepts
claim --concepts 11 | 10
claim --seeds 0 | --seeds
claim --poison-seed -1 | --poison-seed
claim --poison admm | adm
claim --defense nothing | nothing
claim --sampling.steps 0 | --sampling.steps
claim --sampling.steps 1001 | steps
claim --sampling.prompts all26 | all26
claim --sampling.scheduler magic | magic
figure 1 --sampling.scheduler magic | magic
grid run table17 --sampling.scheduler magic | magic
claim --poisoning.steps 0 | --poisoning.steps
claim --poisoning.kappa 300 | 255
claim --method dreambooth | dreambooth
claim --out {root}/e.safetensors | e.safetensors
demo --concepts 0 | --concepts
demo --model no-model | no-model
serve --port -1 | --port
serve --port 70000 | --port
serve --port x | whole number
serve --folder {root}/e.safetensors | e.safetensors
serve --model sd16-rf | sd15-rf
serve --threads 0 | --threads
serve --config {root}/none.yaml | none.yaml
serve --host 0.0.0.0 | --host
figure 8 --method lora | --method
figure 22 | 22
figure x | NUMBER
figure 7 --concepts 0 | --concepts
figure 7 --concepts 11 | --concepts 1 to 10
figure 7 --concept HattedMug | give one of the two
figure 7 --timesteps 1 | timesteps
figure 7 --timesteps 5000 | timesteps
figure 7 --images 0 | --images
figure 7 --poison clean | clean
figure 8 --defense foo | foo
figure 7 --data {root}/none | none
figure 7 --at -1 | at
analyze histogram --jpeg 0 | --jpeg
analyze histogram --jpeg 101 | --jpeg
analyze histogram --limit 0 | --limit
analyze histogram {root} | takes
analyze spectrum --vae {images} | toy
analyze spectrum --vae no-model | no-model
analyze timesteps --timesteps 1 | --timesteps
analyze timesteps --draws 0 | --draws
analyze timesteps --embedding {root}/none | none
analyze timesteps --embedding {root}/e.safetensors | <toy>
analyze sensitivity --word cat | cat
analyze sensitivity --timestep 5000 | timestep
analyze sensitivity --rows 0 | --rows
analyze sensitivity --embedding {root}/e.safetensors | <toy>
analyze walk | walk
grid run table3 | table3
grid run {root}/none.yaml | none.yaml
grid run table17 --without x | x
grid run table17 --only x | x
grid run table17 --name a/b | name
grid run table17 --name .. | name
grid run table17 --workers 0 | --workers
grid run table17 --gpus -1 | --gpus
grid run table17 --executor moon | ray
grid run table17 --concepts 11 | 10
grid run table17 --data {root}/none | none
grid run table17 --cluster moon | slurm
grid show table3 | table3
grid show | GRID
grid status | out
grid gc | out
grid export | out
grid walk | walk
list walls | walls
concepts draw | draw
concepts export | DIR
concepts show {root}/sheet.jpg | .png
models path | None
models path maxi | maxi
prompts all26 | all26
prompts {images} | toy
"""


def _images(place: Place, names: str) -> None:
    """Leaves these images and their masks only."""
    for path in place.images.rglob("*.png"):
        if path.stem not in names:
            path.unlink()


def _write(name: str, content: bytes | str) -> Callable[[Place], None]:
    """A file of this name, below the root, with this content."""

    def write(place: Place) -> None:
        path = place.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)

    return write


def _picture(name: str, mode: str = "RGB", size: tuple[int, int] = (64, 64)) -> Any:
    def draw(place: Place) -> None:
        color: Any = 255 if mode == "L" else 90
        Image.new(mode, size, color).save(place.root / name)

    return draw


def _bomb(place: Place) -> None:
    """A PNG header that promises 60,000 x 60,000 pixels."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    crc = struct.pack(">I", zlib.crc32(chunk))
    (place.images / "b.png").write_bytes(b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + crc)


def _pipe(name: str) -> Callable[[Place], None]:
    return lambda place: os.mkfifo(place.root / name)


def _cut(name: str, count: int) -> Callable[[Place], None]:
    def cut(place: Place) -> None:
        path = place.root / name
        path.write_bytes(path.read_bytes()[:count])

    return cut


def _remove(name: str) -> Callable[[Place], None]:
    return lambda place: (place.root / name).unlink()


def _link(name: str, target: str) -> Callable[[Place], None]:
    return lambda place: (place.root / name).symlink_to(target)


def _all_masks_gone(place: Place) -> None:
    for path in (place.images / "masks").iterdir():
        path.unlink()
    (place.images / "masks").rmdir()


def _masks_file(place: Place) -> None:
    _all_masks_gone(place)
    (place.images / "masks").write_text("")


def _long_name(place: Place) -> None:
    (place.images / "b.png").rename(place.images / f"{'b' * 250}.png")


def _poisoned_record(place: Place) -> None:
    (place.images / "manifest.json").write_text(json.dumps({"poison": "adm+"}))


FILES: Final[Mapping[str, tuple[Callable[[Place], object], str, str]]] = {
    "no images": (lambda p: _images(p, ""), "poison", "toy"),
    "one image": (lambda p: _images(p, "a"), "personalize", "3"),
    "a text beside them": (_write("toy/notes.csv", "hello"), "poison", "notes.csv"),
    "a PDF beside them": (_write("toy/scan.pdf", b"%PDF-1.4"), "poison", "scan.pdf"),
    "a video beside them": (_write("toy/clip.mp4", b"ftyp"), "personalize", "clip.mp4"),
    "a text named PNG": (_write("toy/b.png", "hello"), "poison", "b.png"),
    "an empty image": (_write("toy/b.png", ""), "poison", "b.png"),
    "an SVG named PNG": (_write("toy/b.png", "<svg/>"), "poison", "b.png"),
    "a cut image": (_cut("toy/b.png", 200), "poison", "b.png"),
    "a cut image, trained on": (_cut("toy/b.png", 200), "personalize", "b.png"),
    "a cut image, masked": (_cut("toy/b.png", 200), "mask", "b.png"),
    "a cut image, scored": (_cut("toy/b.png", 200), "score", "b.png"),
    "a cut image, analysed": (_cut("toy/b.png", 200), "analyze histogram", "b.png"),
    "a cut image, by timestep": (_cut("toy/b.png", 200), "analyze timesteps", "b.png"),
    "a bomb": (_bomb, "poison", "b.png"),
    "a pipe as image": (_pipe("toy/d.png"), "poison", "d.png"),
    "a dangling link": (_link("toy/d.png", "nowhere.png"), "poison", "d.png"),
    "a link to itself": (_link("toy/d.png", "d.png"), "poison", "d.png"),
    "two images of one name": (_picture("toy/a.webp"), "poison", "a."),
    "a cut image, inspected": (_cut("toy/b.png", 200), "inspect", "b.png"),
    "an image too small to inspect": (_picture("toy/b.png", size=(31, 64)), "inspect", "b.png"),
    "an image of one pixel": (_picture("toy/b.png", size=(1, 1)), "personalize", "b"),
    "a mask of another size": (_picture("toy/masks/a.png", "L", (32, 32)), "mask", "a.png"),
    "a mask that is cut": (_cut("toy/masks/a.png", 60), "mask", "a.png"),
    "a mask that is a text": (_write("toy/masks/a.png", "x"), "personalize", "a.png"),
    "no mask of one image": (_remove("toy/masks/b.png"), "mask", "b"),
    "masks are a file": (
        _masks_file,
        "mask",
        "masks",
    ),
    "no masks for szt": (_all_masks_gone, "personalize --defense szt", "safezone mask"),
    "no masks for a masked poison": (_all_masks_gone, "poison --poison adm+@szt", "safezone mask"),
    "a name of 250 letters": (_long_name, "poison", "bbb"),
    "broken concept.json": (_write("toy/concept.json", "{"), "personalize", "concept.json"),
    "concept.json is a list": (_write("toy/concept.json", "[]"), "poison", "concept.json"),
    "concept.json of NaN": (_write("toy/concept.json", '{"name": 3}'), "poison", "concept.json"),
    "broken manifest": (_write("toy/manifest.json", "{"), "poison", "manifest.json"),
    "poisoned already": (_poisoned_record, "poison", "is poisoned (adm+)"),
    "compared with poisoned images": (_poisoned_record, "score", "is poisoned (adm+)"),
    "a threshold of poisoned images": (
        _poisoned_record,
        "inspect --clean {images}",
        "is poisoned (adm+)",
    ),
    "a poisoned data set": (
        _poisoned_record,
        "grid run table17 --data {root}",
        "is poisoned (adm+)",
    ),
    "a figure of poisoned data": (
        _poisoned_record,
        "figure 7 --data {root}",
        "is poisoned (adm+)",
    ),
    "output is a file": (_write("out", "in the way"), "poison", "out"),
    "output is a file, trained": (_write("out", "in the way"), "personalize", "out"),
    "output is a file, drawn": (_write("out", "in the way"), "generate", "out"),
    "output is a file, exported": (_write("out", "in the way"), "export", "out"),
    "output is a file, analysed": (_write("out", "in the way"), "analyze histogram", "out"),
    "output is a file, claimed": (_write("out", "in the way"), "claim", "out"),
    "output is a file, grid": (_write("out", "in the way"), "grid run table17", "out"),
    "output is another's folder": (_write("out/letter.txt", "x"), "poison", "out"),
    "a pipe as output": (_pipe("out"), "poison", "out"),
    "the target is cut": (
        _write("target.png", b"\x89PNG"),
        "poison --poison ea --target {root}/target.png",
        "target.png",
    ),
    "an own poison that fails": (
        _write("own.py", "1 / 0"),
        "poison --poison x --poison-file {root}/own.py",
        "ZeroDivisionError",
    ),
    "an own poison that exits": (
        _write("own.py", "raise SystemExit(0)"),
        "poison --poison x --poison-file {root}/own.py",
        "own.py",
    ),
    "own poisons that are none": (
        _write("own.py", "x = 1"),
        "poison --poison x --poison-file {root}/own.py",
        "own.py",
    ),
    "own poisons in a pipe": (
        _pipe("own.py"),
        "poison --poison x --poison-file {root}/own.py",
        "own.py",
    ),
    "prompts in Latin-1": (
        _write("p.txt", "a {} in a caf\u00e9".encode("latin-1")),
        "generate --prompts {root}/p.txt",
        "p.txt",
    ),
    "prompts of comments only": (
        _write("p.txt", "# none\n"),
        "generate --prompts {root}/p.txt",
        "p.txt",
    ),
    "prompts that are a folder": (lambda p: None, "generate --prompts {root}/toy", "toy"),
    "prompts in a pipe": (_pipe("p.txt"), "generate --prompts {root}/p.txt", "p.txt"),
    "a model without weights": (
        _write("m/model_index.json", '{"_class_name": "StableDiffusionPipeline"}'),
        "poison --model {root}/m",
        "m",
    ),
    "a model's broken index": (_write("m/model_index.json", "{"), "poison --model {root}/m", "m"),
    "a model that is a text": (
        _write("m.safetensors", "hello"),
        "poison --model {root}/m.safetensors",
        "m.safetensors",
    ),
    "a pickled model": (_write("m.ckpt", b"PK\x03\x04"), "poison --model {root}/m.ckpt", "m.ckpt"),
    "broken images.json": (_write("toy/images.json", "{"), "score", "images.json"),
    "images.json of nothing": (_write("toy/images.json", "{}"), "report", "images.json"),
    "images.json names others": (
        _write("toy/images.json", '{"images": [{"file": "../../x.png", "prompt": "a"}]}'),
        "score",
        "images.json",
    ),
    "broken rows": (_write("copy/index.json", "{}"), "report {root}/copy --title x", "rows"),
    "pairs without a partner": (
        lambda p: p.images.with_name("other").mkdir(),
        "analyze histogram {images} {root}/other --out {out}",
        "other",
    ),
}
"""By what is wrong: how a good place becomes it, the command, a word of the answer."""

CONFIGS: Final[tuple[tuple[str, str], ...]] = (
    ("training:\n  stepz: 3\n", "training.stepz"),
    ("training:\n  steps: 0\n", "training.steps"),
    ("training:\n  steps: many\n", "training.steps"),
    ("training:\n  steps: 2.5\n", "training.steps"),
    ("training:\n  steps: true\n", "training.steps"),
    ("training:\n  learning_rate: .nan\n", "learning_rate"),
    ("training:\n  learning_rate: -.inf\n", "learning_rate"),
    ("training: fast\n", "training"),
    ("training:\n  method: [lora]\n", "training.method"),
    ("training:\n  method: dreambooth\n", "dreambooth"),
    ("training:\n  steps: 3\n  steps: 4\n", "steps is there twice"),
    ("model: mini\ntraining:\n  steps: 3\nmodel: mini-v\n", "model is there twice"),
    ("poisoning:\n  kappa: much\n", "poisoning.kappa"),
    ("sampling:\n  steps: 0\n", "sampling.steps"),
    ("sampling:\n  prompts: a {}\n", "sampling.prompts"),
    ("cells:\n  seeds: 0\n", "cells.seeds"),
    ("cells:\n  defenses: [nominal]\n", "cells.defenses is for"),
    ("3: 4\n", "list of settings"),
    ("- a\n- b\n", "model: mini"),
    ("just words\n", "model: mini"),
    ("training: [\n", "YAML"),
    ("training: !!python/object/apply:os.system ['true']\n", "YAML"),
    ("a: &a [*a]\n", "a"),
    ("training: *none\n", "YAML"),
    ("when: 2024-99-99\n", "YAML"),
    ("\tmodel: mini\n", "YAML"),
    ("model: \x00\n", "YAML"),
)
"""Settings files and a word of the answer; every sentence names the file."""

GRIDS: Final[tuple[tuple[str, str], ...]] = (
    ("", "name"),
    ("name: x\n", "axes"),
    ("axes: {poisons: [clean], defenses: [nominal]}\n", "name"),
    ("name: ../up\naxes: {poisons: [clean], defenses: [nominal]}\n", "../up"),
    ("name: work\naxes: {poisons: [clean], defenses: [nominal]}\n", "work"),
    ("name: .x\naxes: {poisons: [clean], defenses: [nominal]}\n", ".x"),
    ("name: x\naxes: {poisons: [], defenses: [nominal]}\n", "axes.poisons is empty"),
    ("name: x\naxes: {poisons: clean, defenses: [nominal]}\n", "poisons"),
    ("name: x\naxes: {poisons: [admm], defenses: [nominal]}\n", "admm"),
    ("name: x\naxes: {poisons: [clean], defenses: [sztt]}\n", "sztt"),
    ("name: x\naxes: {poisons: [clean], defenses: [lm], methods: [walk]}\n", "walk"),
    ("name: x\naxes: {poisons: [clean], defenses: [lm], concepts: [Nobody]}\n", "Nobody"),
    ("name: x\naxes: {poisons: [clean], defenses: [lm], seeds: [-1]}\n", "seed"),
    ("name: x\naxes: {poisons: [clean], defenses: [lm], seeds: [a]}\n", "seeds"),
    ("name: x\naxes: {poisons: [clean], defenses: [lm], colours: [red]}\n", "colours"),
    ("name: x\naxes: {poisons: [clean], defenses: [lm]}\nmetric: beauty\n", "beauty"),
    ("name: x\naxes: {poisons: [clean], defenses: [lm]}\nexclude: [{poison: ea}]\n", "line 3"),
    ("name: x\naxes: {poisons: [clean], defenses: [lm]}\nexclude: [{}]\n", "no run"),
    ("name: x\nname: y\naxes: {poisons: [clean], defenses: [lm]}\n", "twice"),
    ("name: x\npath: y\naxes: {poisons: [clean], defenses: [lm]}\n", "name, axes"),
    ("- name\n", "list of settings"),
)
"""Grids of one's own and a word of the answer; every sentence names the file."""

_LORA: Final = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"


def _low_rank(down: torch.Tensor, up: torch.Tensor) -> dict[str, torch.Tensor]:
    return {f"{_LORA}.lora_A.weight": down, f"{_LORA}.lora_B.weight": up}


ADAPTERS: Final[Mapping[str, tuple[Any, str]]] = {
    "empty": (b"", "empty"),
    "a text": (b"hello, world, this is no adapter", "download it again"),
    "a web page": (b"<!DOCTYPE html><html></html>", "web page"),
    "a pointer of Git LFS": (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
    "pickled": (b"\x80\x02}q\x00.", "pickled"),
    "a zip": (b"PK\x03\x04" + bytes(60), "pickled"),
    "a header that lies": (struct.pack("<Q", 2**60) + b"{}", "download it again"),
    "a header that is no JSON": (struct.pack("<Q", 8) + b"notjson!", "download it again"),
    "no tensors": ({}, "tensor"),
    "of another width": ({"<toy>": torch.zeros(1, 7)}, "7"),
    "of NaN": ({"<toy>": torch.full((1, 32), float("nan"))}, "NaN"),
    "of infinity": ({"<toy>": torch.full((1, 32), float("inf"))}, "infinite"),
    "of no vectors": ({"<toy>": torch.zeros(0, 32)}, "vector"),
    "of three axes": ({"<toy>": torch.zeros(1, 1, 32)}, "tensor"),
    "of integers": ({"<toy>": torch.zeros(1, 32, dtype=torch.int64)}, "int"),
    "of two words": ({"<a>": torch.zeros(1, 32), "<b>": torch.zeros(1, 32)}, "tensor"),
    "of strange keys": ({"model.x.weight": torch.zeros(4, 4), "y": torch.zeros(2)}, "tensor"),
    "of unequal ranks": (_low_rank(torch.zeros(4, 32), torch.zeros(32, 8)), "rank"),
    "of rank 0": (_low_rank(torch.zeros(0, 32), torch.zeros(32, 0)), "rank"),
    "of layers that the model lacks": (
        {
            "unet.nowhere.to_q.lora_A.weight": torch.zeros(4, 32),
            "unet.nowhere.to_q.lora_B.weight": torch.zeros(32, 4),
        },
        "does not have",
    ),
    "of layers of another size": (_low_rank(torch.zeros(4, 99), torch.zeros(99, 4)), "99"),
    "of a LoRA's half": ({f"{_LORA}.lora_A.weight": torch.zeros(4, 32)}, "lora"),
    "of a LoRA of NaN": (
        _low_rank(torch.full((4, 32), float("nan")), torch.zeros(32, 4)),
        "NaN",
    ),
}
"""Files of adapters and a word of the answer of ``generate``; every sentence names the file."""


def write_adapter(path: Path, content: Any) -> None:
    """Bytes as they are, tensors as safetensors."""
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        save_file(content, path)


def good_place(root: Path, model: Path) -> Place:
    """Three images with masks in ``root``/toy and an embedding, ``root``/e.safetensors."""
    images = root / "toy"
    (images / "masks").mkdir(parents=True)
    rng = np.random.default_rng(0)
    mask = np.zeros((64, 64), np.uint8)
    mask[16:48, 16:48] = 255
    for name in ("a", "b", "c"):
        Image.fromarray(rng.integers(0, 255, (64, 64, 3), np.uint8)).save(images / f"{name}.png")
        Image.fromarray(mask).save(images / "masks" / f"{name}.png")
    save_file({"<toy>": torch.zeros(1, 32)}, root / "e.safetensors")
    return Place(images, model, root / "out")


def command_line(place: Place, text: str) -> list[str]:
    """The words of a command with its usual arguments, and those of the text that are more."""
    name = max((each for each in USUAL if f"{text} ".startswith(f"{each} ")), key=len, default="")
    more, usual = place.words(text[len(name) :]), place.words(USUAL.get(name, ""))
    if {"--out", "--title"} & {*more} and not more[0].startswith("-"):
        usual = []
    options = next((i for i, word in enumerate(more) if word.startswith("-")), len(more))
    return [*name.split(), *more[:options], *usual, *more[options:]]
