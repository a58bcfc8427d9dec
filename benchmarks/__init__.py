"""Sweeps over kernels and shapes; may import everything of ours."""
