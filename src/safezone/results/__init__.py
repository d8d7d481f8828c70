"""Rows and pictures to tables and to one self-contained page."""
