"""What a workspace holds, and the check of weights."""

from typing import Final

from safezone.errors import UserError
from safezone.models.fingerprint import tensors

WORK: Final = "work"
"""The folder of all artifacts in a workspace."""
NEEDS: Final = "needs.json"
"""Beside a result: the artifacts that it rests on, which ``safezone grid gc`` keeps."""


def require_finite(owner: object, name: str) -> None:
    """Raises UserError when a weight of the model or encoder called ``name`` is NaN or infinite."""
    for path, tensor in tensors(owner):
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise UserError(
                f"the weights of {name} hold NaN or infinite values ({path.lstrip('._')}); "
                "use another copy of them"
            )
