"""What goes in: concepts and their folders, data sets, masks, captions, prompts."""

from safezone.concepts.concept import Concept, load_concept, save_concept
from safezone.concepts.folder import (
    CONCEPT_FILE,
    MASK_FOLDER,
    MOST_IMAGES,
    folder_name,
    image_files,
    mask_files,
)

__all__ = [
    "CONCEPT_FILE",
    "MASK_FOLDER",
    "MOST_IMAGES",
    "Concept",
    "folder_name",
    "image_files",
    "load_concept",
    "mask_files",
    "save_concept",
]
