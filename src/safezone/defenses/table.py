"""The paper's columns and the defenses beside them, by name."""

from collections.abc import Mapping
from types import MappingProxyType

from safezone.defenses.advclean import AdvClean
from safezone.defenses.defense import PLAIN, Defense
from safezone.defenses.filters import (
    BitDepth,
    CentreCrop,
    GaussianBlur,
    GaussianNoise,
    MedianBlur,
    RandomJpeg,
    Rescale,
)
from safezone.defenses.loss_masks import InputMask, LatentMask, LossInputMask, LossMask, PriorMask
from safezone.defenses.pixel_purify import FOUR_FOLD, STAGE_TWO, DiffPure, GridPure, PDMPure
from safezone.defenses.preprocess import Jpeg
from safezone.defenses.purify import Impress, NoisyUpscaling, Regen, RoundTrip
from safezone.defenses.timesteps import AtLeast

_JPEG = Defense("jpeg", preprocess=Jpeg(25))
_ADVCLEAN = Defense("advclean", preprocess=AdvClean())
_REGEN = Defense("regen", preprocess=Regen())
_PDMPURE = Defense("pdmpure", preprocess=PDMPure())
_PDMPURE_IF = Defense(
    "pdmpure-if",
    preprocess=PDMPure(model=STAGE_TWO, upscaler=FOUR_FOLD),
)
_T500 = Defense("t500", timesteps=AtLeast(0.5))
_T600 = Defense("t600", timesteps=AtLeast(0.6))
_LM = Defense("lm", loss_mask=LossMask())
_LM_D08 = Defense("lm-d08", loss_mask=LossMask(dilation_px_at_512=8))
_LM_D16 = Defense("lm-d16", loss_mask=LossMask(dilation_px_at_512=16))
_LM_D24 = Defense("lm-d24", loss_mask=LossMask(dilation_px_at_512=24))
_IM = Defense("im", loss_mask=InputMask())
_LIM = Defense("lim", loss_mask=LossInputMask())
_ZM = Defense("zm", loss_mask=LatentMask())
_SZT = Defense("szt", Jpeg(25), AtLeast(0.5), LossMask(dilation_px_at_512=16))

DEFENSES: Mapping[str, Defense] = MappingProxyType(
    {
        row.name: row
        for row in (
            PLAIN,
            # Tables 1 and 15 to 20: images
            _JPEG,
            _REGEN,
            _PDMPURE,
            _ADVCLEAN,
            _JPEG + _REGEN,
            _JPEG + _PDMPURE,
            _JPEG + _ADVCLEAN,
            # Tables 1, 9 and 12: timesteps and masks
            _T500,
            _T600,
            _LM,
            _LM_D08,
            _LM_D16,
            _LM_D24,
            _IM,
            _LIM,
            _ZM,
            _JPEG + _T600,
            _JPEG + _LM,
            _JPEG + _LM_D16,
            _T500 + _LM,
            _T500 + _LM_D16,
            _T600 + _LM,
            _T600 + _LM_D16,
            _SZT,
            # Purifiers that the paper does not list, and PDMPure as its authors run it
            Defense("diffpure", preprocess=DiffPure()),
            Defense("gridpure", preprocess=GridPure()),
            Defense("impress", preprocess=Impress()),
            Defense("vae", preprocess=RoundTrip()),
            Defense("upscale", preprocess=NoisyUpscaling()),
            _PDMPURE_IF,
            Defense("pdmpure-published", preprocess=PDMPure(start=99, stride=11, noise_at=44)),
            # After the paper: outside the mask stay with the model as it was; a word for the noise
            Defense("mpp", loss_mask=PriorMask()),
            Defense("mpp-d16", loss_mask=PriorMask(dilation_px_at_512=16)),
            Defense("noise-word", words=", noisy"),
            # Filters that the paper does not list
            Defense("random-jpeg", preprocess=RandomJpeg()),
            Defense("blur", preprocess=GaussianBlur()),
            Defense("median", preprocess=MedianBlur()),
            Defense("noise", preprocess=GaussianNoise()),
            Defense("bits", preprocess=BitDepth()),
            Defense("rescale", preprocess=Rescale()),
            Defense("crop", preprocess=CentreCrop()),
        )
    }
)
"""Defenses by name; ``defense`` makes further ones from the same parts and from numbers."""
