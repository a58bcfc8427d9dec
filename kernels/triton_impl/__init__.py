"""Triton kernels: imported on first use, never at import of the registry."""
