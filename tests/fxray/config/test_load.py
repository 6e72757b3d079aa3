import pickle
from pathlib import Path

import pytest

from fxray.config.document import Entry
from fxray.config.limits import check
from fxray.config.load import dump_differences, load_config, shipped_folder
from fxray.config.tree import Config
from fxray.errors import ConfigError

MINIMAL = "model: {path: tiny}\ndata: {synth: {}}\n"


def write(folder: Path, text: str, name: str = "mine.yaml") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def refused(path, overrides=()) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides)
    return str(caught.value)


def test_a_file_holds_only_what_differs_from_the_defaults(tmp_path):
    config = load_config(write(tmp_path, MINIMAL + "grpo: {group_size: 8}\n"))
    assert config.grpo.group_size == 8
    assert config.sft == Config.model_fields["sft"].default


def test_an_unknown_key_names_the_file_the_line_and_the_nearest_key(tmp_path):
    path = write(tmp_path, MINIMAL + "grpo:\n  grup_size: 8\n")
    message = refused(path)
    assert f"{path}: grpo.grup_size is not a field ({path}:4)" in message
    assert "did you mean `grpo.group_size`?" in message


@pytest.mark.parametrize(
    ("folder", "kind", "remedy"),
    [
        ("schedules", "a schedule of rewards", "--set grpo.schedule="),
        ("sweeps", "a sweep", "`fxray sweep`"),
        ("experiments", "an experiment", "`fxray reproduce`"),
    ],
)
def test_a_file_of_another_command_is_told_as_such(folder, kind, remedy):
    files = sorted((shipped_folder() / folder).glob("*.yaml"))
    assert files
    for file in files:
        with pytest.raises(ConfigError, match=f"is {kind}, expected a configuration") as caught:
            load_config(file)
        assert remedy in caught.value.remedy


def test_a_configuration_with_a_wrong_field_is_no_file_of_another_command(tmp_path):
    (tmp_path / "mine.yaml").write_text("extends: tiny\nkind: folds\n")
    with pytest.raises(ConfigError, match="kind is not a field"):
        load_config(tmp_path / "mine.yaml")


def test_a_key_like_no_other_gets_the_fields_of_its_section(tmp_path):
    assert "the fields here are epochs, max_steps, learning_rate" in refused(
        write(tmp_path, MINIMAL + "sft: {lr: 1}\n")
    )


def test_files_beside_what_a_parent_says_of_synthetic_data_get_the_option_that_takes_it_back():
    with pytest.raises(ConfigError, match=r"beside files of your own, --set data\.synth=null"):
        load_config("tiny", ["data.train=a", "data.validation=b", "data.test=c"])


def test_a_key_in_the_wrong_section_is_told_its_own(tmp_path):
    assert "did you mean `grpo.temperature`?" in refused(write(tmp_path, MINIMAL + "rollout: {temperature: 1}\n"))


def test_a_value_out_of_bounds_names_value_bound_and_meaning(tmp_path):
    message = refused(write(tmp_path, MINIMAL), ["grpo.group_size=1"])
    assert "grpo.group_size is 1; must be greater than or equal to 2 (--set grpo.group_size=1)" in message
    assert "answers sampled per image" in message


def test_a_temperature_below_that_of_vllm_is_refused(tmp_path):
    message = refused(write(tmp_path, MINIMAL), ["grpo.temperature=0.005"])
    assert "grpo.temperature is 0.005; must be greater than or equal to 0.01" in message


def test_all_problems_come_at_once(tmp_path):
    message = refused(write(tmp_path, MINIMAL + "sft: {epochs: x}\nseed: -1\nmodell: {}\n"))
    assert "3 problems" in message
    for field in ("sft.epochs is 'x'", "seed is -1", "modell is not a field"):
        assert field in message


@pytest.mark.parametrize("value", [".nan", ".inf", "-.inf", "0", "-1", "much", "[1]", "{}"])
def test_a_rate_is_a_finite_number_above_zero(tmp_path, value):
    assert "sft.learning_rate" in refused(write(tmp_path, MINIMAL + f"sft: {{learning_rate: {value}}}\n"))


def test_a_rate_may_be_written_without_a_point(tmp_path):
    assert load_config(write(tmp_path, MINIMAL), ["sft.learning_rate=1e-4"]).sft.learning_rate == 1e-4


@pytest.mark.parametrize(
    ("override", "value"), [("seed=010", 10), ("seed=008", 8), ("seed=0x10", 16), ("seed=1_000", 1000), ("seed=0", 0)]
)
def test_a_number_is_decimal_whatever_zeros_it_begins_with(override, value):
    assert load_config("tiny", [override]).seed == value


@pytest.mark.parametrize(
    "override", ["sft.max_steps=1:30", "sft.learning_rate=true", "seed=true", "sft.zero_stage=true"]
)
def test_neither_a_time_nor_a_truth_value_is_a_number(override):
    with pytest.raises(ConfigError, match=override.partition("=")[0]):
        load_config("tiny", [override])


def test_later_overrides_win_and_reach_any_depth(tmp_path):
    config = load_config(write(tmp_path, MINIMAL), ["model.lora.rank=16", "model.lora.rank=32", "data.synth.seed=7"])
    assert (config.model.lora.rank, config.data.synth.seed) == (32, 7)


@pytest.mark.parametrize("named", ["tiny", "smoke", "mine.yaml", "child.yaml"])
def test_what_differs_is_one_file_that_reads_back_to_the_same(tmp_path, monkeypatch, named):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, MINIMAL)
    write(tmp_path, "extends: mine.yaml\ngrpo: {group_size: 16}\n", "child.yaml")
    above = {("grpo", "kl_beta"): Entry(0.5, "sweep.yaml:3")}
    overrides = ["grpo.kl_beta=0.1", "data.synth.num_train=512", "sft.batch_size=8", "sft.max_steps=4"]
    text = dump_differences(named, overrides, above)
    assert text.startswith("extends: ")
    read = load_config(write(tmp_path, text, "elsewhere/best.yaml"))
    assert read == load_config(named, overrides, above)
    assert read.grpo.kl_beta == 0.5
    assert len(text.splitlines()) < 40


def test_a_field_of_another_file_is_told_by_its_place(tmp_path):
    with pytest.raises(ConfigError, match=r"sweep\.yaml:3"):
        load_config(write(tmp_path, MINIMAL), [], {("grpo", "kl_beta"): Entry(-1, "sweep.yaml:3")})


def test_an_override_may_hold_a_list(tmp_path):
    functions = load_config(
        write(tmp_path, MINIMAL), ["reward.functions=[{path: 'a.b:c', weight: 2}]"]
    ).reward.functions
    assert [(function.path, function.weight) for function in functions] == [("a.b:c", 2)]


@pytest.mark.parametrize("override", ["grpo.group_size", "=3", "grpo..x=1", ".=1", ""])
def test_an_override_of_another_form_is_refused(tmp_path, override):
    assert "write section.key=value" in refused(write(tmp_path, MINIMAL), [override])


@pytest.mark.parametrize(
    ("field", "most"),
    [
        ("grpo.group_size", 4096),
        ("grpo.prompts_per_step", 2**20),
        ("rollout.num_workers", 4096),
        ("rollout.max_workers", 4096),
        ("learner.num_ranks", 4096),
        ("sft.batch_size", 10**9),
        ("rollout.max_num_seqs", 2**16),
        ("rollout.threads", 4096),
        ("learner.cpus_per_rank", 4096),
        ("learner.max_groups_per_micro_batch", 2**20),
        ("evaluate.num_bootstrap", 10**6),
        ("learner.step_deadline_s", 10**6),
        ("ray.stall_warning_s", 10**6),
    ],
)
def test_a_count_has_an_upper_bound(field, most):
    load_config("tiny", [f"{field}={most}"])
    with pytest.raises(ConfigError, match=f"{field} is {most + 1}; must be less than or equal to {most}"):
        load_config("tiny", [f"{field}={most + 1}"])


@pytest.mark.parametrize("field", ["seed", "data.synth.seed"])
def test_a_seed_is_not_negative(field):
    with pytest.raises(ConfigError, match=f"{field} is -1; must be greater than or equal to 0"):
        load_config("tiny", [f"{field}=-1"])


@pytest.mark.parametrize("override", ["rollout.gpus_per_worker=1e9", "reward.group_deadline_s=1e300"])
def test_what_no_machine_has_and_no_clock_counts_is_refused_at_once(override):
    with pytest.raises(ConfigError, match="must be less than or equal to"):
        load_config("tiny", [override])


def test_an_override_that_is_not_yaml_is_refused(tmp_path):
    assert "--set seed=[1" in refused(write(tmp_path, MINIMAL), ["seed=[1"])


def test_an_override_sets_what_it_names_and_nothing_else(tmp_path):
    said = refused(write(tmp_path, MINIMAL), ["grpo.group_size=4\nseed: 5"])
    assert "holds several values" in said
    assert "give each a --set of its own" in said


def test_a_section_cannot_be_a_number(tmp_path):
    assert "grpo is 3; must be a section" in refused(write(tmp_path, MINIMAL), ["grpo=3"])


def test_a_child_extends_a_file_beside_it_by_sections(tmp_path):
    write(tmp_path, MINIMAL + "grpo: {group_size: 8, temperature: 0.5}\n", "parent.yaml")
    config = load_config(write(tmp_path, "extends: parent.yaml\ngrpo: {group_size: 2}\n"))
    assert (config.grpo.group_size, config.grpo.temperature) == (2, 0.5)


def test_a_child_extends_a_shipped_configuration_by_name(tmp_path):
    config = load_config(write(tmp_path, "extends: tiny\nseed: 5\n"))
    assert config == load_config("tiny", ["seed=5"])


def test_a_child_extends_a_shipped_configuration_that_extends_another(tmp_path):
    data = [f"data.{split}=/data/{split}.parquet" for split in ("train", "validation", "test")]
    config = load_config(write(tmp_path, "extends: qwen2.5-vl-7b\nseed: 5\n"), data)
    assert config == load_config("qwen2.5-vl-7b", [*data, "seed=5"])


@pytest.mark.parametrize("name", ["qwen2.5-vl-8b", "qwen2.5-vl-8b.yaml"])
def test_a_dot_in_a_name_begins_no_ending(name):
    assert "did you mean `qwen2.5-vl-" in refused(name)


def test_what_a_service_is_given_lies_beside_its_file(tmp_path):
    (tmp_path / "models" / "m").mkdir(parents=True)
    service = "serve: {keys: keys.txt, adapters: {other: adapters/a}}\n"
    config = load_config(write(tmp_path, f"extends: tiny\nmodel: {{path: models/m}}\n{service}"))
    assert config.serve.keys == tmp_path / "keys.txt"
    assert config.serve.adapters == {"other": tmp_path / "adapters" / "a"}
    assert config.model.path == str(tmp_path / "models" / "m")
    hub = load_config(write(tmp_path, "extends: tiny\nmodel: {path: Qwen/Qwen2.5-VL-7B-Instruct}\n"))
    assert hub.model.path == "Qwen/Qwen2.5-VL-7B-Instruct"


def test_a_child_takes_back_what_its_parent_set(tmp_path):
    files = "train: a.parquet, validation: b.parquet, test: c.parquet"
    config = load_config(write(tmp_path, f"extends: tiny\ndata: {{synth: null, {files}}}\n"))
    assert config.data.synth is None
    assert config.data.train == tmp_path / "a.parquet"


def test_a_parent_has_no_parent(tmp_path):
    write(tmp_path, "extends: tiny\n", "parent.yaml")
    message = refused(write(tmp_path, "extends: parent.yaml\n"))
    assert "itself extends another, as only what ships may" in message
    assert "mine.yaml:1" in message


@pytest.mark.parametrize("extends", ["[tiny]", "{a: b}", "3"])
def test_what_is_extended_is_a_name(tmp_path, extends):
    assert "extends" in refused(write(tmp_path, f"extends: {extends}\n"))


def test_what_is_extended_must_be_there(tmp_path):
    assert "nowhere: there is no such configuration" in refused(write(tmp_path, "extends: nowhere\n"))


def test_paths_in_a_file_are_relative_to_the_file_and_in_overrides_to_the_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = "model: {path: ./base}\ndata: {train: data/a.parquet, validation: /b.parquet, test: ../c.parquet}\n"
    path = write(tmp_path, text + "grpo: {schedule: my.yaml}\n", "configs/mine.yaml")
    config = load_config(path, ["data.validation=v.parquet"])
    assert config.model.path == str(tmp_path / "configs" / "base")
    assert config.data.train == tmp_path / "configs" / "data" / "a.parquet"
    assert config.data.validation == tmp_path / "v.parquet"
    assert config.data.test == tmp_path / "c.parquet"
    assert config.grpo.schedule == str(tmp_path / "configs" / "my.yaml")


def test_a_model_may_be_a_name_in_a_cache(tmp_path):
    path = write(tmp_path, "model: {path: Qwen/Qwen2.5-VL-3B-Instruct}\ndata: {synth: {}}\n")
    assert load_config(path).model.path == "Qwen/Qwen2.5-VL-3B-Instruct"


def test_a_models_folder_is_found_from_any_other_and_the_shipped_one_wins(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("mine", "tiny"):
        (tmp_path / folder).mkdir()
    assert load_config("tiny", ["model.path=mine"]).model.path == str(tmp_path / "mine")
    assert load_config("tiny", ["model.path=tiny"]).model.path == "tiny"


@pytest.mark.parametrize("name", ["tinny", "configs/tinny.yaml", "/nowhere/tinny.yaml"])
def test_a_name_that_is_nearly_right_is_put_right(name):
    assert "did you mean `tiny`?" in refused(name)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("seed: 1\nseed: 2\n", "mine.yaml:2: is not valid YAML: the key `seed` stands twice"),
        ("grpo: {temperature: 1, temperature: 0.5}\n", "the key `temperature` stands twice"),
        ("reward: {functions: [{path: 'a:b', path: 'c:d'}]}\n", "the key `path` stands twice"),
        ("[1, 2]\n", "holds no mapping"),
        ("just text\n", "holds no mapping"),
        ("seed: [1\n", "is not valid YAML"),
        ("seed: !!python/object:os.system x\n", "is not valid YAML"),
        ("seed: &a {b: *a}\n", "is not valid YAML"),
        ("? [a, b]\n: 1\n", "not a field"),
        ("", "model is missing"),
        ("\x00", "is not valid YAML"),
        ("seed: 2025-99-99\n", "is not valid YAML"),
        ("sft: &a {epochs: 2}\ngrpo: {<<: *a}\n", "mine.yaml:2: `<<` stands for the keys of another section"),
        ("seed: 1\nmodel: {path: 'a\\0/b'}\n".replace("'", '"'), "mine.yaml:2: is not valid YAML: text holds"),
        ('data: {train: "\\ud800.parquet"}\n', "no file name can have"),
        ("seed: 1\nsft: {epochs: 0x" + "f" * 4000 + "}\n", "mine.yaml:2: is not valid YAML: Exceeds the limit"),
        ("a0: &a0 [1, 2]\n" + "".join(f"a{n + 1}: &a{n + 1} [*a{n}, *a{n}]\n" for n in range(60)), "100,000 values"),
    ],
)
def test_a_broken_file_is_refused_with_its_place(tmp_path, text, said):
    message = refused(write(tmp_path, text))
    assert said in message
    assert "mine.yaml" in message


def test_a_file_in_another_encoding_is_refused(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_bytes(b"seed: \xff\xfe")
    assert "UTF-8" in refused(path)


@pytest.mark.parametrize("name", ["~nosuchuser/tiny.yaml", "x" * 300, "x" * 300 + ".yaml"])
def test_what_can_be_no_file_is_no_configuration(name):
    with pytest.raises(ConfigError, match="there is no such configuration"):
        load_config(name)


@pytest.mark.parametrize("path", ["x" * 300, "x/" * 3000, "./" + "x" * 300])
def test_a_name_that_is_too_long_is_no_model(tmp_path, path):
    config = load_config(write(tmp_path, MINIMAL), [f"model.path={path}"])
    assert any("File name too long" in str(problem) for problem in check(config))


def test_the_home_of_nobody_is_no_folder(tmp_path):
    said = refused(write(tmp_path, MINIMAL), ["data.train=~nosuchuser/x.parquet"])
    assert "data.train" in said
    assert "'~nosuchuser/x.parquet' has no home folder" in said


def test_a_folder_is_no_configuration(tmp_path):
    assert "no such configuration" in refused(tmp_path)


def test_data_is_either_files_or_synthetic(tmp_path):
    assert "not both" in refused(write(tmp_path, MINIMAL), ["data.train=a.parquet"])
    assert "three files" in refused(write(tmp_path, "model: {path: tiny}\ndata: {train: a.parquet}\n"))


def test_the_error_crosses_processes(tmp_path):
    with pytest.raises(ConfigError) as caught:
        load_config(write(tmp_path, "seed: x\n"))
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    assert caught.value.exit_code == 2


def test_a_data_file_that_is_a_link_keeps_its_name_and_a_link_in_a_circle_is_no_home(tmp_path, monkeypatch):
    (tmp_path / "link.parquet").symlink_to(tmp_path / "elsewhere" / "content")
    (tmp_path / "folder").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "circle.yaml").symlink_to("circle.yaml")
    monkeypatch.chdir(tmp_path)
    files = ["data.train=link.parquet", "data.validation=v.parquet", "data.test=folder/test.parquet"]
    data = load_config("tiny", ["data.synth=null", *files]).data
    assert (data.train, data.test) == (tmp_path / "link.parquet", tmp_path / "elsewhere" / "test.parquet")
    assert load_config("tiny", ["grpo.schedule=circle.yaml"]).grpo.schedule == f"{tmp_path}/circle.yaml"
