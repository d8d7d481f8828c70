"""The attackers of an audit: fixed, versioned ensembles of what a careful trainer would do."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from safezone.errors import UserError
from safezone.scores.rows import NOMINAL


@dataclass(frozen=True)
class Attacker:
    """One way to train on protected images. ``defense``: a name of the defenses' table.

    ``posting``: what happens to the files before, a name of ``POSTINGS``. ``needs_masks``: it is
    left out, and the page says so, where there are none. ``on_photographs``: what takes its place
    on a real model, where ``defense`` belongs to the built-in one.
    """

    name: str
    title: str
    defense: str = NOMINAL
    posting: str | None = None
    needs_masks: bool = False
    on_photographs: str | None = None

    def defense_for(self, builtin: bool) -> str:
        """The defense on the built-in model or on another."""
        return self.defense if builtin or self.on_photographs is None else self.on_photographs


@dataclass(frozen=True)
class Suite:
    """Attackers under one name and version; the first one is plain training."""

    name: str
    attackers: tuple[Attacker, ...]

    @property
    def plain(self) -> Attacker:
        """What is compared with: training without care."""
        return self.attackers[0]


_PLAIN: Final = Attacker("plain", "plain training")
_JPEG: Final = Attacker("jpeg", "JPEG of quality 25", "jpeg")
_T600: Final = Attacker("t600", "high timesteps only", "t600")
_SZT: Final = Attacker("szt", "Safe-Zone Training", "szt", needs_masks=True)

SUITES: Final[Mapping[str, Suite]] = MappingProxyType(
    {
        "quick-1": Suite("quick-1", (_PLAIN, _JPEG, _T600, _SZT)),
        "standard-1": Suite(
            "standard-1",
            (
                _PLAIN,
                Attacker("posted-1080", "posted, JPEG 75", posting="posted-1080"),
                Attacker("posted-2048", "posted, JPEG 90", posting="posted-2048"),
                Attacker("webp", "posted as WebP", posting="webp"),
                Attacker("screenshot", "a screenshot of it", posting="screenshot"),
                _JPEG,
                Attacker("vae", "through the autoencoder and back", "vae"),
                Attacker("upscale", "noise, then an upscaler", "upscale"),
                Attacker("purifier", "purified", "pdmpure", on_photographs="pdmpure-if"),
                _T600,
                Attacker("jpeg+t600", "JPEG 25 and high timesteps", "jpeg+t600"),
                _SZT,
            ),
        ),
    }
)
"""By name; the number is the version. A suite never changes: another ensemble is another name."""


def suite(name: str) -> Suite:
    """The newest suite of that name (``standard``), or the very one (``standard-1``)."""
    versions = [each for each in SUITES if each in (name, *_numbered(name))]
    if not versions:
        raise UserError(f"there is no suite {name!r}; choose one of: {', '.join(SUITES)}")
    return SUITES[versions[-1]]


def _numbered(name: str) -> list[str]:
    return [each for each in SUITES if each.rpartition("-")[0] == name]
