import multiprocessing as mp
import os
import resource
import signal
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from lpanas.lpa.train import train
from lpanas.search.budget import ARMS
from lpanas.search.executor import LocalExecutor
from lpanas.search.proxy import is_out_of_memory, run_proxy
from lpanas.search.record import Advanced, Fault, Record, Trained
from making import job, same, tiny_space

SPACE = tiny_space()
JOBS = [job(SPACE.arm(arm), f"trial-{number}", arm) for number, arm in enumerate(ARMS)]
NO_NUMBERS = JOBS[0].change(run="trial-8", model=JOBS[0].model.change(rope_theta=1e-300))
"""Positions turned by 1e75 and more: every attention score is NaN."""
LONG = JOBS[0].change(run="trial-9", model=JOBS[0].model.change(d_model=768, d_ff=2048))  # seconds a run


def run(executor, jobs):
    """Everything that the executor tells of some jobs."""
    told, waiting = [], list(jobs)
    while waiting or executor.jobs:
        while waiting and executor.idle:
            executor.submit(waiting.pop(0))
        told += executor.wait()
    return told


def records(told):
    return {message.run: message for message in told if isinstance(message, Record)}


def wait_until_in_the_middle(executor):
    while not any(isinstance(message, Advanced) for message in executor.wait()):
        pass


def test_each_job_is_trained_and_ends_with_a_record_of_itself(two):
    told = run(two, JOBS)
    found = records(told)
    assert sorted(found) == [its.run for its in JOBS]
    for its in JOBS:
        record = found[its.run]
        assert record == record.change(**{name: getattr(its, name) for name in type(its).model_fields})
        assert (record.status, record.reason, record.tokens) == ("complete", "", SPACE.proxy.tokens)
        assert record.measured.device == "cpu"
    assert two.idle == 2
    assert two.jobs == []


def test_a_run_tells_of_each_evaluation_before_its_record(two):
    told = run(two, JOBS[:1])
    record = told[-1]
    assert [(message.tokens, message.loss_nats) for message in told[:-1]] == list(record.curve)
    assert record.curve[-1] == (record.tokens, record.loss_nats)
    assert all(a < b for (a, _), (b, _) in pairwise(record.curve))


def test_a_record_holds_what_the_training_loop_gives_in_this_process(two, setup, shards):
    record = records(run(two, JOBS[3:]))["trial-3"]
    config = setup.config.change(model=JOBS[3].model, seed=JOBS[3].seed)
    losses = [progress.valid_loss_nats for progress in train(config, shards) if progress.valid_loss_nats is not None]
    assert [loss for _, loss in record.curve] == losses


def test_two_workers_give_equal_records_of_one_job(two):
    first, second = (message for message in run(two, [JOBS[1], JOBS[1]]) if isinstance(message, Record))
    assert same(first) == same(second)
    assert first.measured != second.measured


def test_another_seed_gives_another_loss(two):
    found = records(run(two, [JOBS[0], JOBS[0].change(run="trial-5", seed=1)]))
    assert found["trial-0"].loss_nats != found["trial-5"].loss_nats


def test_a_run_that_diverges_is_a_record_and_the_worker_goes_on(two):
    found = records(run(two, [NO_NUMBERS, JOBS[0], JOBS[1], JOBS[2]]))
    assert (found["trial-8"].status, found["trial-8"].loss_nats) == ("diverged", None)
    assert "nan" in found["trial-8"].reason
    assert {found[its.run].status for its in JOBS[:3]} == {"complete"}


def test_workers_that_are_killed_cost_the_run_that_one_held_and_nothing_else(two):
    two.submit(LONG)
    wait_until_in_the_middle(two)
    killed = [worker.process for worker in two.workers]
    for process in killed:
        os.kill(process.pid, signal.SIGKILL)
    told = []
    while any(worker.process in killed for worker in two.workers):
        told += two.wait()
    (fault,) = (message for message in told if isinstance(message, Fault))
    assert not fault.out_of_memory
    lost = fault.record
    assert (lost.run, lost.status, lost.loss_nats, lost.measured) == ("trial-9", "failed", None, None)
    assert "SIGKILL" in lost.reason
    assert lost == lost.change(**{name: getattr(LONG, name) for name in type(LONG).model_fields})
    assert {record.status for record in records(run(two, JOBS)).values()} == {"complete"}
    assert two.idle == 2


def test_workers_outlive_the_process_that_they_are_forked_from_by_nothing_and_are_replaced(two):
    """Whoever kills the server kills all workers; the next ones come from a new one."""
    before = [worker.process for worker in two.workers]
    server = int(Path(f"/proc/{before[0].pid}/stat").read_text().rpartition(")")[2].split()[1])
    two.submit(LONG)
    wait_until_in_the_middle(two)
    os.kill(server, signal.SIGKILL)
    told = []
    while any(worker.process in before for worker in two.workers):
        told += two.wait()
    assert [message.record.run for message in told if isinstance(message, Fault)] == ["trial-9"]
    assert {record.status for record in records(run(two, JOBS)).values()} == {"complete"}


def faults(executor, its):
    """All that is told until a run ends."""
    executor.submit(its)
    told = []
    while not any(isinstance(message, (Fault, Record)) for message in told):
        told += executor.wait(1.0)
    return told


def test_a_worker_that_says_nothing_is_replaced_and_its_run_is_a_fault(setup):
    with LocalExecutor(setup, 1, hung_minutes=0.2) as executor:
        (worker,) = executor.workers
        os.kill(worker.process.pid, signal.SIGSTOP)
        (fault,) = faults(executor, JOBS[0])
        assert fault.record == Record(**dict(JOBS[0]), status="failed", reason="no progress for 0.2 minutes")
        with pytest.raises(ProcessLookupError):
            os.kill(worker.process.pid, 0)
        assert records(run(executor, JOBS[:1]))["trial-0"].status == "complete"


def test_memory_that_ends_is_a_fault_of_its_own_and_the_next_run_has_another_worker(setup):
    with LocalExecutor(setup, 1) as executor:
        (worker,) = executor.workers
        in_use = int(Path(f"/proc/{worker.process.pid}/statm").read_text().split()[0]) * resource.getpagesize()
        resource.prlimit(worker.process.pid, resource.RLIMIT_AS, (in_use + 2**25, in_use + 2**25))
        *_, fault = faults(executor, LONG)
        assert fault.out_of_memory
        assert (fault.record.status, fault.record.reason[:14]) == ("failed", "out of memory:")
        assert fault.record.measured is not None
        assert executor.workers[0].process.pid != worker.process.pid
        assert records(run(executor, [LONG]))["trial-9"].status == "complete"


def test_a_fault_of_the_code_ends_the_worker_and_not_the_executor(setup):
    """Tokens that the model has no rows for."""
    with LocalExecutor(setup, 1) as executor:
        *_, fault = faults(executor, JOBS[0].change(model=JOBS[0].model.change(vocab_size=8)))
        assert fault.record.reason == "the worker process ended (exit code 1)"
        assert records(run(executor, JOBS[:1]))["trial-0"].status == "complete"


def test_a_mistake_that_a_worker_meets_is_the_records_reason_and_the_worker_goes_on(setup):
    with LocalExecutor(replace(setup, config=setup.config.change(cuda_graph=True)), 1) as executor:
        before = executor.workers[0].process
        told = run(executor, JOBS[:2])
        assert [type(message) for message in told] == [Record, Record]
        assert {message.reason for message in told} == {"cuda_graph: only on one GPU alone, found 1 on cpu"}
        assert executor.workers[0].process is before


def test_shards_that_cannot_be_read_are_the_faults_reason(setup, tmp_path):
    with LocalExecutor(replace(setup, shards=tmp_path / "gone"), 1) as executor:
        (fault,) = run(executor, JOBS[:1])
        assert isinstance(fault, Fault)
        assert str(tmp_path / "gone") in fault.record.reason


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried to"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
    ],
)
def test_what_allocators_say_is_told_from_other_errors(error, expected):
    assert is_out_of_memory(error) is expected


def test_a_long_run_tells_how_far_it_has_come(setup, shards):
    config = setup.config.change(tokens=64 * 10**6, evals=1)
    trained = next(message for message in run_proxy(LONG, config, shards) if isinstance(message, Trained))
    assert trained.run == "trial-9"
    assert 0 < trained.tokens < 64 * 10**6
    assert trained.tokens % config.batch_tokens == 0
    assert 0 < trained.tokens_per_second <= trained.tokens


def test_nothing_is_left_alive_when_it_is_closed_in_the_middle_of_a_run(setup):
    before = set(mp.active_children())
    with LocalExecutor(setup, 1) as executor:
        (worker,) = set(mp.active_children()) - before
        executor.submit(LONG)
        wait_until_in_the_middle(executor)
    assert set(mp.active_children()) == before
    with pytest.raises(ProcessLookupError):
        os.kill(worker.pid, 0)
