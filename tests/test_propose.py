from itertools import product
from random import Random

import pytest
from lpanas.search.budget import ARMS
from lpanas.search.propose import Proposer
from lpanas.search.record import Known, Record
from making import arm_records, ended, job, point, tiny_space

SAMPLERS = pytest.mark.parametrize("sampler", ["gp", "tpe", "nsga2", "random", "grid"])
SMALL = ("vary.rebalance=[none, params, flops]", "limits.params=0.99 x dense")


def distinct(space):
    """The feasible models of a space, each once, by brute force."""
    points = (dict(zip(space.choices, values, strict=True)) for values in product(*space.choices.values()))
    return {c.proxy.model_dump_json() for c in map(space.candidate, points) if c.feasible}


def loss(candidate):
    return 3.0 + candidate.costs["params"] / 1e6


def propose(proposer, records=(), running=()):
    """The candidate that is proposed when these runs are known."""
    known = [Known(its, dict(its.curve), ended=True) for its in records] + [Known(its, {}, ended=False) for its in running]
    proposal = proposer.propose(known)
    return None if proposal is None else proposal.candidate


def visit(space, proposer, records, most=1000):
    """Propose and 'train' until the space has no other candidate."""
    records = list(records)
    while len(records) < most and (candidate := propose(proposer, records)) is not None:
        records.append(ended(job(candidate, f"trial-{len(records)}"), loss(candidate)))
        proposer.count(records[-1])
    return records


def informed(space, records):
    proposer = Proposer(space)
    for record in records:
        proposer.count(record)
    return proposer


@SAMPLERS
def test_every_distinct_feasible_candidate_is_proposed_once_and_then_none(sampler):
    space = tiny_space(*SMALL, f"search.sampler={sampler}")
    proposer = Proposer(space)
    found = [record.model.model_dump_json() for record in visit(space, proposer, [])]
    assert len(found) == len(set(found))
    assert set(found) == distinct(space)
    assert propose(proposer) is None


@SAMPLERS
def test_what_was_seen_is_not_proposed_again(sampler):
    space = tiny_space(f"search.sampler={sampler}")
    arms = arm_records(space, 3.0, 3.1, 3.2, 3.3)
    found = visit(space, informed(space, arms), arms)
    models = [record.model.model_dump_json() for record in found]
    assert len(models) == len(set(models))
    assert set(models) == distinct(space)


@SAMPLERS
def test_what_breaks_a_limit_is_not_proposed(sampler):
    space = tiny_space("limits.params=0.8 x dense", f"search.sampler={sampler}")
    found = visit(space, Proposer(space), [])
    assert found
    assert all(record.costs["params"] <= 0.8 * space.dense_costs["params"] for record in found)


@SAMPLERS
def test_the_same_history_gives_the_same_proposal_whatever_objects_hold_it(sampler):
    space = tiny_space("vary.bands=2", "vary.rebalance=[none, params]", f"search.sampler={sampler}")
    arms = arm_records(space, 3.0, 3.1, 3.2, 3.3)
    records = visit(space, informed(space, arms), arms, most=14)
    again = [Record.parse(record.model_dump(mode="json"), "copy") for record in records]
    other = tiny_space("vary.bands=2", "vary.rebalance=[none, params]", f"search.sampler={sampler}")
    assert propose(informed(space, records), records) == propose(informed(other, again), again)
    assert visit(other, informed(other, again[:4]), again[:4], most=14) == records


@SAMPLERS
def test_another_seed_gives_another_course(sampler):
    courses = []
    for seed in (0, 1):
        space = tiny_space("vary.bands=2", f"seed={seed}", f"search.sampler={sampler}")
        courses.append([record.params for record in visit(space, Proposer(space), [], most=6)])
    assert courses[0] != courses[1]


def test_a_refused_proposal_leaves_the_next_one_as_it_was():
    space = tiny_space("vary.bands=2")
    proposer = Proposer(space)
    assert propose(proposer) == propose(proposer)


@SAMPLERS
@pytest.mark.parametrize("objectives", ["[loss_nats]", "[loss_nats, params]", "[loss_nats, flops_per_token, memory_bytes]"])
def test_failed_runs_arms_outside_and_any_number_of_objectives_do_not_stop_it(sampler, objectives):
    space = tiny_space(
        "vary.bands=2", "vary.ranks.attention=[dense, 1/8]", f"objectives={objectives}", f"search.sampler={sampler}"
    )
    arms = arm_records(space, 3.0, 3.1, None, None)
    failed = [ended(job(space.candidate(params), f"trial-{n}"), status="diverged") for n, params in enumerate(some(space), 4)]
    assert [record.arm for record in arms if not record.params] == ["attention", "both"]
    records = [*arms, *failed]
    proposer = informed(space, records)
    found = visit(space, proposer, records, most=16)
    models = [record.model.model_dump_json() for record in found]
    assert len(models) == len(set(models)) == 16


def some(space):
    return list(space.points(Random(0)))[5:9]


@SAMPLERS
def test_a_running_job_is_taken_into_account_and_not_proposed_again(sampler):
    space = tiny_space("vary.bands=2", f"search.sampler={sampler}")
    arms = arm_records(space, 3.0, 3.1, 3.2, 3.3)
    proposer, running = informed(space, arms), []
    for number in range(4, 10):
        candidate = propose(proposer, arms, running)
        running.append(job(candidate, f"trial-{number}"))
        proposer.count(running[-1])
    models = [its.model.model_dump_json() for its in [*arms, *running]]
    assert len(models) == len(set(models))


def test_tpe_learns_which_choices_lower_the_loss():
    """Where the FFN's rank alone decides the loss, more than the even share of proposals has the good one."""
    space = tiny_space(
        "vary.ranks={q: [dense, 1/4, 1/8], k: [dense, 1/4, 1/8], v: [dense, 1/4, 1/8], ffn: [dense, 1/2, 1/4]}",
        "vary.bands=2",
        "objectives=[loss_nats]",
    )
    proposer, records = Proposer(space), []
    for number in range(40):
        candidate = propose(proposer, records)
        bad = sum(value != "1/4" for name, value in candidate.params.items() if "ffn" in name)
        records.append(ended(job(candidate, f"trial-{number}"), 3.0 + bad))
        proposer.count(records[-1])
    late = [record.loss_nats for record in records[20:]]
    assert late.count(3.0) > 3 * len(late) / 9


def test_the_arms_of_a_space_count_as_its_points():
    space = tiny_space("vary.ranks={attention: [dense, 1/4], ffn: [dense, 1/2]}")
    arms = [job(space.arm(name), f"trial-{n}", name) for n, name in enumerate(ARMS)]
    assert [arm.params for arm in arms] == [point(), point("1/4"), point("dense", "1/2"), point("1/4", "1/2")]
    assert propose(informed(space, arms)) is None
