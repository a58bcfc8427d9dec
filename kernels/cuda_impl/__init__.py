"""CUDA C++ kernels for Hopper GPUs, compiled at run time through cupy: imported on first use only."""
