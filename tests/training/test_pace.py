"""Whether the data keep up with the devices."""

from cassr_jax.training.pace import Pace


def timed(*steps: float, machines: int = 1) -> Pace:
    pace = Pace(8, machines)
    for seconds in steps:
        assert pace.times_steps
        pace.add(seconds)
    return pace


def test_slow_data_are_named_with_both_rates_and_once():
    pace = timed(4.0, 0.25, 0.5)
    assert not pace.times_steps
    assert pace.news(0.26, 0.0) == "the data keep up with the devices, which take 32 examples/s"
    assert pace.news(0.26, 0.0) == ""
    said = pace.news(2.0, 1.9)
    assert said.startswith(
        "the data are the limit: this machine makes 4 examples/s, and the devices would take 32 examples/s; what helps"
    )
    assert pace.news(2.0, 1.9) == pace.news(0.26, 0.0) == ""


def test_waiting_beside_the_devices_own_work_is_no_limit():
    """The devices were busy with the step before."""
    assert timed(1.0).news(1.05, 0.9).startswith("the data keep up")
    assert timed(1.0).news(2.0, 0.1).startswith("the data keep up")
    assert timed().news(2.0, 1.9) == ""


def test_the_machines_of_a_cluster_are_counted():
    assert "the 4 machines make 4 examples/s, and" in timed(0.25, machines=4).news(2.0, 1.9)
