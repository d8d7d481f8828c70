"""A small procedural world: pictures of objects with exact masks, captions and identities."""

from safezone.miniworld.backgrounds import BACKGROUNDS
from safezone.miniworld.canvas import SIZE
from safezone.miniworld.captions import BACKGROUND_PHRASES, VOCABULARY, caption, full_caption
from safezone.miniworld.concepts import NovelConcept, novel_concepts
from safezone.miniworld.palette import COLORS
from safezone.miniworld.patterns import PATTERNS
from safezone.miniworld.render import Rendered, render
from safezone.miniworld.sampling import instance_pair, sample_object, sample_scene, scene_at
from safezone.miniworld.scenes import EXTRAS, Extra, ObjectSpec, Pose, Scene, sample_pose
from safezone.miniworld.shapes import SHAPES

__all__ = [
    "BACKGROUNDS",
    "BACKGROUND_PHRASES",
    "COLORS",
    "EXTRAS",
    "PATTERNS",
    "SHAPES",
    "SIZE",
    "VOCABULARY",
    "Extra",
    "NovelConcept",
    "ObjectSpec",
    "Pose",
    "Rendered",
    "Scene",
    "caption",
    "full_caption",
    "instance_pair",
    "novel_concepts",
    "render",
    "sample_object",
    "sample_pose",
    "sample_scene",
    "scene_at",
]
