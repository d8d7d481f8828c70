"""What @<modifier> does to any poison, and poisons over several models at once."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from safezone.arrays import PerExample, stream
from safezone.defenses.loss_masks import InputMask, LossMask
from safezone.errors import UserError
from safezone.images import to_float, to_uint8
from safezone.models import load_model
from safezone.poisons import POISONS, Poison, poison, poison_images
from safezone.poisons.table import MODIFIERS
from safezone.poisons.transforms import NaturalSpectrum
from tiny import write_tiny_folder


def test_a_modifier_changes_any_poison_and_nothing_else() -> None:
    for base in ("mist", "ace", "simac", "adm-", "ea@szt"):
        row = poison(f"{base.upper()}@blur")
        assert row.name == f"{base}@blur"
        assert row.shaping == NaturalSpectrum()
        assert row.objective == POISONS[base].objective
        assert row.budget == POISONS[base].budget
    high = poison("mist@high").timesteps.probabilities(1000)  # type: ignore[union-attr]
    assert not high[:800].any()
    assert high[800:].min() > 0


def test_modifiers_of_the_users_own_rows() -> None:
    rows = [Poison(name, POISONS["mist"].objective, -1) for name in ("mine", "mist@mine")]
    own = {row.name: row for row in rows}
    for name in own:
        assert poison(name, own) == own[name]
        assert poison(f"{name}@szt", own).mask == MODIFIERS["szt"]["mask"]


def test_what_draws_no_timestep_knows_the_rest_of_szt_only() -> None:
    assert POISONS["ea@szt"].timesteps == POISONS["ea"].timesteps
    with pytest.raises(UserError, match="ea draws no timestep, so that @high would change nothing"):
        poison("ea@high")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("adm+@fog", "no modifier @fog; choose from jpeg"),
        ("adm+@t500@high", r"adm\+@t500 chooses its timesteps already; leave @high out"),
        ("adm+@blur@blur", r"adm\+@blur chooses its shaping already; leave @blur out"),
        ("adm-@jpeg@szt", "adm-@jpeg chooses its transform already; leave @szt out"),
        ("simac@t500", "simac chooses its timesteps already; leave @t500 out"),
        ("simac@szt", "simac chooses its timesteps already; leave @szt out"),
        ("ea@lm@high", "ea@lm draws no timestep"),
        ("nothing@blur", "no poison 'nothing@blur'"),
    ],
)
def test_what_cannot_be_modified_is_refused(name: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        poison(name)


@pytest.mark.parametrize(
    "mask",
    [LossMask(4.0, mode="any"), LossMask(threshold=0.2), LossMask(normalise=True), InputMask()],
)
def test_a_mask_of_which_more_is_asked_than_its_dilation_is_refused(mask: LossMask) -> None:
    """``safezone.defenses`` has the rest of a mask, which only trainings look at."""
    with pytest.raises(UserError, match="the dilation alone counts; give LossMask"):
        replace(POISONS["ea"], mask=mask)
    assert replace(POISONS["ea"], mask=LossMask(dilation_cells=2)).mask == LossMask(0, 2)


def half_busy(side: int = 64) -> Tensor:
    """Left: a soft slope with little noise; right: noise. float [1, 3, side, side]."""
    noise = torch.rand(1, 3, side, side, generator=stream("busy"))
    slope = torch.linspace(0.3, 0.7, side)[None, None, :, None].expand(1, 3, side, side)
    return torch.cat([slope[..., : side // 2], noise[..., side // 2 :]], dim=3)


def high_share(delta: Tensor) -> float:
    """Share of the power above an eighth of the sampling rate, by numpy's definition of a DFT."""
    power = torch.fft.fft2(delta.double()).abs().square()
    f = torch.fft.fftfreq(delta.shape[-2])[:, None].hypot(torch.fft.fftfreq(delta.shape[-1]))
    return float(power[..., f > 1 / 8].sum() / power[..., f > 0].sum())


def test_smooth_regions_get_smooth_noise_and_busy_ones_keep_theirs() -> None:
    clean = half_busy()
    shaping = NaturalSpectrum()
    choice = shaping.choose(clean)[0]
    assert (choice[:, :2] == len(shaping.sigmas) - 1).all()
    assert (choice[:, 2:] <= 1).all()
    noise = torch.randn(1, 3, 64, 64, generator=stream("delta"))
    shaped = shaping.fit(clean)(noise)
    assert high_share(shaped[..., :24]) < 0.2 < 0.8 < high_share(shaped[..., 40:])
    assert shaped.abs().max() <= noise.abs().max() * (1 + 1e-6)
    constant = torch.ones(1, 3, 64, 64)
    torch.testing.assert_close(shaping.fit(clean)(constant), constant)  # blurs average


@pytest.mark.parametrize(
    "settings", [{"regions": 0}, {"sigmas": ()}, {"sigmas": (1.0, 0.5)}, {"sigmas": (-1.0, 0.0)}]
)
def test_shapes_that_cannot_be_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(UserError):
        NaturalSpectrum(**settings)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="give fewer"):
        NaturalSpectrum(regions=40).choose(half_busy())


def brightness(model: object, images: Tensor, *_: object) -> PerExample:
    return images.mean(dim=(1, 2, 3))


def test_a_shaped_poison_keeps_mask_and_budget_and_is_smooth_where_the_image_is(
    tmp_path: Path,
) -> None:
    model = load_model(write_tiny_folder(tmp_path / "model"))
    clean = half_busy()
    masks = torch.zeros(1, 64, 64, dtype=torch.bool)
    masks[:, 8:56, 8:56] = True
    plain, shaped = (
        poison_images(model, clean, poison(name), 0, ["one"], masks=masks, progress=False).int()
        - to_uint8(clean).int()
        for name in ("ea@lm", "ea@lm@blur")
    )
    assert shaped.abs().max() <= 16
    assert not shaped[..., :4, :].any()  # outside the dilated mask
    smooth = [high_share(delta[..., 12:52, 12:28]) for delta in (plain, shaped)]
    assert smooth[1] < 0.5 * smooth[0]


def test_several_models_share_a_poison_that_raises_the_mean_of_their_objectives(
    tmp_path: Path,
) -> None:
    folders = [write_tiny_folder(tmp_path / name, seed=seed) for seed, name in enumerate("ab")]
    models = [load_model(folder) for folder in folders]
    clean = to_float(to_uint8(half_busy()))
    row = poison("photoguard")
    asked: list[object] = []

    def objective(model, images, generators, guide):  # type: ignore[no-untyped-def]
        asked.append(model)
        return row.objective(model, images, generators, guide)  # type: ignore[operator]

    both = Poison("both", objective, -1, steps=4, prompt="", target="grey")
    poisoned = poison_images(models, clean, both, 0, ["one"], progress=False)
    assert asked == models * 4
    alone = poison_images(models[:1], clean, both, 0, ["one"], progress=False)
    assert torch.equal(alone, poison_images(models[0], clean, both, 0, ["one"], progress=False))
    assert not torch.equal(alone, poisoned)
