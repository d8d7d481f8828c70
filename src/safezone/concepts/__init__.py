"""What goes in: concepts and their folders, data sets, masks, captions, prompts."""

from safezone.concepts.concept import (
    CONCEPT_FILE,
    MASK_FOLDER,
    MOST_IMAGES,
    Concept,
    default_class_word,
    default_placeholder,
    image_files,
    load_concept,
    save_concept,
)

__all__ = [
    "CONCEPT_FILE",
    "MASK_FOLDER",
    "MOST_IMAGES",
    "Concept",
    "default_class_word",
    "default_placeholder",
    "image_files",
    "load_concept",
    "save_concept",
]
