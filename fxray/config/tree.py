"""The configuration tree: every field with its default, bound and meaning. YAML holds only differences from here.

Only commands and `fxray.launch` see this tree; algorithms take plain values.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from fxray.config.section import Count, Deadline, Fraction, Positive, Section, Threads, Units, Workers

LoraRank = Literal[1, 8, 16, 32, 64, 128, 256, 320, 512]


class LoraConfig(Section):
    rank: LoraRank = 8
    """Rank of the adapter; vLLM allows only these."""
    alpha: Positive = 32
    """Scale: the update is multiplied by alpha / rank."""
    dropout: Fraction = 0.0
    """Dropout on the adapter's input, in SFT only; what drops out hangs on sft.num_workers and on what makes a pass of
    SFT, which a run with dropout keeps."""


class ModelConfig(Section):
    path: str
    """Folder (or name in a local cache) of the base model; `tiny` is the one that ships with fxray."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Type of the base weights, and in which all multiply. What is trained and what is summed stays in float32."""
    min_pixels: Count = 56 * 56
    """Smaller images are enlarged to this many pixels before the vision tower."""
    max_pixels: Count = 1280 * 28 * 28
    """Larger images are reduced to this many pixels; one token is 28 x 28 of them, 32 x 32 in the Qwen3-VL family."""
    lora: LoraConfig | None = LoraConfig()
    """What is trained: an adapter, or with null all weights, vision tower included (paper: No-LoRA), in float32."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""

    @property
    def lora_rank(self) -> int:
        """Rank of the adapter that is trained; 0 where all weights are."""
        return self.lora.rank if self.lora else 0


class SynthConfig(Section):
    """Synthetic data, written when `data.train` is absent: photographs from packages with planted defects."""

    num_train: Count = 2048
    num_validation: Count = 256
    num_test: Count = 512
    size_px: Annotated[int, Field(ge=56, le=2048)] = 168
    """Side of the square samples, in pixels."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0


class DataConfig(Section):
    train: Path | None = None
    """Parquet file with the training samples."""
    validation: Path | None = None
    """Parquet file with the validation samples."""
    test: Path | None = None
    """Parquet file with the held-out samples that the report is about."""
    synth: SynthConfig | None = None
    """Instead of the three files: synthetic data, made once inside the run directory."""
    on_corrupt_image: Literal["error", "skip"] = "error"
    """What an image that cannot be read does, in training and evaluation: stop the run, or be left out. A run that was
    stopped so may go on with the other."""
    templates: Literal["shared", "by-class", "1+1", "3+2"] = "shared"
    """Chat templates: nine shared by both classes, or the paper's sets (3 real + 6 generated; ablations 1+1, 3+2).
    Detection and evaluation always ask with the first, which the paper's sets show with real images alone."""
    view: Literal["full", "no-bbox", "no-caption", "no-tags", "label-only"] = "full"
    """What answers speak of; the others are the paper's ablations. no-bbox and label-only switch the IoU reward off."""
    region_order: Literal["annotation", "position"] = "annotation"
    """Order of the regions in a training answer: as annotated, or by upper then left edge."""

    @model_validator(mode="after")
    def _files_or_synth(self) -> "DataConfig":
        files = (self.train, self.validation, self.test)
        if self.synth is not None and any(files):
            raise ValueError(
                "give either `synth` or the files `train`, `validation`, `test`, not both; beside files of your own, "
                "--set data.synth=null"
            )
        if self.synth is None and not all(files):
            raise ValueError("give the three files `train`, `validation` and `test`, or a `synth` section")
        return self


class SftConfig(Section):
    epochs: Positive = 3
    """Passes over the training split (paper: 3)."""
    max_steps: Annotated[int, Field(ge=0)] = 0
    """Stop after so many updates; 0 means the epochs decide."""
    learning_rate: Positive = 1e-4
    warmup_frac: Fraction = 0.05
    """Part of the steps in which the rate rises linearly; then it falls along a cosine."""
    batch_size: Count = 32
    """Samples per update, over all workers."""
    max_tokens_per_micro_batch: Count = 16384
    """Tokens of one pass: samples are packed together up to this, without padding."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    max_grad_norm: Positive = 1.0
    num_workers: Workers = 1
    """Ranks of the Ray Train job."""
    zero_stage: Literal[0, 1, 2, 3] = 0
    checkpoint_every_steps: Count = 100
    max_failures: Annotated[int, Field(ge=0)] = 3
    """Worker deaths after which the job gives up."""
    max_answer_tokens: Count = 1024
    """Bound on a training answer; nothing is ever cut inside an image or a region."""
    on_long_answer: Literal["error", "drop-regions"] = "error"
    """What a longer answer does: stop the run, or lose its last regions, whole, until it fits; one always stays."""
    augment_share: Fraction = 0.0
    """Share of the images that are learnt as they may reach a detector: cropped, made smaller, blurred or noisy, saved
    again. Another draw in each epoch; regions move with the pixels."""


class GrpoConfig(Section):
    group_size: Annotated[int, Field(ge=2, le=4096)] = 4
    """G: answers sampled per image."""
    prompts_per_step: Annotated[int, Field(ge=1, le=2**20)] = 32
    """Groups per batch; prompts_per_step x group_size sequences make one update (paper: 128)."""
    num_updates_per_batch: Count = 1
    """mu: passes over each batch of rollouts."""
    learning_rate: Positive = 1e-5
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Steps of linear warm-up at the start of each stage."""
    rate_decay: Literal["none", "linear"] = "none"
    """After warm-up the rate stays as it is, or falls along a line that reaches 0 at the end of the stage."""
    liti_eta: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of a stage's way from its reference, weight by weight, that its end keeps (WARP's linear interpolation
    towards initialization); the next stage starts there. 1 keeps all."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    max_grad_norm: Positive = 1.0
    temperature: Annotated[float, Field(ge=0.01)] = 1.0
    """vLLM draws no colder than 0.01."""
    max_new_tokens: Count = 1024
    clip_low: Fraction = 0.2
    """The probability ratio is clipped to [1 - clip_low, 1 + clip_high]."""
    clip_high: Positive = 0.2
    kl_beta: Annotated[float, Field(ge=0)] = 0.04
    """beta: weight of the k3 estimate of KL(policy || reference)."""
    kl_without_spread: bool = True
    """Groups whose answers all earned the same keep their KL term; false leaves them out of the update, which saves
    their part of its time. At beta 0 they have nothing to give and are always left out."""
    reference: Literal["sft", "previous-stage"] = "sft"
    """The policy that the KL term holds on to; never the bare base model."""
    loss_aggregation: Literal["answer", "token", "constant"] = "answer"
    """Mean over each answer then over answers (GRPO), over all tokens (DAPO), or over max_new_tokens (Dr. GRPO)."""
    advantage_normalisation: Literal["group-std", "none"] = "group-std"
    """(r - mean) / (std + 1e-4) within the group, or r - mean."""
    importance_cap: Annotated[float, Field(ge=0)] = 2.0
    """Ratio learner/sampler probability per token, truncated here; 0 switches the correction off."""
    augment_share: Fraction = 0.0
    """Share of the images that are asked about as they may reach a detector, as sft.augment_share teaches them."""
    max_staleness: Annotated[int, Field(ge=0, le=8)] = 0
    """Policy versions that answers are behind the policy that learns from them: 0 is on-policy; with k, answers of the
    next k steps are drawn while the learner learns."""
    schedule: str = "paper"
    """Reward schedule: a preset in configs/schedules (paper, linear, fixed-alpha, ...) or a YAML file."""
    steps_per_stage: Annotated[int, Field(ge=0)] = 0
    """Updates in each stage that names no `steps` of its own; 0: its epochs over the training split (paper: one)."""


class RolloutConfig(Section):
    num_workers: Workers = 1
    """vLLM engines at the start, and for the whole run unless `max_workers` says otherwise."""
    min_workers: Workers = 1
    """So many must be up before training begins, the others join later; an elastic pool never has fewer."""
    max_workers: Annotated[int, Field(ge=0, le=4096)] = 0
    """The pool is elastic and may grow to so many; 0 keeps `num_workers` for the whole run."""
    scale_every_steps: Count = 10
    """Steps between two changes of an elastic pool, at least; their medians decide."""
    gpus_per_worker: Units = 0
    cpus_per_worker: Units = 1
    threads: Threads = 0
    """CPU threads of one engine; 0 takes the node's, on a machine with its own Ray the engine's share of them."""
    max_num_seqs: Annotated[int, Field(ge=1, le=2**16)] = 64
    """Answers that one engine decodes at once."""
    max_model_len: Count = 4096
    """Prompt, image and answer in tokens."""
    block_size: Annotated[int, Field(ge=16, multiple_of=16)] = 32
    """KV-cache block; small blocks let the G answers of a group share the prompt."""
    kv_cache_gib: Positive = 4.0
    gpu_memory_utilization: Fraction = 0.9
    """Part of a GPU's memory that one engine may take; on a CPU kv_cache_gib alone counts."""
    sleep: bool = False
    """On a GPU that engine and learner share: give the engine's memory to the learner while it learns (weights wait in
    the host's memory, the cache is dropped). The learner keeps weights and optimizer while the engine answers; without
    sleep both hold their part all the time."""
    enforce_eager: bool = False
    """Skip CUDA graphs and compilation; always so on a CPU."""
    sync: Literal["bytes", "file"] = "bytes"
    """How an adapter enters the engine: through memory, or through a file and vLLM's stock loader."""
    probe_every_steps: Annotated[int, Field(ge=0)] = 10
    """Compare learner and sampler log-probabilities on a probe every so many steps (0: only at stage starts)."""
    probe_tolerance_nats: Positive = 0.1
    """Mean |difference| of a token's log-probability that a probe may show; no token may differ by more than ten times
    as much. Float32: 1e-4; bfloat16: 0.1."""
    start_deadline_s: Deadline = 600
    """For an engine to come up once it has a node, and for a node that training cannot go on without."""
    step_deadline_s: Deadline = 1800
    """For an engine to draw the groups that it was asked for, all of a step or its share, or to load a policy."""
    hang_deadline_s: Deadline = 60
    """For an engine that is up to answer a health question; one that does not is killed and replaced."""

    @property
    def most_workers(self) -> int:
        """Engines that there may be at once."""
        return max(self.num_workers, self.max_workers)

    @property
    def needed_workers(self) -> int:
        """Engines that a cluster must have room for."""
        return self.min_workers if self.max_workers else self.num_workers


class RewardFunctionConfig(Section):
    path: Annotated[str, Field(pattern=r"^[\w.]+:\w+$")]
    """`package.module:function`, called as function(answer_text, annotation, frame) -> float (docs/extending.md)."""
    weight: float = 1.0


class RewardConfig(Section):
    num_workers: Workers = 2
    start_deadline_s: Deadline = 120
    """For a worker to come up with the user's functions loaded."""
    group_deadline_s: Deadline = 10
    """A group whose scoring takes longer is masked, counted, and its worker replaced."""
    functions: tuple[RewardFunctionConfig, ...] = ()
    """The user's own rewards, added to the schedule's."""


class LearnerConfig(Section):
    num_ranks: Workers = 1
    gpus_per_rank: Units = 0
    cpus_per_rank: Units = 1
    threads: Threads = 0
    """CPU threads of one rank; 0 takes the node's, on a machine with its own Ray the rank's share of them."""
    zero_stage: Literal[0, 1, 2, 3] = 0
    max_tokens_per_micro_batch: Count = 16384
    """Tokens of one pass: groups are packed together up to this, without padding."""
    max_groups_per_micro_batch: Annotated[int, Field(ge=0, le=2**20)] = 0
    """Groups of one pass, and so its images, which take more memory than as many tokens of text; 0: as many as the
    tokens allow."""
    start_deadline_s: Deadline = 600
    """For all ranks to have a place and to load the model, those of SFT too."""
    step_deadline_s: Deadline = 1800
    """For any other call, and for a step of SFT."""
    hang_deadline_s: Deadline = 60
    """For a rank to say that it lives, in a thread beside its work; else it is ended, and all ranks start again.
    Not while files of a whole model move (`model.lora: null`), in which no thread of a rank gets a turn."""


class FailuresConfig(Section):
    """How often processes of one role may fail before the run stops."""

    max_restarts: Annotated[int, Field(ge=0)] = 5
    """Failures within the window that are answered with a restart; one more ends the run."""
    window_minutes: Positive = 60
    """How long a failure counts."""


class EvaluateConfig(Section):
    num_samples: Annotated[int, Field(ge=0)] = 0
    """Samples of the test split to answer, and of the validation split for calibration; 0 means all."""
    max_new_tokens: Count = 1024
    validate_every_steps: Annotated[int, Field(ge=0)] = 0
    """GRPO steps after which the policy answers images of the validation split, greedily, for a curve beside that of
    the sampled training answers, and steps of SFT after which it takes their loss; 0 for never. What is learnt is the
    same."""
    validation_samples: Count = 128
    """So many of them, always the same; all where there are fewer."""
    num_bootstrap: Annotated[int, Field(ge=1, le=10**6)] = 1000
    """Resamples behind each 95 % interval."""
    max_fpr: Annotated[float, Field(ge=0, le=1)] = 0.05
    """Calibration: largest share of the validation split's real images that may count as generated."""
    max_error: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Calibration: largest share of wrong verdicts on either side of the unsure band, on the validation split."""
    gallery_size: Count = 24
    """Images shown in the report."""


class CheckpointConfig(Section):
    every_steps: Count = 20
    """GRPO steps between two checkpoints inside a stage; stage boundaries are always kept."""
    keep_last: Count = 2
    """Checkpoints inside a stage that are kept."""


class RayConfig(Section):
    address: str | None = None
    """Cluster to join; by default RAY_ADDRESS, else a local Ray for this run alone."""
    num_cpus: Annotated[int, Field(ge=0)] = 0
    """Logical processors of a local Ray; 0 lets it count, but never fewer than the actors need."""
    object_store_mib: Annotated[int, Field(ge=80)] = 512
    """Object store of a local Ray."""
    metrics_port: Annotated[int, Field(ge=0, le=65535)] = 0
    """Port at which a local Ray shows the run's series to Prometheus, on loopback; 0 takes a free one, which `fxray
    status` tells. A cluster's nodes have their own."""
    use_node_types: bool = False
    """Place learner, engines and rewards on nodes that offer the custom resources learner, rollout and reward, as those
    of cluster.yaml and deploy/ do; otherwise on any node."""
    head_deadline_s: Deadline = 40
    """On a cluster, the driver ends with an error when the head has not answered for so long. Ray itself ends every
    process, without a word, after RAY_gcs_rpc_server_reconnect_timeout_s (60): raise both together."""
    autoscales: bool = False
    """The cluster brings nodes when they are asked for: those that are missing at the start are waited for, within the
    start deadlines, and not refused."""
    stall_warning_s: Deadline = 60
    """The driver warns when it has waited so long for a worker, and again whenever the wait has doubled; what usually
    takes longer is a stall at three times its usual length."""


DEFAULT_MODEL = "default"
"""Name of the model of a service that answers where a request names none."""
ModelName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]


class ServeConfig(Section):
    host: str = "127.0.0.1"
    """Address to listen on; beyond loopback API keys are needed."""
    port: Annotated[int, Field(ge=1, le=65535)] = 8000
    allowed_hosts: tuple[str, ...] = ()
    """Host headers that are answered; by default the loopback names on a loopback address, any on another."""
    keys: Path | None = None
    """File of hashed API keys, made by `fxray key`; keys may also come in FXRAY_API_KEYS. Read at the start."""
    allow_anonymous: bool | None = None
    """Whether everybody may ask where there are no keys; by default only `fxray serve` on a loopback address."""
    adapters: dict[ModelName, Path] = Field(default_factory=dict)
    """More adapters of the base model, by the name that requests ask for with `model`; each engine keeps them all."""
    replicas: Workers = 1
    """Engines, each as large as one of the rollouts."""
    max_replicas: Annotated[int, Field(ge=0, le=4096)] = 0
    """As many engines may be started when images queue up; 0 keeps their number at `replicas`."""
    max_images: Annotated[int, Field(ge=1, le=1000)] = 32
    """Images in one request."""
    max_image_mib: Positive = 32
    """Size of one image file."""
    max_request_mib: Positive = 128
    """Size of one request's body, batches apart."""
    max_upload_mib: Annotated[float, Field(ge=0)] = 0
    """Bodies of all requests that are not answered yet, batches apart; 0 for eight times `max_request_mib`."""
    max_image_mpx: Annotated[float, Field(gt=0, le=100)] = 50
    """Millions of pixels of one image, before it is scaled down for the model."""
    max_waiting: Annotated[int, Field(ge=0)] = 256
    """Images that may wait for an engine; more are refused with 503 and Retry-After."""
    request_deadline_s: Deadline = 120
    """For the answer to a request, waiting included; then the engine drops it."""
    upload_deadline_s: Deadline = 60
    """For a request's body to arrive; that of a batch beyond `max_request_mib` has so much longer as it is larger."""
    images_per_min: Annotated[int, Field(ge=0)] = 0
    """Images that one API key may send in a minute, batches apart; 0 for any number."""
    data_dir: Path = Path("fxray-serve")
    """Folder of the batches, of one service at a time."""
    max_batch_images: Annotated[int, Field(ge=1, le=100_000)] = 2000
    max_batch_mib: Positive = 2048
    """Size of one batch's body."""
    max_batches: Count = 100
    """Batches of one API key that are kept at once."""
    keep_batches_h: Positive = 72
    """A finished batch is kept so long, counted from when it was handed in."""
    drain_deadline_s: Deadline = 60
    """For requests that have begun to end, before the service stops or an adapter is swapped."""


class Config(Section):
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Seed of everything: order of prompts, templates, sampling, initial adapter."""
    model: ModelConfig
    data: DataConfig
    sft: SftConfig = SftConfig()
    grpo: GrpoConfig = GrpoConfig()
    rollout: RolloutConfig = RolloutConfig()
    reward: RewardConfig = RewardConfig()
    learner: LearnerConfig = LearnerConfig()
    failures: FailuresConfig = FailuresConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    serve: ServeConfig = ServeConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    ray: RayConfig = RayConfig()
