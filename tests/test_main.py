"""The command line, as a reader types it."""

import json

import pytest

from ecgbook.__main__ import main

SMALL = ["--records", "60", "--epochs", "2", "--batch-size", "16"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    assert main(["train", "--out", str(folder), *SMALL]) == 0
    return folder


def test_train_writes_a_model_and_its_history(trained, capsys):
    assert sorted(p.name for p in trained.iterdir()) == [
        "last.safetensors",
        "model.safetensors",
        "training.json",
    ]
    card = json.loads((trained / "training.json").read_text())
    assert len(card["epochs"]) == 2 and card["data"] == "synthetic"
    assert card["records"]["train"] > card["records"]["valid"] > 0


def test_evaluate_scores_the_part_that_training_did_not_see(trained, capsys, tmp_path):
    model, out = str(trained / "model.safetensors"), tmp_path / "scores.json"
    assert main(["evaluate", model, "--records", "60", "--json", str(out)]) == 0
    printed = capsys.readouterr().out
    scores = json.loads(out.read_text())
    card = json.loads((trained / "training.json").read_text())
    assert sum(card["records"].values()) + scores["records"] == 60
    assert "{:.3f} [{:.3f}, {:.3f}]".format(*scores["auroc"]["macro"]) in printed


def test_evaluate_refuses_a_part_of_other_data(trained, capsys):
    model = str(trained / "model.safetensors")
    assert main(["evaluate", model, "--records", "61"]) == 1
    assert "synthetic_records=60, 61 found" in capsys.readouterr().err
    assert main(["evaluate", model, "--records", "61", "--part", "all"]) == 0


def test_real_records_are_trained_on_and_evaluated(ecgdata, tmp_path, capsys):
    arguments = ["--data", str(ecgdata)]
    run = ["train", *arguments, "--out", str(tmp_path), "--epochs", "1"]
    assert main(run) == 0
    assert main(["evaluate", str(tmp_path / "model.safetensors"), *arguments]) == 0
    assert "test part of" in capsys.readouterr().out


def test_errors_are_one_line_and_a_status(tmp_path, capsys):
    assert main(["evaluate", str(tmp_path / "none.safetensors")]) == 1
    assert "no such file" in capsys.readouterr().err
    assert main(["train", "--data", str(tmp_path), "--out", str(tmp_path)]) == 1
    assert "no manifest.csv found" in capsys.readouterr().err
    assert main(["train", "--out", str(tmp_path), "--epochs", "0"]) == 1
    assert "epochs=0 found" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["dance"])
