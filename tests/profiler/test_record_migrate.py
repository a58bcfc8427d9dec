import pytest

from profiler.record_migrate import migrate

STEPS = {
    1: lambda fields: {**fields, "hop_s": fields["hop_ms"] / 1e3},
    2: lambda fields: {name: value for name, value in fields.items() if name != "hop_ms"},
}


def test_steps_run_one_after_another_and_leave_the_original():
    old = {"schema_version": 1, "hop_ms": 250.0}
    assert migrate(old, steps=STEPS, target=3) == {"schema_version": 3, "hop_s": 0.25}
    assert old == {"schema_version": 1, "hop_ms": 250.0}


def test_the_current_version_stays_as_it_is():
    assert migrate({"schema_version": 2, "a": 1}, steps=STEPS, target=2) == {"schema_version": 2, "a": 1}


@pytest.mark.parametrize(
    ("version", "sentence"),
    [
        (4, "schema_version=4 is newer than 3"),
        (0, "schema_version=0 is older than 3, and nothing leads on"),
        (None, "schema_version=None is not a version number"),
        ("1", "schema_version='1' is not a version number"),
        (True, "schema_version=True is not a version number"),
    ],
)
def test_versions_that_cannot_be_read_are_named(version, sentence):
    with pytest.raises(ValueError, match=sentence):
        migrate({"schema_version": version}, steps=STEPS, target=3)
