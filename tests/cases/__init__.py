"""Small inputs that people have met, made by code."""
