"""Refuses to load models beside the Hugging Face package that is called ``kernels`` too.

``transformers`` asks for a package of that name while it loads a model. Beside ours, which imports nothing
and whose version lies below the range it wants, it goes on without; with theirs installed it reads their
version and our code.
"""

from __future__ import annotations

from profiler.environment import distribution_version


class NameClashError(RuntimeError):
    """The Hugging Face package ``kernels`` is installed."""


def refuse_foreign_kernels_package() -> None:
    """Stop with one sentence when the Hugging Face package ``kernels`` is installed.

    Our own distribution is called ``qt-profile``, so a distribution called ``kernels`` is never ours.

    Raises:
        NameClashError: it is installed; the message says how to remove it.
    """
    version = distribution_version("kernels")
    if version is not None:
        raise NameClashError(
            f"the Hugging Face package kernels {version} is installed and clashes with this project's "
            "folder of the same name when transformers loads a model: remove it with 'pip uninstall kernels'"
        )
