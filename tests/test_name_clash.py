"""Our folder ``kernels`` and the Hugging Face package of that name."""

import subprocess
import sys
from pathlib import Path

import pytest

from reasoning.name_clash import NameClashError, refuse_foreign_kernels_package

ROOT = Path(__file__).resolve().parents[1]


def test_transformers_loads_a_model_class_beside_our_kernels() -> None:
    code = (
        "import kernels, pathlib\n"
        f"assert pathlib.Path(kernels.__file__).is_relative_to({str(ROOT)!r}), kernels.__file__\n"
        "from transformers import Qwen3ForCausalLM\n"
        "print(Qwen3ForCausalLM.__name__)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.stdout.strip() == "Qwen3ForCausalLM", done.stderr


def test_passes_where_the_other_package_is_absent() -> None:
    refuse_foreign_kernels_package()


def test_refuses_where_the_other_package_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "kernels-0.17.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: kernels\nVersion: 0.17.0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(
        NameClashError, match=r"kernels 0\.17\.0 is installed.*pip uninstall kernels"
    ) as caught:
        refuse_foreign_kernels_package()
    assert "\n" not in str(caught.value)


def test_our_own_distribution_is_not_taken_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "qt_profile-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: qt-profile\nVersion: 0.1.0\n")
    (info / "top_level.txt").write_text("kernels\nprofiler\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    refuse_foreign_kernels_package()
