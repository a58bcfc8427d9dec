import dataclasses

import pytest

from profiler.hardware import CPUS, HARDWARE, find_cpu_tdp, find_gpu, get_arch, parse_cpus, parse_hardware


def test_table_has_the_gpus_with_their_units() -> None:
    h100 = get_arch("H100")
    assert (h100.compute_capability, h100.sm_count, h100.tdp_w) == ((9, 0), 132, 700)
    assert h100.memory_bytes_per_s == pytest.approx(3.35e12)
    assert get_arch("a100-80").fp8_tflops is None
    assert list(HARDWARE) == [spec.key for spec in HARDWARE.values()]


def test_table_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        HARDWARE["mine"] = get_arch("l4")  # type: ignore[index]
    with pytest.raises(dataclasses.FrozenInstanceError):
        get_arch("l4").tdp_w = 1.0  # type: ignore[misc]


def test_unknown_arch_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"unknown arch 'h10': did you mean 'h100'\? known are l4, .*b200"):
        get_arch("h10")
    with pytest.raises(ValueError, match=r"unknown arch 'quantum': known are"):
        get_arch("quantum")


@pytest.mark.parametrize(
    ("device", "key"),
    [
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H100 PCIe", "h100-pcie"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA A100-SXM4-80GB", "a100-80"),
        ("A100-SXM4-40GB", "a100-40"),
        ("NVIDIA L4", "l4"),
        ("NVIDIA L40S", "l40s"),
        ("NVIDIA GeForce RTX 4090", "rtx-4090"),
        ("nvidia geforce rtx 5090", "rtx-5090"),
    ],
)
def test_device_names_find_their_row(device: str, key: str) -> None:
    spec = find_gpu(device)
    assert spec is not None
    assert spec.key == key


@pytest.mark.parametrize(
    "device",
    [
        "NVIDIA H100 NVL",
        "NVIDIA L40",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA A100-SXM4-80GB MIG 1g.10gb",
        "",
        "NVIDIA",
    ],
)
def test_namesakes_with_other_limits_are_not_in_the_table(device: str) -> None:
    assert find_gpu(device) is None


def test_every_row_finds_itself_by_its_own_name() -> None:
    assert [find_gpu(spec.name) for spec in HARDWARE.values()] == list(HARDWARE.values())


HEADER = (
    "key,name,compute_capability,sm_count,memory_gb,memory_gb_s,l2_mb,tdp_w,bf16_tflops,fp8_tflops,int8_tops,"
    "int4_tops,fp4_tflops,certainty"
)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["x,X,9.0,1,1,1,1,-5,1,,,,,"], "row 'x': '-5' is not a positive number"),
        (["x,X,9.0,1,1,1,1,nan,1,,,,,"], "row 'x': 'nan' is not a positive number"),
        (["x,X,9,1,1,1,1,5,1,,,,,"], "row 'x'"),
        (["x,X,9.0,1,1,1,1,5,1,,,,,"] * 2, "'x' appears twice"),
    ],
)
def test_bad_rows_are_refused(rows: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_hardware([HEADER, *rows])


@pytest.mark.parametrize(
    ("model", "tdp_w"),
    [
        ("AMD EPYC 9554 64-Core Processor", 360),
        ("AMD EPYC 9554P 64-Core Processor", 360),
        ("AMD EPYC 75F3 32-Core Processor", 280),
        ("13th Gen Intel(R) Core(TM) i9-13900K", 125),
        ("AMD EPYC 9754S 128-Core Processor", None),
        ("13th Gen Intel(R) Core(TM) i9-13900KS", None),
        ("Intel(R) Xeon(R) Processor @ 2.80GHz", None),
        ("", None),
    ],
)
def test_cpu_tdp_only_for_names_that_a_page_states(model: str, tdp_w: float | None) -> None:
    row = find_cpu_tdp(model)
    assert (None if row is None else row.tdp_w) == tdp_w


def test_every_cpu_names_its_source() -> None:
    assert all(cpu.source.startswith("https://") for cpu in CPUS)
    with pytest.raises(ValueError, match="row 'X': no source"):
        parse_cpus(["pattern,tdp_w,source", "X,5,"])
