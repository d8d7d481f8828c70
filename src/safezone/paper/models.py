"""The paper's tables of other models (23 to 31) and of other methods (32 to 40) as grids."""

from safezone.lab.run import Grid, Scope
from safezone.lab.variants import CUSTOM_DIFFUSION, CUSTOM_DIFFUSION_CROP, LORA
from safezone.paper.designs import (
    DEFENSES,
    table,
)


def table23(scope: Scope) -> Grid:
    """Poisons against ten defenses: DINOv2 similarity, textual inversion, SD 1.5 as rectified flow.

    ``safezone grid run table23 --model mini --concepts 10 --seeds 3``

    Cost: 70 trainings and 6 poisonings for each concept and seed.
    The paper: clean 0.21; over the poisons Nominal 0.08, best SZT 0.22.
    """
    return table(23, scope, DEFENSES)


def table24(scope: Scope) -> Grid:
    """Poisons against ten defenses: FID, textual inversion, SD 1.5 as rectified flow.

    ``safezone grid run table24 --model mini --concepts 10 --seeds 3``

    Cost: none after table23, whose runs these are.
    The paper: clean 385; over the poisons Nominal 426, best JPEG+LM 375, SZT 376.
    """
    return table(24, scope, DEFENSES)


def table25(scope: Scope) -> Grid:
    """Poisons against ten defenses: CLIP score, textual inversion, SD 1.5 as rectified flow.

    ``safezone grid run table25 --model mini --concepts 10 --seeds 3``

    Cost: none after table23, whose runs these are.
    The paper: clean 0.44; over the poisons Nominal 0.40, best JPEG+LM 0.46, SZT 0.46.
    """
    return table(25, scope, DEFENSES)


def table26(scope: Scope) -> Grid:
    """Poisons against ten defenses: DINOv2 similarity, textual inversion, SD 2.1.

    ``safezone grid run table26 --model mini --concepts 10 --seeds 3``

    Cost: 70 trainings and 6 poisonings for each concept and seed.
    The paper: clean 0.41; over the poisons Nominal 0.16, best JPEG+LM 0.43, SZT 0.42.
    """
    return table(26, scope, DEFENSES)


def table27(scope: Scope) -> Grid:
    """Poisons against ten defenses: FID, textual inversion, SD 2.1.

    ``safezone grid run table27 --model mini --concepts 10 --seeds 3``

    Cost: none after table26, whose runs these are.
    The paper: clean 290; over the poisons Nominal 399, best JPEG+LM 286, SZT 292.
    """
    return table(27, scope, DEFENSES)


def table28(scope: Scope) -> Grid:
    """Poisons against ten defenses: DINOv2 similarity, textual inversion, SD 2.1, velocity.

    ``safezone grid run table28 --model mini --concepts 10 --seeds 3``

    Cost: 70 trainings and 6 poisonings for each concept and seed.
    The paper: clean 0.28; over the poisons Nominal 0.19, best JPEG+LM 0.38, SZT 0.38.
    """
    return table(28, scope, DEFENSES)


def table29(scope: Scope) -> Grid:
    """Poisons against ten defenses: FID, textual inversion, SD 2.1, velocity.

    ``safezone grid run table29 --model mini --concepts 10 --seeds 3``

    Cost: none after table28, whose runs these are.
    The paper: clean 336; over the poisons Nominal 385, best JPEG+LM 303, SZT 314.
    """
    return table(29, scope, DEFENSES)


def table30(scope: Scope) -> Grid:
    """Poisons against ten defenses: DINOv2 similarity, textual inversion, SDXL.

    ``safezone grid run table30 --model mini --concepts 10 --seeds 3``

    Cost: 70 trainings and 6 poisonings for each concept and seed.
    The paper: clean 0.35; over the poisons Nominal 0.33, best LM 0.41, SZT 0.37.
    """
    return table(30, scope, DEFENSES)


def table31(scope: Scope) -> Grid:
    """Poisons against ten defenses: FID, textual inversion, SDXL.

    ``safezone grid run table31 --model mini --concepts 10 --seeds 3``

    Cost: none after table30, whose runs these are.
    The paper: clean 325; over the poisons Nominal 328, best LM 310, SZT 317.
    """
    return table(31, scope, DEFENSES)


def table32(scope: Scope) -> Grid:
    """Poisons against ten defenses: DINOv2 similarity, LoRA.

    ``safezone grid run table32 --model mini --concepts 10 --seeds 3``

    Cost: 70 trainings and 6 poisonings for each concept and seed.
    The paper: clean 0.35; over the poisons Nominal 0.27, best JPEG+T600 0.37, SZT 0.37.
    """
    return table(32, scope, DEFENSES, method=LORA)


def table33(scope: Scope) -> Grid:
    """Poisons against ten defenses: FID, LoRA.

    ``safezone grid run table33 --model mini --concepts 10 --seeds 3``

    Cost: none after table32, whose runs these are.
    The paper: clean 322; over the poisons Nominal 358, best JPEG+T600 306, SZT 310.
    """
    return table(33, scope, DEFENSES, method=LORA)


def table34(scope: Scope) -> Grid:
    """Poisons against ten defenses: CLIP score, LoRA.

    ``safezone grid run table34 --model mini --concepts 10 --seeds 3``

    Cost: none after table32, whose runs these are.
    The paper: clean 0.48; over the poisons Nominal 0.47, best PDMPure 0.48, SZT 0.44.
    """
    return table(34, scope, DEFENSES, method=LORA)


def table35(scope: Scope) -> Grid:
    """Poisons against ten defenses: DINOv2 similarity, Custom Diffusion.

    ``safezone grid run table35 --model mini --concepts 10 --seeds 3``

    Cost: 70 trainings and 6 poisonings for each concept and seed.
    The paper: clean 0.30; over the poisons Nominal 0.25, best SZT 0.35.
    """
    return table(35, scope, DEFENSES, method=CUSTOM_DIFFUSION)


def table36(scope: Scope) -> Grid:
    """Poisons against ten defenses: FID, Custom Diffusion.

    ``safezone grid run table36 --model mini --concepts 10 --seeds 3``

    Cost: none after table35, whose runs these are.
    The paper: clean 336; over the poisons Nominal 355, best SZT 312.
    """
    return table(36, scope, DEFENSES, method=CUSTOM_DIFFUSION)


def table37(scope: Scope) -> Grid:
    """Poisons against ten defenses: CLIP score, Custom Diffusion.

    ``safezone grid run table37 --model mini --concepts 10 --seeds 3``

    Cost: none after table35, whose runs these are.
    The paper: clean 0.37; over the poisons Nominal 0.39, best T600 0.40, SZT 0.39.
    """
    return table(37, scope, DEFENSES, method=CUSTOM_DIFFUSION)


def table38(scope: Scope) -> Grid:
    """Poisons against ten defenses: DINOv2 similarity, Custom Diffusion with crops.

    ``safezone grid run table38 --model mini --concepts 10 --seeds 3``

    Cost: 70 trainings and 6 poisonings for each concept and seed.
    The paper: clean 0.35; over the poisons Nominal 0.33, best JPEG+T600 0.34, SZT 0.30.
    """
    return table(38, scope, DEFENSES, method=CUSTOM_DIFFUSION_CROP)


def table39(scope: Scope) -> Grid:
    """Poisons against ten defenses: FID, Custom Diffusion with crops.

    ``safezone grid run table39 --model mini --concepts 10 --seeds 3``

    Cost: none after table38, whose runs these are.
    The paper: clean 316; over the poisons Nominal 324, best JPEG+LM 322, SZT 333.
    """
    return table(39, scope, DEFENSES, method=CUSTOM_DIFFUSION_CROP)


def table40(scope: Scope) -> Grid:
    """Poisons against ten defenses: CLIP score, Custom Diffusion with crops.

    ``safezone grid run table40 --model mini --concepts 10 --seeds 3``

    Cost: none after table38, whose runs these are.
    The paper: clean 0.41; over the poisons Nominal 0.41, best PDMPure 0.42, SZT 0.41.
    """
    return table(40, scope, DEFENSES, method=CUSTOM_DIFFUSION_CROP)
