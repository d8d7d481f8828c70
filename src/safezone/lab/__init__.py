"""Runs, their stages from key to folder, and the grids that they make up."""
