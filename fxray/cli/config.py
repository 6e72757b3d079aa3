"""`fxray config`: what a configuration is once all is resolved, and whether it can run."""

import os

import typer

from fxray.cli.arguments import ConfigOption, SetOption, checked_config

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Show or check a configuration.")


@app.command()
def show(config: ConfigOption, overrides: SetOption = None) -> None:
    """Print the whole tree as YAML: parent, file, overrides and defaults resolved.

    \b
    Example:
      fxray config show --config tiny --set grpo.group_size=4
    """
    from fxray.config.load import dump_config, load_config

    typer.echo(dump_config(load_config(config, overrides or ())), nl=False)


@app.command()
def check(config: ConfigOption, overrides: SetOption = None) -> None:
    """Check a configuration field by field, against itself, the model's own limits, the model's folder and the data.

    \b
    Example:
      fxray config check --config configs/qwen2.5-vl-32b.yaml
    """
    tree = checked_config(config, overrides)
    from fxray.launch.namesakes import refuse_namesakes

    refuse_namesakes()
    from fxray.capacity.trained import find_store_problem
    from fxray.config.model_shape import adapter_warning
    from fxray.config.problem import refuse
    from fxray.config.schedule import load_stages
    from fxray.files import is_there
    from fxray.grammar.prompts import template_warning
    from fxray.launch.base_model import look_at_base
    from fxray.launch.data import check_splits, named_splits
    from rewards.custom import load_reward
    from rewards.stage import parts_off

    if not (tree.ray.address or os.environ.get("RAY_ADDRESS")):  # a run looks at the cluster that it joins
        refuse(find_store_problem(tree, tree.ray.object_store_mib * 2**20), where=config)
    if of_model := look_at_base(tree.model.path):
        typer.echo(f"note: {of_model}", err=True)
    for function in tree.reward.functions:
        load_reward(function.path)
    of_adapter = adapter_warning(tree.model.path) if tree.model.lora else None
    for warning in filter(None, (template_warning(tree.data.templates), of_adapter)):
        typer.echo(f"warning: {warning}", err=True)
    stages = ", ".join(stage.name for stage in load_stages(tree.grpo.schedule))
    off = ", ".join(parts_off(tree.data.view)) or "none"
    if splits := named_splits(tree):
        files = {name: getattr(splits, name) for name in ("train", "validation", "test")}
        elsewhere = [f"data.{name} {path}" for name, path in files.items() if not is_there(path)]
        for name in elsewhere:
            typer.echo(f"note: {name} is not on this machine", err=True)
        for note in check_splits(tree, splits) if not elsewhere else ():
            typer.echo(f"note: {note}", err=True)
    typer.echo(f"{config}: no problem found; stages {stages}; view {tree.data.view}, reward parts switched off: {off}")
