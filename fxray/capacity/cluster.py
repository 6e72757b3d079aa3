"""What a cluster moves and waits for: bytes between nodes, who waits for whom, what a worker gains or costs.

Plain arithmetic. Every coefficient is in one place, says where it was measured or that it is a guess, and is shown.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import cache

from fxray.capacity.activations import Pass
from fxray.capacity.duration import Coefficients, Duration
from fxray.capacity.leases import groups_at_once, lease_size, num_shares
from fxray.capacity.memory import grpo_pass
from fxray.capacity.trained import FLOAT32_BYTES, Trained, count_trained
from fxray.capacity.weights import count_weights
from fxray.config.limits import BYTES_PER_NUMBER
from fxray.config.model_shape import ModelShape
from fxray.config.tree import Config

INT32_BYTES = 4
CALLS_PER_REQUEST = 3
"""Of the driver: hand it out, wait for it, take it."""
SCORE_NUMBERS = 8
"""Per answer: the reward, its three parts, four facts."""


@dataclass(frozen=True, slots=True)
class ClusterCoefficients:
    """What cannot be counted. `SOURCES` says where each comes from.

    Attributes:
        link_bytes_per_s: Between two nodes, each way.
        node_bytes_per_s: Between two GPUs of a node.
        gpus_per_node: Engines and ranks fill nodes of this size.
        image_bytes_per_pixel: Of an encoded image, where no training file says it.
        text_bytes_per_token: Of an answer.
        request_s: Of the driver's processor, to hand out, wait for and take one request.
        request_each_s: More for every other request that is outstanding.
        request_group_s: More for every group in a request.
        score_group_s: Of one reward worker, for a group.
        actor_start_s: From asking for an actor to its first call.
        engine_start_s: Of an engine, beside reading its weights.
        weights_bytes_per_s: Reading weights from disk into an engine.
        adapter_module_s: Of an engine, to bind one LoRA module and read it back.
        death_seen_s: From the death of a process until the driver hears of it.
    """

    link_bytes_per_s: float = 25e9 / 8
    node_bytes_per_s: float = 200e9
    gpus_per_node: int = 8
    image_bytes_per_pixel: float = 0.6
    text_bytes_per_token: float = 4.0
    request_s: float = 0.0009
    request_each_s: float = 0.24e-6
    request_group_s: float = 14e-6
    score_group_s: float = 0.003
    actor_start_s: float = 2.0
    engine_start_s: float = 60.0
    weights_bytes_per_s: float = 1e9
    adapter_module_s: float = 0.5e-3
    death_seen_s: float = 0.1


SOURCES = dict.fromkeys((field.name for field in fields(ClusterCoefficients)), "guess") | {
    "request_s": "measured: benchmarks/driver.py, processor time on an AMD EPYC",
    "request_each_s": "measured: benchmarks/driver.py, the same",
    "request_group_s": "measured: benchmarks/driver.py, the same",
    "score_group_s": "measured: 8 answers of the tiny model, of a run on an AMD EPYC",
    "adapter_module_s": "measured: benchmarks/sync.py, tiny model, processor time on an AMD EPYC",
}


@dataclass(frozen=True, slots=True)
class Traffic:
    """What crosses one boundary in a step.

    Attributes:
        what: Named.
        route: From where to where.
        num_messages: Objects or requests.
        num_bytes: Of all of them.
        seconds: At the speed of the slowest link on their way.
        is_learning: The update waits for it; else sampling does.
    """

    what: str
    route: str
    num_messages: int
    num_bytes: int
    seconds: float
    is_learning: bool = False


@dataclass(frozen=True, slots=True)
class Size:
    """A step with so many rollout workers.

    Attributes:
        num_workers: Rollout workers.
        sampling_s: Prompts to scores, with what moves.
        learning_s: The update, with the exchange between ranks.
        gain_s: What one more worker saves of a step of the configured `grpo.max_staleness`; 0 where no more may be.
    """

    num_workers: int
    sampling_s: float
    learning_s: float
    gain_s: float = 0.0

    @property
    def in_turn_s(self) -> float:
        """A step on-policy: sampling and learning take turns."""
        return self.sampling_s + self.learning_s

    @property
    def overlap_s(self) -> float:
        """A step with `grpo.max_staleness` of 1 or more."""
        return max(self.sampling_s, self.learning_s)

    @property
    def learner_waits_s(self) -> float:
        """With overlap, for answers."""
        return max(0.0, self.sampling_s - self.learning_s)

    @property
    def engines_wait_s(self) -> float:
        """With overlap, for a policy."""
        return max(0.0, self.learning_s - self.sampling_s)


@dataclass(frozen=True, slots=True)
class Elasticity:
    """Seconds that workers cost which come and go.

    Attributes:
        join_s: From asking for a worker until its first group, its node being up.
        lease_groups: Groups that a death sends back.
        death_s: How much longer the step of a death may take: they are drawn again once another worker is free, or
            once the only one has a successor.
        sampling_without_s: Sampling of a step while one is missing; None where it was the only one.
    """

    join_s: float
    lease_groups: int
    death_s: float
    sampling_without_s: float | None


@dataclass(frozen=True, slots=True)
class ClusterPlan:
    """What a cluster moves and waits for.

    Attributes:
        traffic: Boundary by boundary.
        driver_calls: Requests of a step.
        driver_s: The driver's processor for them.
        sizes: Steps with 1, 2, 4, ... workers and with the configured number; empty where no time is modelled.
        enough_workers: Fewest with which sampling is not longer than learning; None where no number of them is enough.
        elasticity: None where no time is modelled.
        coefficients: All of the above rests on them.
    """

    traffic: tuple[Traffic, ...]
    driver_calls: int
    driver_s: float
    sizes: tuple[Size, ...]
    enough_workers: int | None
    elasticity: Elasticity | None
    coefficients: ClusterCoefficients


def plan_cluster(
    config: Config,
    shape: ModelShape,
    duration_of: Callable[[int], Duration] | None,
    *,
    answer_frac: float = Coefficients().answer_frac,
    image_bytes: int | None = None,
    coefficients: ClusterCoefficients | None = None,
) -> ClusterPlan:
    """Plans the traffic and the waits of a step.

    Args:
        config: A checked one.
        shape: Its base model.
        duration_of: Durations with so many rollout workers; None where no time is modelled.
        answer_frac: Length of a mean answer, of the longest allowed.
        image_bytes: Of a mean encoded image; by default the coefficients say it.
        coefficients: What is assumed.
    """
    known = coefficients or ClusterCoefficients()
    largest = config.grpo.prompts_per_step
    traffic = count_traffic(config, shape, config.rollout.num_workers, answer_frac, image_bytes, known)
    calls, driver_s = driver_load(config, config.rollout.num_workers, known)
    if duration_of is None:
        return ClusterPlan(traffic, calls, driver_s, (), None, None, known)

    @cache
    def size_of(num_workers: int) -> Size:
        moved = count_traffic(config, shape, num_workers, answer_frac, image_bytes, known)
        duration = duration_of(num_workers)
        sampling_s = duration.prefill_s + duration.decode_s + duration.overhead_s
        of_learner_s = sum(each.seconds for each in moved if each.is_learning)
        of_sampling_s = sum(each.seconds for each in moved if not each.is_learning)
        return Size(num_workers, sampling_s + of_sampling_s, duration.learn_s + of_learner_s)

    def gain_s(num_workers: int) -> float:
        if num_workers == largest:
            return 0.0
        now, then = size_of(num_workers), size_of(num_workers + 1)
        return now.overlap_s - then.overlap_s if config.grpo.max_staleness else now.in_turn_s - then.in_turn_s

    numbers = {2**power for power in range(11) if 2**power <= largest} | {config.rollout.num_workers, largest}
    sizes = [replace(size_of(number), gain_s=gain_s(number)) for number in sorted(numbers)]
    enough = next((number for number in range(1, largest + 1) if size_of(number).learner_waits_s == 0), None)
    elasticity = _elasticity(config, shape, size_of, known)
    return ClusterPlan(traffic, calls, driver_s, tuple(sizes), enough, elasticity, known)


def count_traffic(
    config: Config,
    shape: ModelShape,
    num_workers: int,
    answer_frac: float,
    image_bytes: int | None,
    known: ClusterCoefficients,
) -> tuple[Traffic, ...]:
    """Bytes of a step between nodes, boundary by boundary. Driver, images and rewards are on nodes of their own."""
    step = _mean_step(config, answer_frac)
    groups, answers = step.num_groups, step.num_groups * step.num_answers
    image = groups * (image_bytes or int(known.image_bytes_per_pixel * config.model.max_pixels))
    text = int(answers * step.answer_tokens * known.text_bytes_per_token)
    prompts = groups * step.prompt_tokens * INT32_BYTES
    drawn = prompts + answers * (step.answer_tokens * (INT32_BYTES + FLOAT32_BYTES) + INT32_BYTES + 1) + text
    trained = count_trained(config, shape)
    published = trained.published_bytes
    engine_nodes = _num_nodes(num_workers * max(1.0, config.rollout.gpus_per_worker), known)
    ranks = config.learner.num_ranks
    rank_nodes = _num_nodes(ranks * max(1.0, config.learner.gpus_per_rank), known)
    requests = math.ceil(groups / _lease(config, num_workers))
    shares = num_shares(groups, config.reward.num_workers, known.score_group_s)
    link = known.link_bytes_per_s
    return (
        Traffic("images", "store -> engines", groups, image, image / link),
        Traffic("answers", "engines -> driver", requests, drawn, drawn / link),
        Traffic("texts and scores", "driver <-> rewards", 2 * shares, text + answers * SCORE_NUMBERS * 8, text / link),
        Traffic(
            "weights" if trained.is_whole else "adapter",
            "rank 0 -> engines" if trained.is_whole else "driver -> engines",
            engine_nodes,
            engine_nodes * published,
            engine_nodes * published / link,
        ),
        Traffic("images", "store -> ranks", groups, image, image / link, is_learning=True),
        Traffic("answers", "driver -> ranks", ranks, drawn, drawn / link, is_learning=True),
        *_to_driver(trained, link),
        _exchange(config, trained, step, rank_nodes, known),
    )


def driver_load(config: Config, num_workers: int, known: ClusterCoefficients) -> tuple[int, float]:
    """The driver's calls in a step, and the seconds of its processor that they take.

    Answers come in leases, scores in shares; each worker takes the adapter over.
    """
    groups = config.grpo.prompts_per_step
    leases = math.ceil(groups / _lease(config, num_workers))
    scorers = config.reward.num_workers
    shares = num_shares(groups, scorers, known.score_group_s)
    outstanding = leases * min(leases, num_workers) + shares * min(shares, scorers) + num_workers * num_workers / 2
    requests = leases + shares + num_workers
    seconds = requests * known.request_s + outstanding * known.request_each_s + 2 * groups * known.request_group_s
    return CALLS_PER_REQUEST * requests, seconds


def _mean_step(config: Config, answer_frac: float) -> Pass:
    longest = grpo_pass(config)
    answer_tokens = max(1, round(longest.answer_tokens * answer_frac))
    return replace(longest, answer_tokens=answer_tokens, num_groups=config.grpo.prompts_per_step)


def _lease(config: Config, num_workers: int) -> int:
    grpo = config.grpo
    fills_engine = groups_at_once(grpo.group_size, config.rollout.max_num_seqs)
    return lease_size(grpo.prompts_per_step, num_workers, fills_engine)


def _num_nodes(num_gpus: float, known: ClusterCoefficients) -> int:
    return math.ceil(num_gpus / known.gpus_per_node)


def _to_driver(trained: Trained, link_bytes_per_s: float) -> list[Traffic]:
    """The adapter that rank 0 hands over; whole weights stay in the object store of its node."""
    number = trained.published_bytes
    return (
        []
        if trained.is_whole
        else [Traffic("adapter", "rank 0 -> driver", 1, number, number / link_bytes_per_s, is_learning=True)]
    )


def _exchange(config: Config, trained: Trained, step: Pass, num_nodes: int, known: ClusterCoefficients) -> Traffic:
    """Gradients of every update, and under ZeRO-3 the base weights of every pass.

    Within a node nothing is counted as traffic, but it takes time. A ring brings every rank 2 (N - 1) / N of the
    gradients; a gather brings (N - 1) / N of the weights.
    """
    ranks, updates = config.learner.num_ranks, config.grpo.num_updates_per_batch
    each = 2 * trained.num_trained * FLOAT32_BYTES * updates
    what = "gradients"
    if config.learner.zero_stage == 3:
        groups_per_pass = max(1, config.learner.max_tokens_per_micro_batch // (step.tokens // step.num_groups))
        groups_per_pass = min(groups_per_pass, config.learner.max_groups_per_micro_batch or groups_per_pass)
        passes = math.ceil(math.ceil(config.grpo.prompts_per_step / ranks) / groups_per_pass)
        gathers = passes * (2 * updates + (1 if config.grpo.kl_beta > 0 else 0))  # forward, backward; reference
        number = FLOAT32_BYTES if trained.is_whole else BYTES_PER_NUMBER[config.model.dtype]
        each += gathers * (trained.num_frozen or trained.num_trained) * number
        what = "gradients, weights"
    each = each * (ranks - 1) // ranks
    speed = known.node_bytes_per_s if num_nodes == 1 else known.link_bytes_per_s
    return Traffic(
        what, "rank <-> rank", ranks, each * num_nodes if num_nodes > 1 else 0, each / speed, is_learning=True
    )


def _elasticity(
    config: Config, shape: ModelShape, size_of: Callable[[int], Size], known: ClusterCoefficients
) -> Elasticity:
    workers, groups = config.rollout.num_workers, config.grpo.prompts_per_step
    weights_bytes = count_weights(shape).total * BYTES_PER_NUMBER[config.model.dtype]
    trained = count_trained(config, shape)
    join_s = known.actor_start_s + known.engine_start_s + weights_bytes / known.weights_bytes_per_s
    join_s += trained.published_bytes / known.link_bytes_per_s + trained.num_modules * known.adapter_module_s
    join_s += trained.published_bytes / known.weights_bytes_per_s if trained.is_whole else 0.0
    lease = min(_lease(config, workers), groups)
    generate_s = size_of(workers).sampling_s
    lease_s = generate_s * min(1.0, lease / math.ceil(groups / workers))
    death_s = known.death_seen_s + (lease_s if workers > 1 else lease_s / 2 + join_s)
    without_s = size_of(workers - 1).sampling_s if workers > 1 else None
    return Elasticity(join_s, lease, death_s, without_s)
