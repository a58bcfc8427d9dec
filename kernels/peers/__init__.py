"""Other libraries' kernels, a module per family; ``registry`` lists them, ``kernel`` puts them into chains."""
