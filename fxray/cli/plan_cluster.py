"""The part of `fxray plan` that speaks of a cluster."""

from dataclasses import fields
from typing import TYPE_CHECKING

import typer

from fxray.counts import counted

if TYPE_CHECKING:
    from collections.abc import Collection

    from rich.table import Table

    from fxray.capacity.cluster import ClusterPlan, Elasticity, Size
    from fxray.config.tree import Config

MIB = 2**20


def print_cluster(plan: "ClusterPlan", config: "Config", *, given: "Collection[str]") -> None:
    """Prints traffic, sizes and what workers cost that come and go.

    Args:
        plan: Of the cluster.
        config: Of the run.
        given: Coefficients that the user gave.
    """
    from fxray.cli.tables import print_table

    typer.echo()
    print_table(_traffic_table(plan))
    typer.echo(
        f"the driver: {plan.driver_calls:,} calls a step, {plan.driver_s:.2f} s of its processor; nodes of "
        f"{plan.coefficients.gpus_per_node} GPUs, driver, images and rewards on others"
    )
    if plan.sizes:
        typer.echo()
        print_table(_sizes_table(plan, config))
    for line in (*_enough(plan, config), *(_comings(plan.elasticity, config) if plan.elasticity else ())):
        typer.echo(line)
    typer.echo()
    print_table(_coefficients_table(plan, given))


def _traffic_table(plan: "ClusterPlan") -> "Table":
    from rich.table import Table

    table = Table(title="Over the network in a step", title_justify="left")
    for column in ("what", "route"):
        table.add_column(column)
    for column in ("messages", "MiB", "s"):
        table.add_column(column, justify="right")
    for each in plan.traffic:
        size = f"{each.num_bytes / MIB:,.2f}"
        table.add_row(each.what, each.route, f"{each.num_messages:,}", size, f"{each.seconds:.3f}")
    return table


def _sizes_table(plan: "ClusterPlan", config: "Config") -> "Table":
    from rich.table import Table

    table = Table(title="Steps with so many rollout workers, s", title_justify="left")
    table.add_column("workers", justify="right")
    for column in ("sampling", "learning", "in turn", "overlapped", "one more gains"):
        table.add_column(column, justify="right")
    table.add_column("overlapped, who waits")
    for size in plan.sizes:
        is_present = size.num_workers == config.rollout.num_workers
        numbers = (size.sampling_s, size.learning_s, size.in_turn_s, size.overlap_s)
        table.add_row(
            f"{'* ' if is_present else ''}{size.num_workers:,}",
            *(f"{number:.1f}" for number in numbers),
            f"{size.gain_s:.2f}",
            _who_waits(size),
        )
    return table


def _who_waits(size: "Size") -> str:
    if size.learner_waits_s:
        return f"learner {size.learner_waits_s:.1f} s for answers"
    return f"engines {size.engines_wait_s:.1f} s for a policy"


def _enough(plan: "ClusterPlan", config: "Config") -> list[str]:
    if not plan.sizes:
        return ["no GPU is asked for: waits are not modelled"]
    staleness = config.grpo.max_staleness
    present = f"with grpo.max_staleness {staleness} " + (
        "they overlap" if staleness else "sampling and learning take turns"
    )
    if plan.enough_workers is None:
        return [f"{present}; no number of rollout workers makes sampling as short as learning"]
    return [f"{present}; from {counted(plan.enough_workers, 'rollout worker')} on the learner is what is waited for"]


def _comings(elasticity: "Elasticity", config: "Config") -> list[str]:
    without_s = elasticity.sampling_without_s
    meanwhile = f"sampling takes {without_s:.1f} s" if without_s is not None else "nothing is drawn"
    dies = (
        f"a worker that dies: {counted(elasticity.lease_groups, 'group is', 'groups are')} drawn again, "
        f"its step takes up to {elasticity.death_s:.1f} s longer;\n  until another is up {meanwhile}"
    )
    joins = (
        f"a worker that joins, its node being up: {elasticity.join_s:.1f} s until its first group;\n  "
        f"a run ends with more than {counted(config.failures.max_restarts, 'failure')} in "
        f"{config.failures.window_minutes:g} min (failures.max_restarts)"
    )
    return [dies, joins]


def _coefficients_table(plan: "ClusterPlan", given: "Collection[str]") -> "Table":
    from rich.table import Table

    from fxray.capacity.cluster import SOURCES

    table = Table(title="These rest on", title_justify="left")
    table.add_column("coefficient")
    table.add_column("value", justify="right")
    table.add_column("where from")
    for field in fields(plan.coefficients):
        source = "given" if field.name in given else SOURCES[field.name]
        table.add_row(field.name, f"{getattr(plan.coefficients, field.name):g}", source)
    return table
