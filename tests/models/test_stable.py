"""The protocol over stock diffusers parts gives what the stock pipeline gives."""

import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline

from safezone.arrays import randn, stream
from safezone.errors import UserError
from safezone.models import Epsilon, RectifiedFlow, Tokens, Velocity, load_model
from safezone.models.stable import StableDiffusion
from tiny import tiny_pipeline, write_tiny_folder

PROMPT = "a photo of a <r> on the beach"
PREDICTION_TYPES = {"epsilon": Epsilon, "v_prediction": Velocity, "flow_prediction": RectifiedFlow}
SCHEDULERS = ("ddim", "ddpm", "dpm++", "euler", "pndm")


@pytest.fixture(scope="module")
def model(tiny_model: StableDiffusion) -> StableDiffusion:
    return tiny_model


@pytest.fixture(scope="module")
def stock(tiny_model_folder: Path) -> Any:
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_model_folder, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def models(
    tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, StableDiffusion]:
    folders = {"epsilon": tiny_model_folder}
    for kind in ("v_prediction", "flow_prediction"):
        folder = tmp_path_factory.mktemp("kinds") / kind
        folders[kind] = write_tiny_folder(folder, prediction_type=kind)
    return {kind: load_model(folder) for kind, folder in folders.items()}  # type: ignore[misc]


def stock_ids(stock: Any, prompt: str) -> torch.Tensor:
    tokenizer = stock.tokenizer
    ids: torch.Tensor = tokenizer(
        prompt,
        padding="max_length",
        max_length=tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    ).input_ids
    return ids


def stock_embedding(stock: Any, prompt: str) -> torch.Tensor:
    embedding: torch.Tensor = stock.encode_prompt(prompt, "cpu", 1, False)[0]
    return embedding


def test_facts(model: StableDiffusion, tiny_model_folder: Path) -> None:
    assert (model.image_size, model.factor, model.latent_channels) == (64, 8, 4)
    assert (model.embedding_width, model.length) == (32, 77)
    assert (model.name, model.folder) == ("tiny", tiny_model_folder)


@pytest.mark.parametrize("kind", PREDICTION_TYPES)
def test_the_scheduler_file_decides_the_process(
    models: dict[str, StableDiffusion], kind: str
) -> None:
    assert type(models[kind].process) is PREDICTION_TYPES[kind]
    assert models[kind].process.steps == 1000


def test_alphas_are_those_of_the_folder(model: StableDiffusion, stock: Any) -> None:
    assert isinstance(model.process, Epsilon)
    assert torch.equal(model.process.alphas_cumprod, stock.scheduler.alphas_cumprod)


def test_frozen_and_in_eval_mode(model: StableDiffusion) -> None:
    for module in (model.unet, model.vae, model.text_encoder):
        assert not module.training
        assert not any(parameter.requires_grad for parameter in module.parameters())


# Text


@pytest.mark.parametrize(
    "prompt",
    ["", "a photo of a cat", "A  Photo of, a ZEBRA's (very) naïve 2nd toy!", "a cat " * 60],
)
def test_tokens_are_those_of_the_stock_pipeline(
    model: StableDiffusion, stock: Any, prompt: str
) -> None:
    with warnings.catch_warnings(action="ignore"):
        tokens = model.tokenize([prompt])
    assert torch.equal(tokens.ids, stock_ids(stock, prompt))
    assert (tokens.slots == -1).all()


@pytest.mark.parametrize("vectors", [1, 2, 5])
@pytest.mark.parametrize("placeholder", ["<r>", "cat", "sks [V]"])
def test_slots_stand_where_the_placeholder_stood(
    model: StableDiffusion, vectors: int, placeholder: str
) -> None:
    prompts = [f"a photo of a {placeholder} on the beach", f"{placeholder}", "a dog"]
    tokens = model.tokenize(prompts, placeholder, vectors)
    assert tokens.ids.shape == tokens.slots.shape == (3, model.length)
    assert tokens.slots[0, 5 : 5 + vectors].tolist() == list(range(vectors))
    assert tokens.slots[1, 1 : 1 + vectors].tolist() == list(range(vectors))
    assert (tokens.slots >= 0).sum(dim=1).tolist() == [vectors, vectors, 0]
    ordinary = model.tokenize(["a photo of a on the beach"]).ids[0]
    assert torch.equal(tokens.ids[0, tokens.slots[0] < 0], ordinary[: model.length - vectors])


def test_a_placeholder_may_stand_twice(model: StableDiffusion) -> None:
    slots = model.tokenize(["a <r> and a <r>"], "<r>", 2).slots[0]
    assert slots[slots >= 0].tolist() == [0, 1, 0, 1]


def test_slots_do_not_move_the_pooled_position(model: StableDiffusion) -> None:
    tokens = model.tokenize([PROMPT], "<r>", 3)
    slot_ids = set(tokens.ids[tokens.slots >= 0].tolist())
    assert not slot_ids & set(model.tokenizer.all_special_ids)
    assert int((tokens.ids[0] == model.tokenizer.eos_token_id).int().argmax()) == 1 + 4 + 3 + 3


def test_a_long_tail_is_cut_and_a_cut_slot_is_an_error(model: StableDiffusion) -> None:
    tail = " cat" * 100
    with pytest.warns(UserWarning, match="does not see 'cat cat"):
        tokens = model.tokenize([f"a <r>{tail}"], "<r>", 2)
    assert tokens.ids[0, -1] == model.tokenizer.eos_token_id
    assert (tokens.slots >= 0).sum() == 2
    words = model.length - 2
    fits = model.tokenize([" cat" * (words - 2) + " <r>"], "<r>", 2)
    assert fits.slots[0, -3:].tolist() == [0, 1, -1]
    with pytest.raises(UserError, match="too long"):
        model.tokenize([" cat" * (words - 1) + " <r>"], "<r>", 2)


@pytest.mark.parametrize(("placeholder", "vectors"), [("", 1), (" ", 1), ("<r>", 0)])
def test_impossible_placeholders(model: StableDiffusion, placeholder: str, vectors: int) -> None:
    with pytest.raises(UserError):
        model.tokenize(["a photo"], placeholder, vectors)


def test_tokens_can_be_indexed_by_rows(model: StableDiffusion) -> None:
    tokens = model.tokenize(["a cat", "a dog", PROMPT], "<r>")
    assert torch.equal(tokens[torch.tensor([2, 0])].ids, tokens.ids[[2, 0]])
    assert torch.equal(tokens[1:].slots, tokens.slots[1:])


@pytest.mark.parametrize("text", ["dog", "red vase"])
def test_a_words_own_rows_give_the_stock_hidden_states(
    model: StableDiffusion, stock: Any, text: str
) -> None:
    rows = model.word_vectors(text)
    assert rows.shape == (len(text.split()), 32)
    tokens = model.tokenize([PROMPT], "<r>", len(rows))
    hidden = model.embed_text(tokens, rows[None]).encoder_hidden_states
    expected = stock_embedding(stock, PROMPT.replace("<r>", text))
    torch.testing.assert_close(hidden, expected, atol=1e-6, rtol=1e-5)


def test_plain_prompts_give_the_stock_hidden_states(model: StableDiffusion, stock: Any) -> None:
    hidden = model.embed_text(model.tokenize(["", "a red vase"])).encoder_hidden_states
    for row, prompt in zip(hidden, ["", "a red vase"], strict=True):
        torch.testing.assert_close(row[None], stock_embedding(stock, prompt), atol=1e-6, rtol=1e-5)


def test_each_row_gets_its_own_vectors(model: StableDiffusion) -> None:
    tokens = model.tokenize([PROMPT, "a <r>", "a dog"], "<r>", 2)
    vectors = randn([stream("own", i) for i in range(3)], (2, 32))
    together = model.embed_text(tokens, vectors).encoder_hidden_states
    for i in range(3):
        alone = model.embed_text(tokens[i : i + 1], vectors[i : i + 1]).encoder_hidden_states
        torch.testing.assert_close(together[i : i + 1], alone, atol=1e-5, rtol=1e-5)


def test_gradients_reach_the_vectors_and_nothing_else(model: StableDiffusion) -> None:
    tokens = model.tokenize([PROMPT, "a dog"], "<r>", 2)
    vectors = randn([stream("gradient", i) for i in range(2)], (2, 32)).requires_grad_()
    latents = torch.zeros(2, 4, 8, 8)
    conditioning = model.embed_text(tokens, vectors)
    model.predict(latents, torch.tensor([5, 900]), conditioning).square().sum().backward()
    assert vectors.grad is not None
    assert (vectors.grad[0].norm(dim=1) > 0).all()
    assert (vectors.grad[1] == 0).all()  # the second prompt has no placeholder
    for module in (model.unet, model.vae, model.text_encoder):
        assert all(parameter.grad is None for parameter in module.parameters())


def test_the_lookup_is_left_as_it_was(model: StableDiffusion) -> None:
    before = model.embed_text(model.tokenize(["a dog"])).encoder_hidden_states
    model.embed_text(model.tokenize([PROMPT], "<r>"), torch.full((1, 1, 32), 9.0))
    after = model.embed_text(model.tokenize(["a dog"])).encoder_hidden_states
    assert torch.equal(before, after)
    model.word_vectors("dog").fill_(7)
    assert not (model.word_vectors("dog") == 7).any()


@pytest.mark.parametrize("vectors", [None, torch.zeros(1, 1, 32), torch.zeros(2, 2, 32)])
def test_vectors_that_do_not_fit(model: StableDiffusion, vectors: torch.Tensor | None) -> None:
    with pytest.raises(ValueError, match="vectors"):
        model.embed_text(model.tokenize([PROMPT], "<r>", 2), vectors)


def test_threads_do_not_mix_their_vectors(model: StableDiffusion) -> None:
    tokens = model.tokenize([PROMPT], "<r>")
    plain = model.tokenize(["a dog"])
    vectors = randn([stream("thread", i) for i in range(8)], (1, 1, 32))

    def embed(i: int) -> torch.Tensor:
        chosen: tuple[Tokens, Any] = (tokens, vectors[i]) if i % 2 else (plain, None)
        return model.embed_text(*chosen).encoder_hidden_states

    expected = [embed(i) for i in range(8)] * 4
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(embed, [*range(8)] * 4))
    for result, value in zip(results, expected, strict=True):
        torch.testing.assert_close(result, value)


# Images and latents


def test_encode_is_diffusers_posterior_scaled(model: StableDiffusion, stock: Any) -> None:
    images = torch.rand(2, 3, 64, 64, generator=stream("images"), requires_grad=True)
    posterior = model.encode(images)
    with torch.no_grad():
        expected = stock.vae.encode(images * 2 - 1).latent_dist
    scale = stock.vae.config.scaling_factor
    torch.testing.assert_close(posterior.mean, expected.mean * scale, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(posterior.std, expected.std * scale, atol=1e-5, rtol=1e-4)
    posterior.sample(torch.ones_like(posterior.mean)).sum().backward()
    assert images.grad is not None and images.grad.norm() > 0


def test_decode_is_diffusers_decoder(model: StableDiffusion, stock: Any) -> None:
    latents = randn([stream("latents")], (4, 8, 8)).requires_grad_()
    images = model.decode(latents)
    with torch.no_grad():
        expected = stock.vae.decode(latents / stock.vae.config.scaling_factor).sample
    torch.testing.assert_close(images, expected / 2 + 0.5, atol=1e-5, rtol=1e-4)
    images.sum().backward()
    assert latents.grad is not None and latents.grad.norm() > 0


def test_shift_factor_is_undone(tmp_path: Path) -> None:
    pipeline = tiny_pipeline(tmp_path)
    pipeline.vae.register_to_config(shift_factor=0.5)
    pipeline.save_pretrained(tmp_path)
    shifted = load_model(tmp_path)
    images = torch.rand(1, 3, 64, 64, generator=stream("shift"))
    with torch.no_grad():
        raw = pipeline.vae.encode(images * 2 - 1).latent_dist.mean
        mean = shifted.encode(images).mean
        torch.testing.assert_close(mean, (raw - 0.5) * 0.18215, atol=1e-5, rtol=1e-4)
        expected = pipeline.vae.decode(raw).sample / 2 + 0.5
        torch.testing.assert_close(shifted.decode(mean), expected, atol=1e-5, rtol=1e-4)


def test_predict_is_the_unet(model: StableDiffusion, stock: Any) -> None:
    conditioning = model.embed_text(model.tokenize(["a cat", ""]))
    noisy = randn([stream("noisy", i) for i in range(2)], (4, 8, 8))
    timesteps = torch.tensor([0, 999])
    with torch.no_grad():
        prediction = model.predict(noisy, timesteps, conditioning)
        expected = stock.unet(
            noisy, timesteps, encoder_hidden_states=conditioning.encoder_hidden_states
        ).sample
    torch.testing.assert_close(prediction, expected, atol=1e-5, rtol=1e-4)


def test_our_parts_in_a_stock_pipeline_draw_the_same_image(
    model: StableDiffusion, stock: Any
) -> None:
    ours = StableDiffusionPipeline(
        vae=model.vae,
        text_encoder=model.text_encoder,
        tokenizer=model.tokenizer,
        unet=model.unet,
        scheduler=model.scheduler("pndm"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    ours.set_progress_bar_config(disable=True)
    images = [
        pipeline(
            "a red vase",
            num_inference_steps=3,
            generator=torch.Generator().manual_seed(0),
            output_type="pt",
        ).images
        for pipeline in (ours, stock)
    ]
    torch.testing.assert_close(images[0], images[1], atol=1e-4, rtol=1e-4)


# Schedulers


def oracle_sample(model: StableDiffusion, name: str, clean: torch.Tensor) -> torch.Tensor:
    """What scheduler ``name`` makes of noise when the prediction is always exact."""
    scheduler = model.scheduler(name)
    scheduler.set_timesteps(20)
    latents = randn([stream("start")], clean.shape[1:]) * float(scheduler.init_noise_sigma)
    for timestep in scheduler.timesteps:
        noisy = scheduler.scale_model_input(latents, timestep)
        at = timestep[None].long()  # Euler has whole numbers in floats
        zero, one = torch.zeros_like(clean), torch.ones_like(clean)
        signal = model.process.corrupt(one, zero, at)
        noise = (noisy - signal * clean) / model.process.corrupt(zero, one, at)
        target = model.process.target(clean, noise, at)
        generator = torch.Generator().manual_seed(1)
        extra = {} if name in ("pndm", "ddim", "dpm++") else {"generator": generator}
        latents = scheduler.step(target, timestep, latents, **extra).prev_sample
    return latents


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_schedulers_know_the_betas_and_the_prediction_type(
    models: dict[str, StableDiffusion], kind: str, name: str
) -> None:
    # Far beyond [-1, 1], where a clipping scheduler would fail.
    clean = 3 * randn([stream("oracle")], (4, 8, 8))
    sample = oracle_sample(models[kind], name, clean)
    assert (sample - clean).square().mean().sqrt() < 0.1


@pytest.mark.parametrize("name", ["ddim", "euler"])
def test_flow_schedulers_walk_straight_to_the_clean_latents(
    models: dict[str, StableDiffusion], name: str
) -> None:
    model = models["flow_prediction"]
    clean = randn([stream("oracle")], (4, 8, 8))
    latents = noise = randn([stream("start")], (4, 8, 8))
    scheduler = model.scheduler(name)
    scheduler.set_timesteps(5)
    target = model.process.target(clean, noise, torch.tensor([500]))
    for timestep in scheduler.timesteps:
        latents = scheduler.step(target, timestep, latents).prev_sample
    torch.testing.assert_close(latents, clean, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("kind", "name"), [("epsilon", "plms"), ("flow_prediction", "dpm++")])
def test_an_unknown_scheduler_is_answered_with_the_list(
    models: dict[str, StableDiffusion], kind: str, name: str
) -> None:
    with pytest.raises(UserError, match=r"ddim.*euler"):
        models[kind].scheduler(name)


def test_schedulers_are_fresh(model: StableDiffusion) -> None:
    first = model.scheduler()
    first.set_timesteps(3)
    assert len(model.scheduler().timesteps) == 1000
