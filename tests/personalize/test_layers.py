"""LoRA and Custom Diffusion: many runs in one pass, each as if it were alone."""

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import safezone
from processes import run_pytest
from safezone.arrays import stream
from safezone.concepts import Concept
from safezone.defenses import masked_loss
from safezone.errors import UserError
from safezone.generate import generate
from safezone.models import Conditioning, Model, load_model
from safezone.models.deltas import Changes, Delta, Full, LowRank, _added
from safezone.personalize import (
    Adapter,
    CustomDiffusion,
    LoRA,
    Personalization,
    TextualInversion,
    TrainingRun,
    load_adapter,
    read_adapter,
    save_adapter,
    train,
)
from safezone.personalize.draws import draw, pick
from safezone.personalize.posteriors import training_data

METHODS: dict[str, Personalization] = {
    "lora": LoRA(steps=4, learning_rate=1e-2, checkpoint_every=3, log_every=2),
    "lora with text encoder": LoRA(steps=4, learning_rate=1e-2, rank=2, text_encoder=True),
    "custom diffusion": CustomDiffusion(steps=4, learning_rate=2e-3, checkpoint_every=3),
}
METHOD = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)


def weights(adapter: Adapter) -> torch.Tensor:
    """Everything that was learned, in one row."""
    parts = [adapter.vectors.flatten()]
    for _, delta in sorted(adapter.deltas.items()):
        parts += [delta.weight().flatten()]
    return torch.cat(parts)


def distance(first: torch.Tensor, second: torch.Tensor) -> float:
    """Relative, in the L2 norm."""
    return float((first - second).norm() / second.norm())


def moved(adapter: Adapter, model: Model) -> torch.Tensor:
    start = model.word_vectors("dog") if len(adapter.vectors) else adapter.vectors
    return weights(replace(adapter, vectors=adapter.vectors - start))


def gradients(folder: Path) -> list[torch.Tensor]:
    """Of the first step, [runs, ...]: Adam's first moment is a tenth of them."""
    moments = load_file(folder / "checkpoint.safetensors")
    return [moments[name] for name in sorted(moments) if name.startswith("exp_avg/")]


@METHOD
def test_eight_runs_equal_eight_single_runs(
    tiny_model: Model, sixteen: Sequence[TrainingRun], method: Personalization, tmp_path: Path
) -> None:
    """The gradients to float tolerance; Adam divides each by its own size, so the rounding of the
    smallest ones grows in what is learned."""
    runs = sixteen[4:12]
    together = train(tiny_model, runs, method, progress=False)
    train(tiny_model, runs, replace(method, steps=1), tmp_path / "all", progress=False)
    for r, (run, adapter) in enumerate(zip(runs, together, strict=True)):
        (alone,) = train(tiny_model, [run], method, progress=False)
        assert distance(moved(adapter, tiny_model), moved(alone, tiny_model)) < 5e-3
        train(tiny_model, [run], replace(method, steps=1), tmp_path / str(r), progress=False)
        ours = torch.cat([g[r].flatten() for g in gradients(tmp_path / "all")])
        single = torch.cat([g[0].flatten() for g in gradients(tmp_path / str(r))])
        assert distance(ours, single) < 1e-5
    assert distance(moved(together[0], tiny_model), moved(together[1], tiny_model)) > 1e-1


@pytest.mark.parametrize("name", ["lora", "custom diffusion"])
def test_a_stopped_training_goes_on_bit_for_bit(
    tiny_model: Model, sixteen: Sequence[TrainingRun], tmp_path: Path, name: str
) -> None:
    class Stop(Exception):
        pass

    def stop(step: int, adapters: list[Adapter]) -> None:
        raise Stop

    method, runs = METHODS[name], sixteen[6:8]
    whole = train(tiny_model, runs, method, tmp_path / "whole", progress=False)
    with pytest.raises(Stop):
        train(
            tiny_model,
            runs,
            replace(method, preview_every=3),
            tmp_path / "killed",
            progress=False,
            preview=stop,
        )
    resumed = train(tiny_model, runs, method, tmp_path / "killed", progress=False)
    for one, other in zip(whole, resumed, strict=True):
        assert torch.equal(weights(one), weights(other))
    names = [
        str(p.relative_to(tmp_path / "whole"))
        for p in (tmp_path / "whole").rglob("*")
        if p.is_file()
    ]
    assert names
    for each in names:
        assert (tmp_path / "whole" / each).read_bytes() == (tmp_path / "killed" / each).read_bytes()


def layer(model: Model, name: str) -> Any:
    part, path = name.split(".", 1)
    module = getattr(model, part)
    return getattr(module, "text_model", module).get_submodule(path)


class Merged:
    """Within the block the model's own weights are those of the adapter."""

    def __init__(self, model: Model, deltas: dict[str, Delta]) -> None:
        self.model, self.deltas = model, deltas

    def __enter__(self) -> None:
        self.before = {name: layer(self.model, name).weight.data for name in self.deltas}
        for name, delta in self.deltas.items():
            weight = self.before[name]
            layer(self.model, name).weight.data = weight + delta.weight().view_as(weight)

    def __exit__(self, *_: object) -> None:
        for name, weight in self.before.items():
            layer(self.model, name).weight.data = weight


@METHOD
def test_a_change_is_that_of_the_weights(
    tiny_model: Model, concept: Concept, run_of: Callable[..., TrainingRun], method: Personalization
) -> None:
    (adapter,) = train(tiny_model, [run_of(concept)], replace(method, steps=3), progress=False)

    def draw_with(adapter: Adapter) -> torch.Tensor:
        (images,) = generate(
            tiny_model, [adapter], ["a photo of a {}"], seed=2, steps=3, progress=False
        )
        return images.int()

    ours, plain = draw_with(adapter), draw_with(replace(adapter, deltas={}))
    with Merged(tiny_model, dict(adapter.deltas)):
        merged = draw_with(replace(adapter, deltas={}))
    assert int((ours - merged).abs().max()) <= 1
    assert int((ours - plain).abs().max()) > 1


def test_lora_equals_the_loop_written_out(
    tiny_model: Model, concept: Concept, run_of: Callable[..., TrainingRun]
) -> None:
    run = run_of(concept, "szt", seed=3).prepare(tiny_model)
    method = LoRA(
        steps=3, batch_size=2, learning_rate=1e-2, alpha=2.0, targets=("to_k",), flip=False
    )
    (adapter,) = train(tiny_model, [run], method, progress=False)
    start = {
        name: value.clone().requires_grad_(True)
        for name, value in method.begin(tiny_model, run).items()
    }
    data, process = training_data(tiny_model, [run], flip=False), tiny_model.process
    optimiser = torch.optim.AdamW(start.values(), lr=1e-2, weight_decay=0.0)
    conditioning = tiny_model.embed_text(tiny_model.tokenize(["a photo of a * dog"] * 2))
    for step in range(3):
        draws = draw([(3, "duck")], step, 2, data.shape)
        image = pick(draws.image, 3)[0]
        clean = data.latents(data.rows[0, image, 0], draws.posterior_noise)
        timesteps = run.timesteps.sample(draws.timestep[0], process.steps)
        noisy = process.corrupt(clean, draws.noise, timesteps)
        handles = [
            layer(tiny_model, name).register_forward_hook(
                lambda m, given, out, n=name: (
                    out + 0.5 * given[0] @ start[f"{n}.down"].T @ start[f"{n}.up"].T
                )
            )
            for name in adapter.deltas
        ]
        prediction = tiny_model.predict(noisy, timesteps, conditioning)
        for handle in handles:
            handle.remove()
        assert data.weights is not None
        error = prediction - process.target(clean, draws.noise, timesteps)
        optimiser.zero_grad()
        masked_loss(error, data.weights[data.weight_rows[0, image, 0]]).mean().backward()
        optimiser.step()
    for name, delta in adapter.deltas.items():
        assert isinstance(delta, LowRank)
        assert delta.scale == 0.5
        expected = 0.5 * start[f"{name}.up"] @ start[f"{name}.down"]
        assert distance(delta.weight(), expected.detach()) < 1e-4


@METHOD
def test_recomputing_activations_changes_nothing(
    tiny_model: Model, sixteen: Sequence[TrainingRun], method: Personalization
) -> None:
    method = replace(method, steps=3)
    kept = train(tiny_model, sixteen[6:8], method, progress=False)
    again = train(tiny_model, sixteen[6:8], method, progress=False, checkpointing=True)
    for one, other in zip(kept, again, strict=True):
        assert distance(weights(one), weights(other)) < 1e-4


def test_accumulated_passes_are_one_larger_batch(
    tiny_model: Model, sixteen: Sequence[TrainingRun]
) -> None:
    method = replace(METHODS["lora"], steps=3)
    large = train(tiny_model, sixteen[:2], replace(method, batch_size=4), progress=False)
    small = train(
        tiny_model, sixteen[:2], replace(method, batch_size=2, accumulation=2), progress=False
    )
    for one, other in zip(large, small, strict=True):
        assert distance(weights(one), weights(other)) < 1e-4


def test_the_start_token_is_left_out_of_the_learning(tiny_model: Model) -> None:
    change = torch.zeros(1, 4, 3, requires_grad=True)
    changes = Changes({"x": Full(change, frozen_start=True)}, torch.zeros(2, dtype=torch.int64))
    given = torch.randn(2, 5, 3, requires_grad=True)
    output = _added(changes.layers["x"], changes.owners, given, given @ torch.ones(3, 4))
    output[:, 1:].sum().backward(retain_graph=True)
    assert change.grad is not None
    rest = change.grad.clone()
    output[:, 0].sum().backward()
    assert torch.equal(change.grad, rest)


@METHOD
def test_nothing_of_the_model_changes(
    tiny_model: Model, concept: Concept, run_of: Callable[..., TrainingRun], method: Personalization
) -> None:
    modules = [getattr(tiny_model, name) for name in ("unet", "text_encoder")]
    before = [p.clone() for module in modules for p in module.parameters()]
    train(tiny_model, [run_of(concept)], replace(method, steps=2), progress=False)
    after = [p for module in modules for p in module.parameters()]
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
    assert all(p.grad is None for p in after)


@METHOD
def test_what_is_saved_is_loaded_and_gone_on_from(
    tiny_model: Model,
    concept: Concept,
    run_of: Callable[..., TrainingRun],
    tmp_path: Path,
    method: Personalization,
) -> None:
    run = run_of(concept).prepare(tiny_model)
    (adapter,) = train(tiny_model, [run], replace(method, steps=2), progress=False)
    path = save_adapter(adapter, tmp_path)
    for loaded in (read_adapter(tmp_path), load_adapter(path, tiny_model)):
        torch.testing.assert_close(weights(loaded), weights(adapter))
        assert (loaded.words, loaded.class_word) == (adapter.words, "dog")
        assert loaded.provenance == adapter.provenance
        assert sorted(loaded.deltas) == sorted(adapter.deltas)
    begun = method.deltas(replace(method, start=path).begin(tiny_model, run))
    for name, delta in begun.items():
        torch.testing.assert_close(delta.weight(), adapter.deltas[name].weight())
    if len(adapter.vectors):
        with pytest.raises(UserError, match="layers beside its token vectors"):
            TextualInversion(start=path).begin(tiny_model, run)
    again = replace(method, start=path, steps=1, learning_rate=1e-7)
    (further,) = train(tiny_model, [run], again, progress=False)
    assert distance(weights(further), weights(adapter)) < 1e-2
    assert again.content() != replace(method, steps=1).content()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"rank": 0}, "rank is 0"),
        ({"alpha": -1.0}, "alpha is -1"),
        ({"alpha": float("nan")}, "alpha is nan"),
        ({"targets": ("to_z",)}, "to_z"),
    ],
)
def test_unfit_settings_are_refused(
    tiny_model: Model,
    concept: Concept,
    run_of: Callable[..., TrainingRun],
    values: dict[str, Any],
    words: str,
) -> None:
    with pytest.raises(UserError, match=words):
        train(tiny_model, [run_of(concept)], LoRA(**values), progress=False)


@pytest.mark.parametrize("method", [LoRA, CustomDiffusion])
@pytest.mark.parametrize("values", [{"steps": 0}, {"learning_rate": -1.0}], ids=str)
def test_what_a_method_has_its_own_default_of_keeps_its_range(
    method: Callable[..., Any], values: dict[str, Any]
) -> None:
    with pytest.raises(UserError, match=f"{min(values)} is "):
        method(**values)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@METHOD
def test_half_precision_learns_nearly_the_same(
    tiny_model_folder: Path,
    tiny_model: Model,
    concept: Concept,
    run_of: Callable[..., TrainingRun],
    method: Personalization,
    dtype: torch.dtype,
    tmp_path: Path,
) -> None:
    half = load_model(tiny_model_folder, dtype=dtype)
    once, run = replace(method, steps=1), run_of(concept, "szt")
    for name, model in (("half", half), ("single", tiny_model)):
        (adapter,) = train(model, [run], once, tmp_path / name, progress=False)
        assert not adapter.failed
        assert {each.dtype for each in gradients(tmp_path / name)} == {torch.float32}
    ours, single = (
        torch.cat([g.flatten() for g in gradients(tmp_path / name)]) for name in ("half", "single")
    )
    assert torch.nn.functional.cosine_similarity(ours, single, dim=0) > 0.98
    assert float(ours.norm() / single.norm()) == pytest.approx(1, abs=0.1)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_changes_do_not_break_the_compilers_graph(
    tiny_model: Model, concept: Concept, run_of: Callable[..., TrainingRun]
) -> None:
    """``fullgraph`` refuses breaks; new values of the changes are new inputs of the same graph."""
    if os.environ.get("SAFEZONE_SHAPES") != "none":  # the checks of shapes cannot be compiled
        this = f"{__file__}::test_changes_do_not_break_the_compilers_graph"
        done = run_pytest(Path(safezone.__file__).parents[1], this, SAFEZONE_SHAPES="none")
        assert done.status == 0 and "1 passed" in done.out, done
        return
    network = torch.compile(tiny_model.predict, dynamic=False, fullgraph=True, backend="eager")
    noisy, timesteps = torch.randn(2, 4, 8, 8, generator=stream("noisy")), torch.tensor([5, 900])
    conditioning = tiny_model.embed_text(tiny_model.tokenize(["a dog", "a cat"]))
    method, drawn = LoRA(), []
    for seed in range(2):
        start = method.begin(tiny_model, run_of(concept, seed=seed).prepare(tiny_model))
        parameters = {name: torch.stack([value, 2 * value]) + 0.1 for name, value in start.items()}
        changes = Changes(method.deltas(parameters), torch.tensor([0, 1]))
        with_changes = Conditioning(conditioning.encoder_hidden_states, None, changes)
        drawn.append(network(noisy, timesteps, with_changes))
        torch.testing.assert_close(drawn[-1], tiny_model.predict(noisy, timesteps, with_changes))
    assert distance(drawn[0], drawn[1]) > 1e-3


def test_prior_preservation_adds_the_loss_on_the_class(
    tiny_model: Model, sixteen: Sequence[TrainingRun], tmp_path: Path
) -> None:
    """The gradient is that of the concept plus the weight times that of the class's images."""
    images = torch.randint(0, 256, (2, 3, 64, 64), generator=stream("dogs")).to(torch.uint8)
    runs = [replace(run, prior=images) for run in sixteen[6:9]]
    method = replace(METHODS["lora"], steps=1, batch_size=2)
    found = {}
    for weight in (0.0, 1.0, 2.0):
        place = tmp_path / str(weight)
        train(tiny_model, runs, replace(method, prior_weight=weight), place, progress=False)
        found[weight] = torch.cat([g.flatten(1) for g in gradients(place)], dim=1)
    one, two = (found[weight] - found[0.0] for weight in (1.0, 2.0))
    assert float(one.norm()) > 0
    assert distance(two, 2 * one) < 1e-4
    alone = tmp_path / "alone"
    train(tiny_model, [runs[1]], replace(method, prior_weight=2.0), alone, progress=False)
    single = torch.cat([g.flatten(1) for g in gradients(alone)], dim=1)[0]
    assert distance(found[2.0][1], single) < 1e-5
    with pytest.raises(UserError, match="no images of its class"):
        train(tiny_model, sixteen[:1], replace(method, prior_weight=1.0), progress=False)
