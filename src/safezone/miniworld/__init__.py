"""A small procedural world: pictures of objects with exact masks, captions and identities."""

from safezone.miniworld.backgrounds import BACKGROUNDS
from safezone.miniworld.canvas import SIZE
from safezone.miniworld.captions import (
    BACKGROUND_PHRASES,
    NAMED_OBJECTS,
    VOCABULARY,
    caption,
    full_caption,
    named_object,
    names,
)
from safezone.miniworld.palette import COLORS, PATTERNS
from safezone.miniworld.pictures import (
    DAMAGES,
    TEXTURE_VOCABULARY,
    TEXTURES,
    Example,
    Texture,
    example_at,
    texture_names,
)
from safezone.miniworld.render import Rendered, render
from safezone.miniworld.scenes import (
    EXTRAS,
    Extra,
    NovelConcept,
    ObjectSpec,
    Pose,
    Scene,
    development_concepts,
    instance_pair,
    novel_concepts,
    sample_object,
    sample_scene,
    scene_at,
)
from safezone.miniworld.shapes import SHAPES

__all__ = [
    "BACKGROUNDS",
    "BACKGROUND_PHRASES",
    "COLORS",
    "DAMAGES",
    "EXTRAS",
    "NAMED_OBJECTS",
    "PATTERNS",
    "SHAPES",
    "SIZE",
    "TEXTURES",
    "TEXTURE_VOCABULARY",
    "VOCABULARY",
    "Example",
    "Extra",
    "NovelConcept",
    "ObjectSpec",
    "Pose",
    "Rendered",
    "Scene",
    "Texture",
    "caption",
    "development_concepts",
    "example_at",
    "full_caption",
    "instance_pair",
    "named_object",
    "names",
    "novel_concepts",
    "render",
    "sample_object",
    "sample_scene",
    "scene_at",
    "texture_names",
]
