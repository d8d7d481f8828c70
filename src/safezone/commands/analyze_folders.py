"""``safezone analyze histogram`` and ``spectrum``: two folders, no model needed."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import tyro

from safezone.commands.console import Answer, Command, Common, Folder
from safezone.errors import UserError
from safezone.fields import Count, Quality

if TYPE_CHECKING:
    from torch import Tensor

    from safezone.models.vae import Autoencoder

_FOLDERS: Final = """
Images are matched by their names; a clean image of another size than its poisoned square is cut and
resized as `safezone poison` does. No model is opened.
"""

_HISTOGRAM: Final = f"""\
How much the values of pixels were changed, before and after JPEG, with Sarle's bimodality
coefficient (0.33 for a bell curve, 0.56 for a flat one, 1 for two points) and the modes of the
smoothed histogram (figures 7 and 12). Beside it, what JPEG alone does to the clean images.
{_FOLDERS}
Example:
    safezone analyze histogram my-toy my-toy-poisoned --out analysis
"""

_SPECTRUM: Final = """\
Radially averaged power spectra of clean and changed images, before and after JPEG, and their
distance to the clean spectrum in decibels: of the pixels, or with --vae of the mean latents
(figure 13).

Example:
    safezone analyze spectrum my-toy my-toy-poisoned --vae mini --out analysis
"""


@dataclass(frozen=True, kw_only=True)
class TwoFolders(Common):
    """Two folders, where the figure goes, and the JPEG beside it."""

    clean: Folder
    """Folder with the clean images."""
    changed: Folder
    """Folder with the poisoned or otherwise changed images of the same names."""
    out: Path
    """Folder for the figure (.svg, .png) and its numbers (.json)."""
    jpeg: Quality = 25
    """Quality of the JPEG beside it, 1 to 100."""


@dataclass(frozen=True, kw_only=True)
class Histogram(TwoFolders):
    """Of ``safezone analyze histogram``."""

    limit: Annotated[Count, tyro.conf.arg(metavar="LEVELS")] = 16
    """The poison's budget kappa in 1/255."""


@dataclass(frozen=True, kw_only=True)
class Spectrum(TwoFolders):
    """Of ``safezone analyze spectrum``."""

    vae: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Built-in model, diffusers folder, VAE folder or hub name: spectra of its mean latents."""


def _histogram(options: Histogram) -> Answer:
    import torch

    from safezone.analysis.pairs import read_pairs
    from safezone.analysis.spectra import perturbation_counts
    from safezone.commands.opening import require_out_folder
    from safezone.images import jpeg
    from safezone.results.drawings.spectra import histogram_drawing, modes_text
    from safezone.results.drawings.style import save

    require_out_folder(options.out)
    names = ("as given", f"JPEG {options.jpeg}", f"JPEG {options.jpeg} of clean")
    counts = {name: torch.zeros(511, dtype=torch.int64) for name in names}
    n = 0
    for pair in read_pairs(options.clean, options.changed):
        compressed, control = jpeg(torch.stack([pair.changed, pair.clean]), options.jpeg)
        for name, image in zip(names, (pair.changed, compressed, control), strict=True):
            counts[name] += perturbation_counts(pair.clean, image)
        n += 1
    folder = options.changed.resolve().name
    drawing = histogram_drawing(
        {folder: counts}, limit=options.limit, n=f"n = {n} image{'s' * (n != 1)}"
    )
    paths = save(drawing, options.out, "histogram")
    found = drawing.numbers["histograms"][folder]
    lines = [
        f"{name}: bimodality {_shown(each['bimodality'])}, {modes_text(each)}, "
        f"{100 * each['share_at_limit']:.1f}% of values at ±{options.limit} or beyond, "
        f"largest {each['largest']:.0f}"
        for name, each in found.items()
    ]
    return Answer({**drawing.numbers, "files": list(map(str, paths))}, _said(lines, paths))


def _spectrum(options: Spectrum) -> Answer:
    import torch

    from safezone.analysis.spectra import resample_spectrum
    from safezone.commands.opening import require_out_folder
    from safezone.models.vae import load_autoencoder
    from safezone.results.drawings.spectra import spectrum_drawing
    from safezone.results.drawings.style import save

    require_out_folder(options.out)
    vae = None if options.vae is None else load_autoencoder(options.vae)
    found: dict[str, dict[str, list[tuple[int, Tensor]]]] = defaultdict(lambda: defaultdict(list))
    for treatment, data, side, power in _spectra(options, vae):
        found[treatment][data].append((side, power))
    entries = [entry for curves in found.values() for each in curves.values() for entry in each]
    shortest = min(side for side, _ in entries)
    radii = shortest // 2 + 1
    spectra = {
        treatment: {
            data: torch.stack(
                [resample_spectrum(power, side, radii, shortest) for side, power in entries]
            ).mean(dim=0)
            for data, entries in curves.items()
        }
        for treatment, curves in found.items()
    }
    n = len(found["as given"]["clean"])
    drawing = spectrum_drawing(
        spectra,
        side=shortest,
        unit="pixel" if vae is None else "latent cell",
        of="pixels" if vae is None else f"mean latents of {vae.name}",
        n=f"n = {n} image{'s' * (n != 1)}",
    )
    paths = save(drawing, options.out, "spectrum")
    lines = [
        f"{treatment}: {data} is {_shown(distance)} dB from the clean spectrum"
        for treatment, each in drawing.numbers["distance_to_clean_db"].items()
        for data, distance in each.items()
    ]
    return Answer({**drawing.numbers, "files": list(map(str, paths))}, _said(lines, paths))


def _spectra(
    options: Spectrum, vae: "Autoencoder | None"
) -> Iterator[tuple[str, str, int, "Tensor"]]:
    """(treatment, data, shorter side, power [radii]) of every image of both folders."""
    from safezone.analysis.pairs import read_pairs
    from safezone.analysis.spectra import rapsd
    from safezone.images import jpeg, to_float

    changed = options.changed.resolve().name
    changed = f"{changed} (changed)" if changed == "clean" else changed
    for pair in read_pairs(options.clean, options.changed):
        for data, image in (("clean", pair.clean), (changed, pair.changed)):
            treated = {
                "as given": image[None],
                f"JPEG {options.jpeg}": jpeg(image[None], options.jpeg),
            }
            for treatment, each in treated.items():
                fields = to_float(each)
                if vae is not None:
                    fields = vae.mean_latents(_cropped(fields, vae.factor, pair.name))
                yield treatment, data, min(fields.shape[-2:]), rapsd(fields)[0]


def _cropped(images: "Tensor", factor: int, name: str) -> "Tensor":
    """The middle of an image whose sides are no multiples of the VAE's factor."""
    height, width = (side // factor * factor for side in images.shape[-2:])
    if not height or not width:
        raise UserError(f"{name} is smaller than {factor} pixels; give larger images")
    top, left = (images.shape[-2] - height) // 2, (images.shape[-1] - width) // 2
    return images[..., top : top + height, left : left + width]


def _shown(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.2f}"


def _said(lines: Sequence[str], paths: Sequence[Path]) -> str:
    return "\n".join([*lines, f"written: {', '.join(map(str, paths))}"])


HISTOGRAM: Final = Command(_HISTOGRAM, Histogram, _histogram)
SPECTRUM: Final = Command(_SPECTRUM, Spectrum, _spectrum)
