"""What the paper's figures show: measured, cached and drawn."""
