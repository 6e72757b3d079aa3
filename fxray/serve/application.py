"""The service as an application of Ray Serve, made from the configuration.

`fxray serve` runs it on a Ray of its own; `serve deploy deploy/serve.yaml` runs it on a cluster.
"""

import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from actors.placement import ROLLOUT, node_share
from fxray.config.limits import check
from fxray.config.load import load_config
from fxray.config.problem import refuse
from fxray.config.tree import DEFAULT_MODEL, Config
from fxray.detect.load import latest_adapter, open_adapter, rank_of
from fxray.errors import ConfigError
from fxray.grammar.prompts import EVALUATION_TEMPLATE, templates_of
from fxray.launch.cluster import ray_address
from fxray.launch.start import engine_settings
from fxray.listening import is_loopback
from fxray.model.folder import resolve_model_path, weights_fingerprint
from fxray.model.prompts import load_chat, render_prompt
from fxray.processors import num_processors
from fxray.remote import is_remote, local_copy
from fxray.serve.keys import read_keys
from fxray.serve.replica import ReplicaSpec
from fxray.serve.settings import ServiceSettings
from fxray.serve.shield import loopback_hosts

NAME = "fxray"
_REQUESTS_AT_ONCE = 8
"""Of the largest size, whose bodies are held at once by default."""
_HEALTH_PERIOD_S = 5.0
_HEALTH_DEADLINE_S = 30.0
_TAKEOVER_MARGIN_S = 10.0


class Arguments(BaseModel):
    """What `args` of a Serve configuration file may say."""

    model_config = ConfigDict(extra="forbid")

    run_dir: str | None = None
    """A run, or its address in object storage; its last finished phase answers."""
    config: str | None = None
    """In place of a run: model and engine."""
    adapter: Path | None = None
    """Folder in PEFT layout, in place of the run's last."""
    overrides: tuple[str, ...] = ()
    """As --set of the command line."""


def application(arguments: Arguments) -> Any:
    """The application, for `import_path: fxray.serve.application:application`.

    Where the cluster's proxies listen is not known here, so keys are needed unless `serve.allow_anonymous` is true.

    Raises:
        ConfigError: The configuration cannot be served, or there are no API keys.
        CheckpointError: There is no adapter.
    """
    config, adapter = resolve(arguments, is_deployed=True)
    return build(config, adapter, is_deployed=True)


def resolve(arguments: Arguments, *, is_deployed: bool = False) -> tuple[Config, Path | None]:
    """Configuration and adapter that the arguments stand for. A run in object storage is copied here.

    Args:
        arguments: What was given.
        is_deployed: Other machines are to read the adapter too.

    Raises:
        ConfigError: Neither or both of run and configuration are given, a field cannot stay as it is, or a cluster is
            to read a run from this machine's copy.
        CheckpointError: The run has no finished phase.
        ResourceError: The object storage cannot be read.
    """
    run_dir, name, adapter = arguments.run_dir, arguments.config, arguments.adapter
    if (run_dir is None) == (name is None):
        raise ConfigError("give either a run directory or a configuration", remedy="see `fxray serve --help`")
    if run_dir is not None:
        folder = local_copy(run_dir)
        adapter = adapter or latest_adapter(folder)
        name = str(folder / "config.yaml")
    assert name is not None
    config = load_config(name, arguments.overrides)
    refuse(check(config), where=name)
    if run_dir is not None and is_remote(run_dir) and (is_deployed or ray_address(config.ray)):
        raise ConfigError(
            "is an address, whose copy the other nodes of the cluster do not see",
            where=run_dir,
            remedy="copy the run to a folder that all nodes see, and name that",
        )
    return config, adapter


def build(
    config: Config, adapter: Path | None, *, is_deployed: bool = False, listens: tuple[str, int] | None = None
) -> Any:
    """The application: a gateway before its replicas.

    Args:
        config: All of it.
        adapter: That of the model which answers where a request names none; None for the bare base model.
        is_deployed: A cluster's proxies are before it, wherever they listen.
        listens: Address and port that the gateway itself listens on; None where Ray Serve's proxies do.

    Raises:
        ConfigError: Others than this machine could ask without API keys, or these cannot be read.
        CheckpointError: There is no adapter in the folder.
        ModelError: There is no base model.
    """
    from ray import serve

    from fxray.serve.gateway import Gateway
    from fxray.serve.replica import DetectorReplica

    settings = service_settings(config, is_deployed=is_deployed)
    spec, adapters = replica_spec(config), adapters_of(config, adapter)
    folders = [Path(folder) for folder in adapters.values() if folder]
    if folders:
        rank = max(rank_of(open_adapter(folder)) for folder in folders)
        spec = replace(spec, engine=replace(spec.engine, lora_rank=rank, max_adapters=len(folders)))
    rollout = config.rollout
    replicas = serve.deployment(DetectorReplica).options(
        name="detector",
        **_scaling(config),
        max_ongoing_requests=rollout.max_num_seqs,
        health_check_period_s=_HEALTH_PERIOD_S,
        health_check_timeout_s=_HEALTH_DEADLINE_S,
        graceful_shutdown_timeout_s=config.serve.drain_deadline_s,
        ray_actor_options={
            "num_cpus": rollout.cpus_per_worker,
            "num_gpus": rollout.gpus_per_worker,
            "resources": node_share(ROLLOUT if config.ray.use_node_types else ""),
        },
    )
    gateway = serve.deployment(serve.ingress()(Gateway)).options(
        name="gateway",
        num_replicas=1,
        max_ongoing_requests=10_000,  # what is too much, the gateway itself says
        graceful_shutdown_timeout_s=config.serve.drain_deadline_s,
        ray_actor_options={"num_cpus": 0},
    )
    takeover_deadline_s = config.serve.drain_deadline_s + _TAKEOVER_MARGIN_S
    return gateway.bind(replicas.bind(spec), settings, adapters, uuid.uuid4().hex, takeover_deadline_s, listens)


def adapters_of(config: Config, adapter: Path | None) -> dict[str, str]:
    """Folder of the adapter that answers for each model, by the model's name; "" for the bare base model.

    Args:
        config: All of it.
        adapter: That of the model which answers where a request names none.
    """
    first = {DEFAULT_MODEL: str(adapter.resolve()) if adapter else ""}
    return first | {name: str(folder.resolve()) for name, folder in config.serve.adapters.items()}


def service_settings(config: Config, *, is_deployed: bool = False) -> ServiceSettings:
    """The plain values of the gateway. The keys are read here, once, where their file and environment are.

    Raises:
        ConfigError: See `build`.
    """
    serve, rollout = config.serve, config.rollout
    keys = read_keys(serve.keys).owners
    is_open = serve.allow_anonymous
    if is_open is None:
        is_open = is_loopback(serve.host) and not is_deployed
    if not (keys or is_open):
        raise _no_keys(serve.host, is_deployed)
    return ServiceSettings(
        models=tuple(adapters_of(config, None)),
        allowed_hosts=serve.allowed_hosts or loopback_hosts(serve.host),
        keys=keys,
        needs_keys=bool(keys) or not is_open,
        max_images=serve.max_images,
        max_image_bytes=int(serve.max_image_mib * 2**20),
        max_request_bytes=int(serve.max_request_mib * 2**20),
        max_upload_bytes=int((serve.max_upload_mib or _REQUESTS_AT_ONCE * serve.max_request_mib) * 2**20),
        max_image_pixels=int(serve.max_image_mpx * 1e6),
        max_in_flight=rollout.max_num_seqs * max(serve.replicas, serve.max_replicas),
        max_waiting=serve.max_waiting,
        request_deadline_s=serve.request_deadline_s,
        upload_deadline_s=serve.upload_deadline_s,
        images_per_min=serve.images_per_min,
        data_dir=serve.data_dir.resolve(),
        max_batch_images=serve.max_batch_images,
        max_batch_bytes=int(serve.max_batch_mib * 2**20),
        max_batches=serve.max_batches,
        keep_batches_s=serve.keep_batches_h * 3600,
    )


def replica_spec(config: Config) -> ReplicaSpec:
    """The plain values of a replica."""
    model_path = resolve_model_path(config.model.path)
    engine = engine_settings(config, model_path)
    if engine.threads == 0:
        # Threads that wait for each other lose more than they gain where gateway and decoding want processors.
        num_replicas = max(config.serve.replicas, config.serve.max_replicas)
        engine = replace(engine, threads=max(1, num_processors() // (2 * num_replicas)))
    return ReplicaSpec(
        engine=engine,
        prompt=render_prompt(load_chat(model_path), templates_of(config.data.view)[EVALUATION_TEMPLATE.index]),
        view=config.data.view,
        max_new_tokens=config.evaluate.max_new_tokens,
        base=Path(config.model.path).name,
        swap_deadline_s=config.serve.drain_deadline_s,
        base_fingerprint=weights_fingerprint(model_path),
    )


def _scaling(config: Config) -> dict[str, Any]:
    serve = config.serve
    if serve.max_replicas <= serve.replicas:
        return {"num_replicas": serve.replicas}
    return {
        "autoscaling_config": {
            "min_replicas": serve.replicas,
            "max_replicas": serve.max_replicas,
            "target_ongoing_requests": max(1, config.rollout.max_num_seqs // 2),
        }
    }


def _no_keys(host: str, is_deployed: bool) -> ConfigError:
    key = "make a key with `fxray key NAME --file keys.txt`"
    if is_deployed:
        return ConfigError(
            "there are no API keys, and whoever reaches the cluster's proxies could ask",
            where="serve.keys",
            remedy=f"{key} and set serve.keys, or serve.allow_anonymous=true where everybody may ask",
        )
    return ConfigError(
        f"{host} can be reached from other machines, and there are no API keys",
        where="serve.host",
        remedy=f"{key} and give --keys keys.txt, or listen on 127.0.0.1",
    )
