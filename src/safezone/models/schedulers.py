"""What a scheduler's configuration says: the process it was trained for, the samplers it fits."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    PNDMScheduler,
)
from torch import Tensor

from safezone.errors import UserError
from safezone.models.parts import first_line
from safezone.models.process import Epsilon, Process, RectifiedFlow, Velocity

# Overrides: a configuration written for another scheduler leaves these to defaults that are made
# for pixel models; latents are not within [-1, 1], so clipping them would change every sample.
SCHEDULERS: Final[Mapping[str, tuple[Any, Mapping[str, Any]]]] = {
    "ddim": (DDIMScheduler, {"clip_sample": False}),
    "ddpm": (DDPMScheduler, {"clip_sample": False}),
    "dpm++": (DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++"}),
    "euler": (EulerDiscreteScheduler, {}),
    "pndm": (PNDMScheduler, {"skip_prk_steps": True}),
}

# DDIM without noise and Euler are the same step on a straight path.
FLOW_SCHEDULERS: Final[Mapping[str, tuple[Any, Mapping[str, Any]]]] = {
    "ddim": (FlowMatchEulerDiscreteScheduler, {}),
    "euler": (FlowMatchEulerDiscreteScheduler, {}),
}


PROCESSES: Final[Mapping[str, Callable[[Tensor], Process]]] = {
    "epsilon": Epsilon,
    "v_prediction": Velocity,
}
"""By the prediction type in a scheduler's configuration: what makes the process of the table of
alphas_cumprod."""

_TO_DATA: Final = "flow_to_data"
"""The prediction type, not known to diffusers, of flows whose velocity points at the data."""


class _UniformEuler(FlowMatchEulerDiscreteScheduler):  # type: ignore[misc,unused-ignore]
    """Euler's steps at 1, 1 - 1 / n, ... 1 / n, as RectifiedFlowPipeline takes them; the stock
    schedule spends its last step at 1 / 1000."""

    def set_timesteps(self, num_inference_steps: int, device: Any = None) -> None:
        """Of ``num_inference_steps`` equal steps."""
        sigmas = [1 - i / num_inference_steps for i in range(num_inference_steps)]
        super().set_timesteps(sigmas=sigmas, device=device)


def scheduler_config(config: Mapping[str, Any], index: Mapping[str, Any]) -> Mapping[str, Any]:
    """The scheduler's configuration, put right by what model_index.json says of the pipeline.

    The rectified flows of Liu et al. (XCLiu/2_rectified_flow_from_sd_1_5, InstaFlow) carry the
    scheduler of Stable Diffusion, which their RectifiedFlowPipeline never asks: it takes Euler's
    steps along z - noise.
    """
    if "RectifiedFlow" not in str(index.get("_class_name")):
        return config
    return {
        "_class_name": "FlowMatchEulerDiscreteScheduler",
        "num_train_timesteps": config.get("num_train_timesteps", 1000),
        "prediction_type": _TO_DATA,
    }


def is_flow(config: Mapping[str, Any]) -> bool:
    """Whether the configuration belongs to a rectified-flow model."""
    return "FlowMatch" in str(config.get("_class_name")) or config.get("prediction_type") in (
        "flow_prediction",
        "flow",
    )


def process_of(config: Mapping[str, Any]) -> Process:
    """The parameterisation that a scheduler's configuration names, with its own betas.

    Raises UserError for a prediction type that is neither in ``PROCESSES`` nor flow_prediction,
    and for betas that diffusers does not know.
    """
    if is_flow(config):
        to_data = config.get("prediction_type") == _TO_DATA
        steps = int(config.get("num_train_timesteps", 1000))
        return RectifiedFlow(steps, "data" if to_data else "noise")
    # Configurations older than v-prediction do not name the type.
    prediction_type = config.get("prediction_type", "epsilon")
    if prediction_type not in PROCESSES:
        raise UserError(
            f"the model's scheduler has prediction_type {prediction_type!r}; "
            f"supported are: {', '.join(PROCESSES)}, flow_prediction"
        )
    try:
        alphas_cumprod = make_scheduler("ddim", config).alphas_cumprod
    except (NotImplementedError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(
            f"the betas of the model's scheduler cannot be made: {first_line(error)}"
        ) from error
    return PROCESSES[prediction_type](alphas_cumprod)


def make_scheduler(name: str, config: Mapping[str, Any]) -> Any:
    """A fresh diffusers scheduler ``name`` with the betas and prediction type of ``config``.

    Raises UserError for a name that this kind of model has no scheduler for: diffusers' PNDM passes
    over betas of zero terminal SNR.
    """
    table = FLOW_SCHEDULERS if is_flow(config) else SCHEDULERS
    if config.get("rescale_betas_zero_snr"):
        table = {known: row for known, row in table.items() if row[0] is not PNDMScheduler}
    if name not in table:
        kind = "a rectified-flow model" if is_flow(config) else "this model"
        raise UserError(f"unknown scheduler {name!r}; for {kind} choose one of: {', '.join(table)}")
    kind_of_scheduler, overrides = table[name]
    known = {name: value for name, value in config.items() if value != _TO_DATA}
    if known != config:
        kind_of_scheduler = _UniformEuler
    return kind_of_scheduler.from_config(known, **overrides)
