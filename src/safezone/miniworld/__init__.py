"""A small procedural world: pictures of objects with exact masks, captions and identities."""

from safezone.miniworld.backgrounds import BACKGROUNDS
from safezone.miniworld.canvas import SIZE
from safezone.miniworld.captions import BACKGROUND_PHRASES, VOCABULARY, caption, full_caption
from safezone.miniworld.concepts import NovelConcept, development_concepts, novel_concepts
from safezone.miniworld.names import NAMED_OBJECTS, named_object, names
from safezone.miniworld.palette import COLORS
from safezone.miniworld.patterns import PATTERNS
from safezone.miniworld.pictures import Example, example_at
from safezone.miniworld.render import Rendered, render
from safezone.miniworld.sampling import instance_pair, sample_object, sample_scene, scene_at
from safezone.miniworld.scenes import EXTRAS, Extra, ObjectSpec, Pose, Scene, sample_pose
from safezone.miniworld.shapes import SHAPES
from safezone.miniworld.textures import (
    DAMAGES,
    NAMED_TEXTURES,
    TEXTURE_VOCABULARY,
    TEXTURES,
    Texture,
    named_texture,
    texture_names,
)

__all__ = [
    "BACKGROUNDS",
    "BACKGROUND_PHRASES",
    "COLORS",
    "DAMAGES",
    "EXTRAS",
    "NAMED_OBJECTS",
    "NAMED_TEXTURES",
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
    "named_texture",
    "names",
    "novel_concepts",
    "render",
    "sample_object",
    "sample_pose",
    "sample_scene",
    "scene_at",
    "texture_names",
]
