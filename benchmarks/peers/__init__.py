"""Other libraries' kernels, a module per family; ``registry`` lists them all."""
