"""Looks at folders of images, clean and poisoned, of any size.

usage: safezone analyze ANALYSIS [OPTIONS]

Writes a figure as SVG and PNG and its numbers as JSON. More in docs/analyses.md.

Example:
    safezone analyze histogram my-toy my-toy-poisoned --out analysis
    safezone analyze spectrum my-toy my-toy-poisoned --vae mini --out analysis
    safezone analyze timesteps my-toy my-toy-poisoned --prompt "a photo of a toy" --out analysis
    safezone analyze sensitivity my-toy --prompt "a photo of a toy" --word toy --out analysis

Analyses, each with --help:
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import tyro

from safezone.commands.command import Answer, Command, Folder
from safezone.errors import UserError
from safezone.fields import Count, Quality, plural

if TYPE_CHECKING:
    from torch import Tensor

    from safezone.models.loading import Autoencoder
    from safezone.results.drawings.style import Drawing

VERBS: Final[Mapping[str, str]] = {
    "histogram": "changes of pixels, before and after JPEG, and whether bimodal",
    "spectrum": "radial power spectra of pixels, or of latents with --vae",
    "timesteps": "loss, prediction and gradient by timestep",
    "sensitivity": "where in the image a word of the prompt acts",
}


@dataclass(frozen=True, kw_only=True)
class OnTwoFolders(Command):
    """The options of what compares two folders, without a model."""

    clean: Folder
    """Folder with the clean images."""
    changed: Folder
    """Folder with the poisoned or otherwise changed images of the same names."""
    out: Path
    """Folder for the figure (.svg, .png) and its numbers (.json)."""
    jpeg: Quality = 25
    """Quality of the JPEG beside it, 1 to 100."""


@dataclass(frozen=True, kw_only=True)
class AnalyzeHistogramCommand(OnTwoFolders):
    """How much the values of pixels were changed, before and after JPEG, with Sarle's bimodality
    coefficient (0.33 for a bell curve, 0.56 for a flat one, 1 for two points) and the modes of the
    smoothed histogram (figures 7 and 12). Beside it, what JPEG alone does to the clean images.

    Images are matched by their names; a clean image of another size than its poisoned square is cut
    and resized as `safezone poison` does. No model is opened.

    Example:
        safezone analyze histogram my-toy my-toy-poisoned --out analysis
    """

    limit: Annotated[Count, tyro.conf.arg(metavar="LEVELS")] = 16
    """The poison's budget kappa in 1/255."""

    def run(self) -> Answer:
        import torch

        from safezone.analysis.spectra import perturbation_counts, read_pairs
        from safezone.commands.opening import require_out_folder
        from safezone.images import jpeg
        from safezone.paper.measured.perturbations import histogram_drawing, modes_text

        require_out_folder(self.out)
        names = ("as given", f"JPEG {self.jpeg}", f"JPEG {self.jpeg} of clean")
        counts = {name: torch.zeros(511, dtype=torch.int64) for name in names}
        n = 0
        for pair in read_pairs(self.clean, self.changed):
            compressed, control = jpeg(torch.stack([pair.changed, pair.clean]), self.jpeg)
            for name, image in zip(names, (pair.changed, compressed, control), strict=True):
                counts[name] += perturbation_counts(pair.clean, image)
            n += 1
        folder = self.changed.resolve().name
        n_text = f"n = {plural(n, 'image')}"
        drawing = histogram_drawing({folder: counts}, limit=self.limit, n=n_text)
        lines = [
            f"{name}: bimodality {_shown(each['bimodality'])}, {modes_text(each)}, "
            f"{100 * each['share_at_limit']:.1f}% of values at ±{self.limit} or beyond, "
            f"largest {each['largest']:.0f}"
            for name, each in drawing.numbers["histograms"][folder].items()
        ]
        return _answer(drawing, self.out, "histogram", lines)


@dataclass(frozen=True, kw_only=True)
class AnalyzeSpectrumCommand(OnTwoFolders):
    """Radially averaged power spectra of clean and changed images, before and after JPEG, and their
    distance to the clean spectrum in decibels: of the pixels, or with --vae of the mean latents
    (figure 13).

    Example:
        safezone analyze spectrum my-toy my-toy-poisoned --vae mini --out analysis
    """

    vae: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Built-in model, diffusers folder, VAE folder or hub name: spectra of its mean latents."""

    def run(self) -> Answer:
        import torch

        from safezone.analysis.spectra import resample_spectrum
        from safezone.commands.opening import require_out_folder
        from safezone.models.loading import load_autoencoder
        from safezone.paper.measured.perturbations import spectrum_drawing

        require_out_folder(self.out)
        vae = None if self.vae is None else load_autoencoder(self.vae)
        every: dict[str, dict[str, list[tuple[int, Tensor]]]] = defaultdict(
            lambda: defaultdict(list)
        )
        for treatment, data, side, power in _spectra(self, vae):
            every[treatment][data].append((side, power))
        shortest = min(
            side for curves in every.values() for each in curves.values() for side, _ in each
        )
        radii = shortest // 2 + 1
        spectra = {
            treatment: {
                data: torch.stack(
                    [resample_spectrum(power, side, radii, shortest) for side, power in entries]
                ).mean(dim=0)
                for data, entries in curves.items()
            }
            for treatment, curves in every.items()
        }
        drawing = spectrum_drawing(
            spectra,
            side=shortest,
            unit="pixel" if vae is None else "latent cell",
            of="pixels" if vae is None else f"mean latents of {vae.name}",
            n=f"n = {plural(len(every['as given']['clean']), 'image')}",
        )
        lines = [
            f"{treatment}: {data} is {_shown(distance)} dB from the clean spectrum"
            for treatment, each in drawing.numbers["distance_to_clean_db"].items()
            for data, distance in each.items()
        ]
        return _answer(drawing, self.out, "spectrum", lines)


def _spectra(
    options: AnalyzeSpectrumCommand, vae: "Autoencoder | None"
) -> Iterator[tuple[str, str, int, "Tensor"]]:
    """(treatment, data, shorter side, power [radii]) of every image of both folders."""
    from safezone.analysis.spectra import rapsd, read_pairs
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


def _answer(drawing: "Drawing", folder: Path, stem: str, lines: Sequence[str]) -> Answer:
    from safezone.results.drawings.style import save

    files = list(map(str, save(drawing, folder, stem)))
    text = "\n".join([*lines, f"written: {', '.join(files)}"])
    return Answer({**drawing.numbers, "files": files}, text)
