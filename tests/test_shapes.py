"""Wrong shapes are caught wherever a signature tells one."""

from collections.abc import Callable

import jaxtyping
import pytest
import torch

from safezone.analysis.spectra import frequencies, rapsd, spectrum_distance
from safezone.arrays import Times
from safezone.image_metrics import psnr
from safezone.images import to_float, to_uint8
from safezone.models.base import Posterior

WRONG: dict[str, Callable[[], object]] = {
    "type": lambda: to_float(torch.zeros(1, 3, 2, 2)),
    "channels": lambda: psnr(torch.zeros(1, 4, 2, 2), torch.zeros(1, 4, 2, 2)),
    "axes": lambda: rapsd(torch.zeros(3, 8, 8)),
    "two of one length": lambda: spectrum_distance(torch.ones(4), torch.ones(5)),
    "a dataclass": lambda: Posterior(torch.zeros(1, 4, 8), torch.zeros(1, 4, 8, 8)),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_shape_is_caught(what: str) -> None:
    with pytest.raises(jaxtyping.TypeCheckError):
        WRONG[what]()


def test_right_shapes_pass() -> None:
    assert to_uint8(to_float(torch.zeros(2, 2, dtype=torch.uint8))).shape == (2, 2)
    assert len(frequencies(3, 8)) == 3
    for times in (torch.zeros(2), torch.zeros(2, dtype=torch.int64), torch.zeros(2).double()):
        assert isinstance(times, Times)


@pytest.mark.usefixtures("unchecked_shapes")
def test_the_check_can_be_left_out() -> None:
    with pytest.raises(ValueError, match="uint8"):
        to_float(torch.zeros(1, 3, 2, 2))
