"""The paper: its tables and figures as named grids, its numbers, its claim."""
