from pathlib import Path

from profiler.host import cpu_facts, cpu_governor, memory_bytes

CPUINFO = """processor\t: 0
model name\t: AMD EPYC 9554 64-Core Processor
physical id\t: 0
core id\t\t: 0
flags\t\t: fpu vme hypervisor

processor\t: 1
model name\t: AMD EPYC 9554 64-Core Processor
physical id\t: 0
core id\t\t: 0

processor\t: 2
model name\t: AMD EPYC 9554 64-Core Processor
physical id\t: 1
core id\t\t: 0
"""


def test_cpu_facts_count_packages_and_cores(tmp_path: Path) -> None:
    file = tmp_path / "cpuinfo"
    file.write_text(CPUINFO)
    facts = cpu_facts(file)
    assert facts.model == "AMD EPYC 9554 64-Core Processor"
    assert (facts.sockets, facts.cores, facts.threads, facts.virtual) == (2, 2, 3, True)


def test_a_cpu_without_packages_or_name(tmp_path: Path) -> None:
    file = tmp_path / "cpuinfo"
    file.write_text("processor\t: 0\nBogoMIPS\t: 50\n\nprocessor\t: 1\nBogoMIPS\t: 50\n")
    facts = cpu_facts(file)
    assert (facts.sockets, facts.cores, facts.threads, facts.virtual) == (1, None, 2, False)
    assert facts.model


def test_a_machine_without_proc(tmp_path: Path) -> None:
    facts = cpu_facts(tmp_path / "absent")
    assert facts.threads >= 1
    assert facts.cores is None
    assert memory_bytes(tmp_path / "absent") is None
    assert cpu_governor(tmp_path) is None


def test_memory_and_governor(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:       1024 kB\nMemFree: 1 kB\n")
    assert memory_bytes(meminfo) == 1 << 20
    governor = tmp_path / "cpu0" / "cpufreq" / "scaling_governor"
    governor.parent.mkdir(parents=True)
    governor.write_text("performance\n")
    assert cpu_governor(tmp_path) == "performance"
