"""How drawings look, what they are put together from, and those beside a table."""
