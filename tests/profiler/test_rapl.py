import os
from pathlib import Path

import pytest

from profiler.energy import RaplMeter
from profiler.rapl import RaplUnavailableError, find_zones


def make_zone(powercap: Path, folder: str, name: str, energy_uj: int, range_uj: int = 1_000_000_000) -> Path:
    zone = powercap / folder
    zone.mkdir(parents=True)
    (zone / "name").write_text(f"{name}\n")
    (zone / "energy_uj").write_text(f"{energy_uj}\n")
    (zone / "max_energy_range_uj").write_text(f"{range_uj}\n")
    return zone


@pytest.fixture
def powercap(tmp_path: Path) -> Path:
    make_zone(tmp_path, "intel-rapl:0", "package-0", 900_000_000)
    make_zone(tmp_path, "intel-rapl:0:0", "core", 5)
    make_zone(tmp_path, "intel-rapl:0:1", "dram", 10_000_000)
    make_zone(tmp_path, "intel-rapl:1", "package-1", 20_000_000)
    make_zone(tmp_path, "intel-rapl:2", "psys", 5)
    return tmp_path


def test_zones_count_nothing_twice(powercap: Path) -> None:
    assert [zone.name for zone in find_zones(powercap)] == ["package-0", "dram", "package-1"]


def test_meter_adds_zones_and_survives_one_wrap(powercap: Path, clock) -> None:
    meter = RaplMeter(find_zones(powercap), clock_ns=clock.ns, sleep=clock.sleep)
    window = meter.begin()
    clock.sleep(6)
    (powercap / "intel-rapl:0" / "energy_uj").write_text("50000000")  # wrapped at 1000 J: 150 J
    (powercap / "intel-rapl:1" / "energy_uj").write_text("60000000")  # 40 J
    reading = meter.end(window)
    assert reading.energy_j == pytest.approx(190)
    assert (reading.duration_s, reading.source, reading.is_estimate) == (pytest.approx(6), "rapl", False)
    assert "a counter holds 1000 J, so 6 s may have lost a round of it" in reading.detail
    assert "dram stood still" in reading.detail
    assert (reading.counter_j, reading.polled_j, reading.hli_j) == (reading.energy_j, None, None)
    assert reading.error_j == pytest.approx(2 * 0.001 * 190 / 6)


def test_counters_that_stand_still_or_vanish_are_no_zero(powercap: Path, clock) -> None:
    meter = RaplMeter(find_zones(powercap), tdp_w=100.0, clock_ns=clock.ns, sleep=clock.sleep)
    window = meter.begin()
    clock.sleep(2)
    reading = meter.end(window)
    assert (reading.energy_j, reading.source, reading.counter_j) == (pytest.approx(200), "hli", None)
    assert "stand still over 2 s; downgraded to hli" in reading.detail
    assert meter.measure_idle(2.0) is None
    (powercap / "intel-rapl:0" / "energy_uj").unlink()
    bare = RaplMeter(meter.zones, clock_ns=clock.ns, sleep=clock.sleep)
    reading = bare.end(bare.begin())
    assert (reading.energy_j, reading.source) == (None, "none")
    assert "cannot be read" in reading.detail


def test_idle_power_reaches_later_readings(powercap: Path, clock) -> None:
    file = powercap / "intel-rapl:1" / "energy_uj"

    def sleep(seconds: float) -> None:
        clock.sleep(seconds)
        file.write_text(str(int(file.read_text()) + round(seconds * 30e6)))

    meter = RaplMeter(find_zones(powercap), clock_ns=clock.ns, sleep=sleep)
    assert meter.measure_idle(2.0) == pytest.approx(30)
    window = meter.begin()
    sleep(0.5)
    reading = meter.end(window)
    assert reading.idle_w == pytest.approx(30)
    assert reading.active_j == pytest.approx(0, abs=1e-6)
    assert "the window of 0.5 s is shorter than 1 s" in reading.detail
    assert meter.measure_idle(0.0) is None


def test_no_package_is_said(tmp_path: Path) -> None:
    with pytest.raises(RaplUnavailableError, match="has no RAPL package"):
        find_zones(tmp_path / "absent")
    make_zone(tmp_path, "intel-rapl:0", "psys", 5)
    with pytest.raises(RaplUnavailableError, match="has no RAPL package"):
        find_zones(tmp_path)


def test_unreadable_counters_name_the_command(powercap: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read_text = Path.read_text

    def refuse(self: Path, *args: str) -> str:
        if self.name == "energy_uj":
            raise PermissionError(13, os.strerror(13))
        return read_text(self, *args)

    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(RaplUnavailableError, match="may not be read: sudo chmod"):
        find_zones(powercap)


def test_damaged_counters_are_refused(powercap: Path) -> None:
    (powercap / "intel-rapl:0" / "energy_uj").write_text("lots")
    with pytest.raises(RaplUnavailableError, match="'lots' where microjoules are expected"):
        find_zones(powercap)
    (powercap / "intel-rapl:0" / "energy_uj").unlink()
    with pytest.raises(RaplUnavailableError, match="cannot be read"):
        find_zones(powercap)
