"""Benchmark federations run whole rounds: every reply is admitted."""

from fedmeta.bench import maml


def test_one_and_two_workers_take_turns():
    timings = maml.time_workers(2, cohort=3, width=2)
    assert list(timings) == ["round, 1 worker(s)", "round, 2 worker(s)"]
    assert all(len(timing.samples) == 2 for timing in timings.values())
