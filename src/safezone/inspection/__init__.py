"""Does an image carry a poison? Told from the image alone, with a known false-positive rate."""
