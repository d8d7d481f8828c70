"""SAM and SAM 2 through transformers, where the user has weights: the thing in the middle."""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from safezone.errors import UserError
from safezone.models.frozen import freeze
from safezone.models.parts import first_line, pick_device, quiet

_MEAN: Final = (0.485, 0.456, 0.406)
_STD: Final = (0.229, 0.224, 0.225)


@dataclass(frozen=True, eq=False)
class Segmenter:
    """A SAM or SAM 2 with a point or a box as its prompt.

    ``side``: of its square input. ``keeps_aspect``: SAM shrinks the longer side and pads with
    zeros; SAM 2 squeezes the image into the square.
    """

    network: Any
    side: int
    keeps_aspect: bool
    device: torch.device

    def _fitted(self, height: int, width: int) -> tuple[int, int]:
        if not self.keeps_aspect:
            return self.side, self.side
        scale = self.side / max(height, width)
        return round(height * scale), round(width * scale)

    @torch.no_grad()
    def __call__(
        self,
        image: NDArray[np.uint8],
        point: tuple[int, int] | None = None,
        box: tuple[int, int, int, int] | None = None,
    ) -> tuple[NDArray[np.bool_], float]:
        """The mask that the network thinks best of, of three, and its own guess of its quality.

        ``image``: uint8 [h, w, 3]; the mask is bool [h, w], the guess an intersection over union.
        ``point``: a pixel on the object, across and down, by default the middle where there is no
        ``box``: left, top, right, bottom.
        """
        height, width = image.shape[:2]
        fitted = self._fitted(height, width)
        pixels = torch.from_numpy(image.astype(np.float32) / 255).permute(2, 0, 1)[None]
        small = F.interpolate(pixels, fitted, mode="bilinear", antialias=True, align_corners=False)
        small = (small - torch.tensor(_MEAN).view(3, 1, 1)) / torch.tensor(_STD).view(3, 1, 1)
        padded = F.pad(small, (0, self.side - fitted[1], 0, self.side - fitted[0]))
        scale = torch.tensor([fitted[1] / width, fitted[0] / height])
        prompts: dict[str, Tensor] = {}
        if point is not None or box is None:
            at = torch.tensor(point or (width / 2, height / 2)) * scale
            prompts["input_points"] = at.view(1, 1, 1, 2).to(self.device)
            prompts["input_labels"] = torch.ones(1, 1, 1, dtype=torch.int64, device=self.device)
        if box is not None:
            prompts["input_boxes"] = (torch.tensor(box) * scale.repeat(2)).view(1, 1, 4)
            prompts["input_boxes"] = prompts["input_boxes"].to(self.device)
        output = self.network(pixel_values=padded.to(self.device), **prompts)
        scores = output.iou_scores.flatten()
        best = int(scores.argmax())
        logits: Tensor = output.pred_masks.flatten(0, 2)[best][None, None].float().cpu()
        square = F.interpolate(logits, (self.side,) * 2, mode="bilinear", align_corners=False)
        square = square[..., : fitted[0], : fitted[1]]
        full = F.interpolate(square, (height, width), mode="bilinear", align_corners=False)
        return np.asarray(full[0, 0].numpy() > 0), float(scores[best])


def load_segmenter(name_or_folder: str, device: str | None = None) -> Segmenter:
    """A folder or hub name, such as facebook/sam-vit-base or facebook/sam2.1-hiera-small.

    Only safetensors are read. Raises UserError for anything else than a SAM or SAM 2.
    """
    from transformers import AutoConfig, Sam2Model, SamModel

    kinds: dict[str, Any] = {"sam": SamModel, "sam2": Sam2Model, "sam2_video": Sam2Model}
    try:
        with quiet():
            config: Any = AutoConfig.from_pretrained(name_or_folder)
            if config.model_type not in kinds:
                raise UserError(
                    f"{name_or_folder} is a {config.model_type}; give a SAM or a SAM 2, such as "
                    "facebook/sam-vit-base"
                )
            network, report = kinds[config.model_type].from_pretrained(
                name_or_folder,
                use_safetensors=True,
                output_loading_info=True,
                dtype=torch.float32,
            )
    except UserError:
        raise
    except Exception as error:  # each library has its own family of errors for a damaged file
        raise UserError(
            f"{name_or_folder} cannot be opened as SAM or SAM 2 ({first_line(error)}); give a "
            "folder with config.json and model.safetensors, or a hub name"
        ) from error
    if missing := sorted(report["missing_keys"]):
        raise UserError(f"{name_or_folder} lacks {len(missing)} weights, the first is {missing[0]}")
    chosen = pick_device(device)
    freeze(network.to(chosen))
    side = int(network.config.prompt_encoder_config.image_size)
    return Segmenter(network, side, config.model_type == "sam", chosen)
