"""A device that is held until all is enqueued, by a device and a host that are computed: a kernel begins when it is enqueued
and the one before it has ended."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lpanas.lpa import held
from lpanas.lpa.config import UserError
from lpanas.lpa.held import Held, Run

CPU = torch.device("cpu")
MICROSECONDS = st.floats(0, 1e-3)
PARTS = st.lists(st.lists(st.tuples(MICROSECONDS, MICROSECONDS), min_size=1, max_size=6), min_size=1, max_size=4)
"""Of each part its kernels: the host's seconds to enqueue one, and the device's to compute it."""


class Machine:
    """Does parts on a device that is held, and knows for how long it was."""

    def __init__(self, parts):
        self.parts, self.holds = parts, []

    def __call__(self, hold):
        self.holds.append(hold)
        now, free, device = 0.0, hold, []
        for kernels in self.parts:
            began = free
            for to_enqueue, to_compute in kernels:
                now += to_enqueue
                free = max(free, now) + to_compute
            device.append(free - began)
        host = [sum(to_enqueue for to_enqueue, _ in kernels) for kernels in self.parts]
        return Run(device, host, enqueued=now, held=hold)


def sums(parts, side):
    return [sum(kernel[side] for kernel in kernels) for kernels in parts]


@given(PARTS)
def test_each_part_takes_what_its_kernels_do_however_slow_the_host_is(parts):
    machine = Machine(parts)
    once = Held(machine)
    for _ in range(3):
        found = once()
        assert found.device == pytest.approx(sums(parts, 1), abs=1e-12)
        assert found.host == pytest.approx(sums(parts, 0), abs=1e-12)
    assert machine.holds[-3:] == [once.seconds] * 3  # what was long enough is so from then on
    assert once.seconds <= 2 * max(held.LEAST, sum(sums(parts, 0)))


def test_without_a_hold_short_kernels_would_measure_the_host():
    parts = [[(100e-6, 20e-6)] * 4]
    assert Machine(parts)(0.0).device == pytest.approx([420e-6])
    assert not Machine(parts)(0.0).is_of_device
    assert Held(Machine(parts))().device == pytest.approx([80e-6])


def test_what_cannot_be_enqueued_while_the_device_is_held_is_refused_at_a_bound_in_a_line():
    machine = Machine([[(held.MOST + 0.1, 1e-6)]])
    words = r"^a GPU that was held for 0.5 s had not got all kernels .* the host took 0.6 s"
    with pytest.raises(UserError, match=words) as raised:
        Held(machine)()
    assert "\n" not in str(raised.value)
    assert machine.holds[0] == held.LEAST
    assert machine.holds[-1] == held.MOST == max(machine.holds)
    assert len(machine.holds) <= 2 + math.log2(held.MOST / held.LEAST)


def test_a_cpu_waits_for_nobody_and_its_host_has_no_time_of_its_own():
    done = []
    once = held.held(CPU, lambda: done.append("before"), [lambda: done.append("one"), lambda: done.append("other")])
    found = once()
    assert done == ["before", "one", "other"]
    assert found.host == [0.0, 0.0]
    assert len(found.device) == 2
    assert found.is_of_device


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
def test_a_gpu_is_held_until_a_hundred_small_kernels_are_enqueued():
    x = torch.zeros(8, device="cuda")

    def many():
        for _ in range(100):
            x.add_(1.0)

    once = held.held(torch.device("cuda"), lambda: None, [many, many])
    found = [once() for _ in range(5)][-1]
    assert found.held > found.enqueued > sum(found.host) > 0
    assert all(0 < its < 1e-2 for its in found.device)
    assert x[0].item() >= 1000.0
