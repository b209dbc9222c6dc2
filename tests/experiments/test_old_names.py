"""Names of earlier versions still work: on the command line, and in the files of runs."""

import json
import shutil

import pytest

from clipbert_jax.training.run_directory import list_differences, read_config
from experiments.cli import main
from experiments.configs import EXPERIMENTS
from experiments.old_names import OLD_EXPERIMENTS, replace_old_names

from .conftest import SMALL


def test_every_old_name_has_a_present_one():
    assert set(OLD_EXPERIMENTS.values()) <= set(EXPERIMENTS)
    assert not set(OLD_EXPERIMENTS) & set(EXPERIMENTS)


@pytest.mark.parametrize(
    ("old", "present"),
    [
        (
            "train tgif/action_paper --workdir vqa/v2_paper",
            "train tgif/action_corrected --workdir vqa/v2_paper",
        ),
        ("estimate --device h100 vqa/v2_released", "estimate --device h100 vqa/v2_original"),
        ("train x --data.sampling_rule released", "train x --data.sampling_rule original"),
        ("train x --task.ranking-rule=ours", "train x --task.ranking-rule=corrected"),
        ("train x --task.masking.share=0.1", "train x --task.masking.mask-prob=0.1"),
        ("train x --task.masking.random_share 0.1", "train x --task.masking.random-token-prob 0.1"),
        ("explain-sampling released --rule released", "explain-sampling released --rule original"),
        (
            "convert a.pt --to ours --experiment vqa/v2_released",
            "convert a.pt --to clipbert_jax --experiment vqa/v2_original",
        ),
        ("predict msrvtt/qa_paper video.mp4 --texts ours", "predict msrvtt/qa_paper video.mp4 --texts ours"),
    ],
)
def test_old_words_of_a_command_are_replaced(old, present):
    assert replace_old_names(old.split())[0] == present.split()


def test_the_note_names_both(capsys):
    with pytest.raises(SystemExit):
        main(["train", "msrvtt/retrieval_paper", "--help"])
    said = capsys.readouterr()
    assert "msrvtt/retrieval_paper is now called msrvtt/retrieval_corrected" in said.err
    assert "clipbert train msrvtt/retrieval_corrected" in said.out


def test_a_run_with_old_names_goes_on_and_is_used(run_dir, data_dir, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(run_dir, run)
    new = read_config(run)
    for path in [run / "config.json", *run.glob("checkpoints/*/config/metadata")]:
        config = json.loads(path.read_text())
        config["data"]["sampling_rule"] = "ours"
        config["task"]["ranking_rule"] = "ours"
        config["optimizer"]["schedule_rule"] = "ours"
        path.write_text(json.dumps(config))
    assert list_differences(read_config(run), new) == []
    options = ["--data-dir", str(data_dir), *SMALL, "--train.num-validations", "1"]
    main(["train", "demo/retrieval", "--workdir", str(run), *options])
    main(["evaluate", str(run), "--num-clips", "1"])
    results = json.loads((run / "results.json").read_text())
    for values in (results["run"], results["run"]["config"]["data"]):
        assert values["sampling_rule"] == "corrected"
        values["sampling_rule"] = "ours"
    (run / "results.json").write_text(json.dumps(results))
    main(["evaluate", str(run), "--num-clips", "2"])
    assert json.loads((run / "results.json").read_text())["metrics"].keys() == {"1", "2"}


def test_an_old_experiment_after_an_option_without_a_value_is_replaced(tmp_path, capsys):
    nowhere = str(tmp_path / "nowhere")
    with pytest.raises(SystemExit):
        main(["train", "--profile", "vqa/v2_paper", "--data-dir", nowhere, "--workdir", nowhere])
    assert "vqa/v2_paper is now called vqa/v2_corrected" in capsys.readouterr().err
