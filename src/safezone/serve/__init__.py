"""A page to use the audit with the mouse, on this machine only."""
