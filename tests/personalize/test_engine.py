"""What the loop promises: no neighbour matters, no kill matters, one NaN stays one NaN."""

import json
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from safezone.concepts import Concept
from safezone.concepts.datasets import miniworld_concepts
from safezone.defenses import Defense, LossMask, defense, masked_loss
from safezone.defenses.loss_masks import Masked
from safezone.errors import UserError
from safezone.models import Model, load_model
from safezone.personalize import Adapter, TextualInversion, TrainingRun, train
from safezone.personalize.checkpoints import log_path
from safezone.personalize.draws import draw, pick
from safezone.personalize.posteriors import training_data

SHORT = TextualInversion(steps=7, learning_rate=5e-3, checkpoint_every=3, log_every=2)
TEMPLATES = ("a photo of a {}", "a {}", "the {} on grass")


def distance(first: torch.Tensor, second: torch.Tensor) -> float:
    """Relative, in the L2 norm."""
    return float((first - second).norm() / second.norm())


def test_a_run_in_company_equals_the_run_alone(
    tiny_model: Model, sixteen: Sequence[TrainingRun]
) -> None:
    settings = TextualInversion(steps=20, learning_rate=5e-3)
    together = train(tiny_model, sixteen, settings, progress=False)
    for i in (7, 13):
        (alone,) = train(tiny_model, [sixteen[i]], settings, progress=False)
        assert distance(together[i].vectors, alone.vectors) < 1e-4
        assert distance(together[i - 1].vectors, alone.vectors) > 1e-2


@pytest.mark.slow
def test_a_run_in_company_equals_the_run_alone_at_the_rate_of_the_built_in_model(
    run_of: Callable[..., TrainingRun],
) -> None:
    """A hundred times Stable Diffusion's, where differences would grow faster."""
    model = load_model("mini")
    settings = TextualInversion(steps=15, batch_size=2, learning_rate=5e-2, vectors=2)
    runs = [
        run_of(concept, kind, seed)
        for seed, concept in enumerate(miniworld_concepts()[:2])
        for kind in ("nominal", "jpeg", "t600", "szt")
    ]
    together = train(model, runs, settings, progress=False)
    for i in (2, 7):
        (alone,) = train(model, [runs[i]], settings, progress=False)
        assert distance(together[i].vectors, alone.vectors) < 1e-4
        assert distance(together[i - 1].vectors, alone.vectors) > 1e-2


@pytest.mark.parametrize("max_batch", [1, 3])
def test_chunks_do_not_matter(
    tiny_model: Model, sixteen: Sequence[TrainingRun], max_batch: int
) -> None:
    settings = replace(SHORT, batch_size=2, templates=TEMPLATES)
    whole = train(tiny_model, sixteen[5:8], settings, progress=False)
    parts = train(tiny_model, sixteen[5:8], settings, progress=False, max_batch=max_batch)
    for one, other in zip(whole, parts, strict=True):
        assert distance(one.vectors, other.vectors) < 1e-4


@pytest.mark.parametrize(
    "kind", ["nominal", "szt", "im", "lim", "zm", "tanh5", "mpp-d16", "noise-word"]
)
def test_equals_the_loop_written_out(
    tiny_model: Model, concept: Concept, run_of: Callable[..., TrainingRun], kind: str
) -> None:
    run = run_of(concept, kind, seed=3).prepare(tiny_model)
    settings = replace(SHORT, steps=4, batch_size=2, templates=TEMPLATES, weight_decay=0.1)
    (adapter,) = train(tiny_model, [run], settings, progress=False)
    data = training_data(tiny_model, [run], flip=True)
    process = tiny_model.process
    vectors = tiny_model.word_vectors("dog")[None].clone().requires_grad_(True)
    optimiser = torch.optim.AdamW([vectors], lr=5e-3, weight_decay=0.1)
    for step in range(4):
        draws = draw([(3, "duck")], step, 2, data.shape)
        image, side = pick(draws.image, 3)[0], (draws.flip[0] < 0.5).long()
        clean = data.latents(data.rows[0, image, side], draws.posterior_noise)
        timesteps = run.timesteps.sample(draws.timestep[0], process.steps)
        prompts = [TEMPLATES[i].format("<duck>") for i in pick(draws.template, 3)[0].tolist()]
        if kind == "noise-word":
            prompts = [f"{prompt}, noisy" for prompt in prompts]
        tokens = tiny_model.tokenize(prompts, "<duck>")
        conditioning = tiny_model.embed_text(tokens, vectors.expand(2, -1, -1))
        noisy = process.corrupt(clean, draws.noise, timesteps)
        if kind == "zm":
            assert data.latent_weights is not None
            noisy = noisy * data.latent_weights[data.weight_rows[0, image, side]]
        prediction = tiny_model.predict(noisy, timesteps, conditioning)
        target = process.target(clean, draws.noise, timesteps)
        if kind == "mpp-d16":
            assert data.target_weights is not None
            inside = data.target_weights[data.weight_rows[0, image, side]] == 1
            start = tiny_model.word_vectors("dog").expand(2, -1, -1)
            before = tiny_model.predict(noisy, timesteps, tiny_model.embed_text(tokens, start))
            target = target.where(inside, before)
            assert 0 < inside.float().mean() < 1
        error = prediction - target
        weights = None if data.weights is None else data.weights[data.weight_rows[0, image, side]]
        optimiser.zero_grad()
        masked_loss(error, weights).mean().backward()
        optimiser.step()
    assert distance(adapter.vectors, vectors.detach()[0]) < 1e-5


def everything(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


class Stop(Exception):
    pass


def raises(step: int) -> Callable[[int, list[Adapter]], None]:
    def preview(done: int, adapters: list[Adapter]) -> None:
        if done == step:
            raise Stop

    return preview


@pytest.mark.parametrize("killed_at", [[2], [3], [5, 6]])
def test_a_stopped_training_goes_on_bit_for_bit(
    tiny_model: Model, sixteen: Sequence[TrainingRun], tmp_path: Path, killed_at: list[int]
) -> None:
    settings = replace(SHORT, preview_every=1)
    runs = sixteen[6:8]

    def go(folder: str, stop: int) -> list[Adapter]:
        return train(
            tiny_model, runs, settings, tmp_path / folder, progress=False, preview=raises(stop)
        )

    undisturbed = go("whole", 0)
    for stop in killed_at:
        with pytest.raises(Stop):
            go("killed", stop)
    resumed = go("killed", 0)
    for one, other in zip(undisturbed, resumed, strict=True):
        assert torch.equal(one.vectors, other.vectors)
        assert one.history is not None
        assert other.history is not None
        assert torch.equal(one.history.vectors, other.history.vectors)
        assert one.provenance == other.provenance
    assert everything(tmp_path / "whole") == everything(tmp_path / "killed")


@pytest.mark.parametrize("moment", ["between steps", "while a checkpoint is written"])
def test_a_process_killed_outright_loses_nothing(
    tiny_model: Model,
    concept: Concept,
    run_of: Callable[..., TrainingRun],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    moment: str,
) -> None:
    settings = replace(SHORT, preview_every=1)
    runs = [run_of(concept, "szt")]

    def kill(done: int, adapters: list[Adapter]) -> None:
        if done == 5 and moment == "between steps":
            os.kill(os.getpid(), signal.SIGKILL)

    def train_in(folder: str, preview: Callable[[int, list[Adapter]], None]) -> list[Adapter]:
        return train(tiny_model, runs, settings, tmp_path / folder, progress=False, preview=preview)

    child = os.fork()
    if child == 0:
        if moment != "between steps":
            rename, calls = os.replace, []

            def replace_or_die(source: Path, target: Path) -> None:
                calls.append(target)
                if len(calls) == 2:
                    os.kill(os.getpid(), signal.SIGKILL)
                rename(source, target)

            monkeypatch.setattr(os, "replace", replace_or_die)
        try:
            train_in("killed", kill)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)
    assert (tmp_path / "killed" / "checkpoint.safetensors").exists()
    (resumed,) = train_in("killed", lambda done, adapters: None)
    (undisturbed,) = train_in("whole", lambda done, adapters: None)
    assert torch.equal(resumed.vectors, undisturbed.vectors)
    assert everything(tmp_path / "whole") == everything(tmp_path / "killed")


def test_a_finished_training_is_not_done_again(
    tiny_model: Model, concept: Concept, run_of: Callable[..., TrainingRun], tmp_path: Path
) -> None:
    runs = [run_of(concept)]
    (first,) = train(tiny_model, runs, SHORT, tmp_path, progress=False)
    before = everything(tmp_path)
    calls: list[int] = []
    settings = replace(SHORT, preview_every=1)
    (again,) = train(
        tiny_model,
        runs,
        settings,
        tmp_path,
        progress=False,
        preview=lambda done, adapters: calls.append(done),
    )
    assert torch.equal(first.vectors, again.vectors)
    assert first.provenance == again.provenance
    assert not calls
    assert everything(tmp_path) == before


@pytest.mark.parametrize(
    "other",
    [
        lambda run, settings: (run, replace(settings, learning_rate=1e-3)),
        lambda run, settings: (run, replace(settings, steps=12)),
        lambda run, settings: (replace(run, seed=1), settings),
        lambda run, settings: (
            replace(run, concept=run.concept.with_images(255 - run.concept.images)),
            settings,
        ),
        lambda run, settings: (replace(run, defense=defense("jpeg")), settings),
        lambda run, settings: (replace(run, defense=defense("t600")), settings),
        lambda run, settings: (replace(run, defense=defense("lm")), settings),
    ],
    ids=["learning rate", "steps", "seed", "images", "preprocess", "timesteps", "loss mask"],
)
def test_a_checkpoint_of_another_training_is_refused(
    tiny_model: Model,
    concept: Concept,
    run_of: Callable[..., TrainingRun],
    tmp_path: Path,
    other: Callable[[TrainingRun, TextualInversion], tuple[TrainingRun, TextualInversion]],
) -> None:
    run, settings = run_of(concept), replace(SHORT, steps=1)
    train(tiny_model, [run], settings, tmp_path, progress=False)
    before = everything(tmp_path)
    changed, changed_settings = other(run, settings)
    with pytest.raises(UserError, match=r"checkpoint\.safetensors was made with other"):
        train(tiny_model, [changed], changed_settings, tmp_path, progress=False)
    assert everything(tmp_path) == before


def test_a_file_that_is_no_checkpoint_is_refused(
    tiny_model: Model, concept: Concept, run_of: Callable[..., TrainingRun], tmp_path: Path
) -> None:
    (tmp_path / "checkpoint.safetensors").write_bytes(b"nothing of the kind")
    with pytest.raises(UserError, match="delete it"):
        train(tiny_model, [run_of(concept)], SHORT, tmp_path, progress=False)


@dataclass(frozen=True)
class BrokenImage(LossMask):
    """A loss mask that is NaN on the last image."""

    def __call__(
        self,
        images: torch.Tensor,
        masks: torch.Tensor | None,
        factor: int,
        *,
        concept: str = "the concept",
    ) -> Masked:
        weights = torch.ones(3, 1, 8, 8)
        weights[-1] = torch.nan
        return Masked(images, weights)


def test_a_run_that_becomes_nan_fails_alone(
    tiny_model: Model,
    concept: Concept,
    run_of: Callable[..., TrainingRun],
    sixteen: Sequence[TrainingRun],
    tmp_path: Path,
) -> None:
    broken = run_of(concept, Defense("broken", loss_mask=BrokenImage()), seed=4)
    images = [int(pick(draw([(4, "duck")], s, 1, ()).image, 3)) for s in range(SHORT.steps)]
    failed_at = images.index(2) + 1
    assert 1 < failed_at < SHORT.steps, "the seed has to draw the broken image in the middle"
    runs = [sixteen[0], broken, sixteen[7]]
    adapters = train(tiny_model, runs, SHORT, tmp_path, progress=False)
    assert [adapter.failed for adapter in adapters] == [False, True, False]
    assert adapters[1].provenance["failed_at"] == failed_at
    for i in (0, 2):
        (alone,) = train(tiny_model, [runs[i]], SHORT, progress=False)
        assert distance(adapters[i].vectors, alone.vectors) < 1e-4
    healthy = run_of(concept, "nominal", seed=4)
    (before,) = train(tiny_model, [healthy], replace(SHORT, steps=failed_at - 1), progress=False)
    assert distance(adapters[1].vectors, before.vectors) < 1e-4
    log = [json.loads(line) for line in log_path(tmp_path, broken.key).read_text().splitlines()]
    assert log[-1]["failed_at"] == failed_at
    again = train(tiny_model, runs, SHORT, tmp_path, progress=False)
    assert torch.equal(again[1].vectors, adapters[1].vectors)


@dataclass(frozen=True)
class AllBroken(BrokenImage):
    def __call__(
        self,
        images: torch.Tensor,
        masks: torch.Tensor | None,
        factor: int,
        *,
        concept: str = "the concept",
    ) -> Masked:
        return Masked(images, torch.full((3, 1, 8, 8), torch.nan))


def test_a_training_of_failed_runs_only_ends(
    tiny_model: Model, concept: Concept, run_of: Callable[..., TrainingRun]
) -> None:
    broken = run_of(concept, Defense("broken", loss_mask=AllBroken()))
    (adapter,) = train(tiny_model, [broken], SHORT, progress=False)
    assert adapter.provenance["failed_at"] == 1
    assert adapter.provenance["final_loss"] is None
    assert torch.equal(adapter.vectors, tiny_model.word_vectors("dog"))


def test_the_log_tells_loss_norm_and_rate(
    tiny_model: Model, concept: Concept, run_of: Callable[..., TrainingRun], tmp_path: Path
) -> None:
    name = "медвежонок, " * 20  # as a file's name, quoted as in a URL, it would be too long
    run = replace(run_of(concept), key=name)
    assert log_path(tmp_path, name) != log_path(tmp_path, name + "1")
    settings = replace(SHORT, steps=8, schedule="linear")
    (adapter,) = train(tiny_model, [run], settings, tmp_path, progress=False)
    log = [json.loads(line) for line in log_path(tmp_path, run.key).read_text().splitlines()]
    assert [line["step"] for line in log] == [2, 4, 6, 8]
    assert log[-1]["norm"] == pytest.approx(float(adapter.vectors.norm()), rel=1e-5)
    assert log[-1]["loss"] == adapter.provenance["final_loss"]
    assert [line["lr"] for line in log] == pytest.approx(
        [5e-3 * f for f in (7 / 8, 5 / 8, 3 / 8, 1 / 8)]
    )


@pytest.mark.parametrize(
    ("schedule", "factors"),
    [("constant", (1, 1, 1)), ("linear", (1, 0.5, 0.1)), ("cosine", (1, 0.5, 0.0245))],
)
def test_schedules(schedule: str, factors: tuple[float, ...]) -> None:
    settings = TextualInversion(steps=10, learning_rate=2.0, schedule=schedule)  # type: ignore[arg-type]
    rates = [settings.rate(step) for step in (0, 5, 9)]
    assert rates == pytest.approx([2 * factor for factor in factors], abs=1e-3)


@pytest.mark.parametrize(
    ("count", "words"), [(0, "no runs"), (2, "Two runs have the key 'duck/nominal/0'")]
)
def test_unfit_lists_of_runs_are_refused(
    tiny_model: Model,
    concept: Concept,
    run_of: Callable[..., TrainingRun],
    count: int,
    words: str,
) -> None:
    with pytest.raises(UserError, match=words):
        train(tiny_model, [run_of(concept)] * count, SHORT, progress=False)


def test_the_global_random_state_is_left_alone(
    tiny_model: Model, concept: Concept, run_of: Callable[..., TrainingRun]
) -> None:
    before = torch.get_rng_state()
    train(tiny_model, [run_of(concept)], replace(SHORT, steps=1), progress=False)
    assert torch.equal(before, torch.get_rng_state())
