"""What a model's runs teach about the next one."""

from penstock_gateway.dispatcher import RunTime


def test_a_run_that_was_ended_makes_no_later_frame_late() -> None:
    """A frame that hangs its model for a second would make 100 ms the prediction of a model of 1 ms."""
    times = RunTime(0.001)
    for now in range(10):
        times.ran(1, 1.0, now + 0.0, timed_out=True)
        times.ran(1, 0.001, now + 0.5)
    assert times.predict(1, 9.6) < 0.0011


def test_a_model_that_became_slow_is_given_the_time_that_it_needs() -> None:
    times = RunTime(0.001)
    runs = 0
    while (limit := times.timeout_s(1)) < 3.0:
        runs += 1
        times.ran(1, limit, float(runs), timed_out=True)
        assert runs < 20
