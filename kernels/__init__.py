"""Weight formats, quantizers, the reference decode, and the kernels that decode inside or before a matmul.

Nothing is imported here: ``transformers`` looks for a package of this name and reads only its version.
"""

__version__ = "0.1.0"
