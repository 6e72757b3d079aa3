"""`fxray serve` and `fxray key`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from fxray.cli.arguments import AdapterOption, ModelConfigOption, SetOption


def serve(
    run_dir: Annotated[
        str | None,
        typer.Option("--run-dir", "--run", "-d", metavar="DIR", help="A run; its last finished phase answers."),
    ] = None,
    config: ModelConfigOption = None,
    adapter: AdapterOption = None,
    also: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=DIR", help="One more adapter of the same base, asked for by name. May be repeated."),
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on; 127.0.0.1 by default.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 8000 by default.")] = None,
    replicas: Annotated[int | None, typer.Option(help="Engines; 1 by default.")] = None,
    keys: Annotated[Path | None, typer.Option(metavar="FILE", help="API keys, made by `fxray key`.")] = None,
    data_dir: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where batches lie, of one service at a time; fxray-serve by default."),
    ] = None,
    overrides: SetOption = None,
) -> None:
    """Serve a trained detector: a page at /, an interface below /v1, its description at /docs.

    It listens on this machine alone, unless --host says otherwise; then API keys are needed. SIGHUP swaps the adapter
    for the run's last one, SIGTERM ends what has begun and stops. Requests choose one of several adapters with
    ?model=NAME.

    \b
    Examples:
      fxray serve --run-dir runs/demo
      fxray serve --config tiny --adapter runs/demo/sft/adapter --port 8080
      fxray serve --run-dir runs/demo --also beta=runs/demo/grpo/beta/final/adapter
      fxray serve --run-dir runs/7b --host 0.0.0.0 --keys keys.txt --set serve.max_replicas=4
    """
    if (run_dir is None) == (config is None):
        raise typer.BadParameter("give either --run-dir or --config")
    from fxray.events import Event, Note
    from fxray.serve.application import Arguments, resolve
    from fxray.serve.run import serve_until_told

    given: dict[str, object] = {"host": host, "port": port, "replicas": replicas, "keys": keys, "data_dir": data_dir}
    if also:
        given["adapters"] = _named(also)
    chosen = [f"serve.{name}={_as_yaml(value)}" for name, value in given.items() if value is not None]
    arguments = Arguments(run_dir=run_dir, config=config, adapter=adapter, overrides=(*(overrides or ()), *chosen))
    resolved, folder = resolve(arguments)

    def tell(event: Event) -> None:
        if isinstance(event, Note):
            typer.echo(event.text, err=True)

    serve_until_told(resolved, folder, lambda: resolve(arguments)[1], tell)


def _as_yaml(value: object) -> str:
    """What YAML reads as just this value: a path may look like a comment, a mapping or a yes."""
    return json.dumps(str(value) if isinstance(value, Path) else value, ensure_ascii=False)


def _named(options: list[str]) -> dict[str, str]:
    """Folders of adapters by name, from `NAME=DIR` each."""
    from fxray.config.tree import DEFAULT_MODEL

    found: dict[str, str] = {}
    for option in options:
        name, _, folder = option.partition("=")
        if not (name and folder):
            raise typer.BadParameter(f"{option!r}, expected NAME=DIR", param_hint="--also")
        if name == DEFAULT_MODEL:
            raise typer.BadParameter(f"{name!r} is what answers where a request names none", param_hint="--also")
        if name in found:
            raise typer.BadParameter(f"{name!r} is given twice", param_hint="--also")
        found[name] = folder
    return found


def key(
    name: Annotated[str, typer.Argument(help="Whose key it is: letters, digits, `.`, `_`, `-`.")],
    file: Annotated[Path, typer.Option("--file", "-f", help="Where its sum is noted; made if it is not there.")],
) -> None:
    """Make an API key for `fxray serve --keys FILE`. It is shown once; the file holds only its SHA-256.

    \b
    Examples:
      fxray key newsroom --file keys.txt
    """
    from fxray.serve.keys import add_key

    typer.echo(add_key(file, name))
