"""Does a protection hold? A fixed ensemble of trainings, and what follows from it."""
