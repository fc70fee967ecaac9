"""The command line, as a reader types it."""

import json
import subprocess
import sys

import numpy as np
import pytest
import wfdb

import ecgbook
from ecgbook import attacks, models, training
from ecgbook.__main__ import ATTACKS, EPSILON_MV, MODELS, PRESETS, RECIPE, main
from ecgbook.explain import MambaLRP
from ecgbook.leads import LEADS
from ecgbook.records import find_beats, read_record
from ecgbook.synthetic import make_records

SMALL = ["--records", "60", "--epochs", "2", "--batch-size", "16"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    assert main(["train", "--out", str(folder), *SMALL]) == 0
    return folder


def test_train_writes_a_model_and_its_history(trained, capsys):
    assert sorted(p.name for p in trained.iterdir() if p.name[0] != ".") == [
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


def test_every_model_of_the_book_can_be_trained(tmp_path, capsys):
    small = ["--records", "40", "--epochs", "1", "--layers", "1"]
    for name, cls in (("vision-mamba", "ECGVisionMamba"), ("enhanced", "EnhancedECGMamba2")):
        assert main(["train", "--model", name, *small, "--out", str(tmp_path / name)]) == 0
        model = ecgbook.load(tmp_path / name / "model.safetensors").model
        assert type(model).__name__ == cls and model.config["n_layers"] == 1
    with pytest.raises(SystemExit):
        main(["train", "--model", "transformer"])


def test_training_can_attack_and_mask_its_records(tmp_path):
    robust = ["--adversarial", "n-fgsm", "--epsilon-mv", "0.01", "--frequency-mask"]
    assert main(["train", *SMALL, *robust, "--out", str(tmp_path)]) == 0
    recipe = json.loads((tmp_path / "training.json").read_text())["recipe"]
    assert (recipe["adversarial"]["attack"], recipe["adversarial"]["epsilon_mv"]) == (
        "n-fgsm",
        0.01,
    )
    assert [one["transform"] for one in recipe["augment"]] == ["FrequencyMask"]
    for wrong in (
        [*robust[:2], "--epsilon-mv", "0"],
        [*robust[:2], "--epsilon-mv", "25"],
        robust[2:4],
    ):
        assert main(["train", *SMALL, *wrong, "--out", str(tmp_path / "wrong")]) == 1


def write(signal_mv, folder, name="made"):
    wfdb.wrsamp(
        name, 500, ["mV"] * 12, list(LEADS), signal_mv.astype(float),
        fmt=["16"] * 12, adc_gain=[1000.0] * 12, baseline=[0] * 12, write_dir=str(folder),
    )  # fmt: skip
    return folder / f"{name}.hea"


def test_the_words_of_the_command_line_are_those_of_the_package():
    assert set(PRESETS) == set(models.PRESETS) and ATTACKS == attacks.ATTACKS
    assert {name: default for name, (default, _) in RECIPE.items()} == {
        name: getattr(training.Recipe, name) for name in RECIPE
    }
    assert EPSILON_MV == attacks.AdversarialTraining.epsilon_mv
    for name, presets in MODELS.values():
        assert issubclass(getattr(models, name), models.TokenClassifier)
        assert set(getattr(models, presets)) == set(PRESETS)


@pytest.mark.parametrize("words", [[], ["train"], ["predict"], ["explain"]])
def test_help_does_not_wait_for_torch(words):
    code = (
        "import sys, ecgbook.__main__ as m\n"
        "try: m.main(sys.argv[1:] + ['--help'])\n"
        "except SystemExit as end: assert end.code == 0\n"
        "slow = {'torch', 'scipy', 'matplotlib', 'pandas', 'wfdb'} & set(sys.modules)\n"
        "sys.exit(f'{slow} loaded' if slow else 0)"
    )
    subprocess.run([sys.executable, "-c", code, *words], check=True, stdout=subprocess.DEVNULL)


def test_predict_takes_files_folders_and_patterns_and_goes_on_after_a_bad_file(tmp_path, capsys):
    made = make_records(3, seed=4)
    for name, record in zip(("a", "b", "c"), made, strict=True):
        write(record.signal_mv, tmp_path, name)
    assert main(["predict", "tutorial", str(tmp_path)]) == 0
    whole = capsys.readouterr().out.splitlines()[2:]
    assert [line.split()[0] for line in whole] == ["a", "b", "c"]
    write(made[1].signal_mv[:300], tmp_path, "b")
    for words in (
        [str(tmp_path)],
        [str(tmp_path / "*.hea")],
        sorted(map(str, tmp_path.glob("*.hea"))),
    ):
        assert main(["predict", "tutorial", *words]) == 1
        said = capsys.readouterr()
        assert [line for line in said.out.splitlines()[2:] if line[0] != " "] == [
            whole[0],
            whole[2],
        ]
        first, last = said.err.splitlines()
        assert str(tmp_path / "b.hea") in first and "0.60 s of signal found, 1 s or more" in first
        assert "2 of 3 records predicted, 1 failed: " in last and "b.hea" in last
    (tmp_path / "empty").mkdir()
    for words in (str(tmp_path / "empty"), str(tmp_path / "empty" / "*")):
        assert main(["predict", "tutorial", words]) == 1
        assert f"{words}: no header (.hea) found" in capsys.readouterr().err


def test_own_classes_stand_over_what_is_predicted(tmp_path, capsys):
    model = models.CNNBaseline(n_classes=2, **models.PRESETS["tutorial"], n_layers=1).eval()
    names = ("left bundle branch block", "paced")
    bundle = training.Bundle(model, models.PREPROCESSING["tutorial"], [0.5, 0.5], {}, names)
    path = str(training.save(bundle, tmp_path / "m.safetensors"))
    record = str(write(make_records(1, seed=4)[0].signal_mv, tmp_path))
    assert main(["predict", path, record]) == 0
    head, row = capsys.readouterr().out.splitlines()[1:3]
    assert all(name in head for name in names) and len(row.split()) == 3
    assert main(["explain", record, "--model", path, "--target", "paced"]) == 0
    assert capsys.readouterr().out.count("paced: logit") == 1
    assert main(["explain", record, "--model", path, "--target", "PVC"]) == 1
    assert "'PVC' found, one of left bundle branch block, paced" in capsys.readouterr().err
    assert main(["evaluate", path, "--records", "40", "--part", "all"]) == 1
    assert "a model of left bundle branch block, paced found" in capsys.readouterr().err


def test_a_reader_who_has_seen_enough_is_no_error(tmp_path):
    record = str(write(make_records(1, seed=4)[0].signal_mv, tmp_path))
    command = f"{sys.executable} -m ecgbook predict tutorial {' '.join([record] * 3)} | head -1"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True)
    assert done.stdout.count("\n") == 1 and done.stderr == ""


def test_beats_outside_of_the_window_are_counted_not_listed(tmp_path, capsys):
    long = make_records(1, seed=5, seconds=40)[0]
    path = write(long.signal_mv, tmp_path)
    assert main(["explain", str(path), "--target", "SR"]) == 0
    printed = capsys.readouterr().out
    times = [float(line[:5]) for line in printed.splitlines() if line[5:8] == " s "]
    assert 11.8 < min(times) and max(times) < 28.2
    assert "more beats lie outside of what the model sees" in printed
    assert "Note: the model sees 11.8 to 28.2 s of 40.0 s, and nothing else" in printed


@pytest.mark.parametrize("figure", ["page.dance", "none/page.png", "page"])
def test_a_figure_that_cannot_be_is_refused_before_the_work(figure, tmp_path, capsys):
    words = ["explain", str(tmp_path / "none.hea"), "--target", "PVC"]
    assert main([*words, "--figure", str(tmp_path / figure)]) == 1
    assert f"--figure {tmp_path / figure}" in capsys.readouterr().err


def test_predict_prints_what_the_bundle_says_of_a_record(trained, tmp_path, capsys):
    write(make_records(1, seed=4, mix={"AF": 1})[0].signal_mv, tmp_path)
    for model in (str(trained / "model.safetensors"), "tutorial"):
        assert main(["predict", model, str(tmp_path / "made.hea")]) == 0
        row = capsys.readouterr().out.splitlines()[-1]
        bundle = ecgbook.load(model)
        found = bundle.predict(read_record(tmp_path / "made.hea"))
        assert row.split()[0] == "made"
        shown = [float(word.strip("*")) for word in row.split()[1:]]
        assert shown == pytest.approx(found, abs=6e-4)
        assert [word.endswith("*") for word in row.split()[1:]] == list(found >= bundle.thresholds)
    assert main(["predict", "tutorial", str(tmp_path / "none.hea")]) == 1
    assert "none.hea" in capsys.readouterr().err


def test_explain_prints_shares_of_leads_and_beats_that_make_the_logit(trained, tmp_path, capsys):
    made = make_records(1, seed=5, mix={"PVC": 1})[0]
    path, page = write(made.signal_mv, tmp_path), tmp_path / "page.png"
    for model, target in (("tutorial", "PVC"), (str(trained / "model.safetensors"), "AF")):
        words = ["explain", str(path), "--target", target, "--model", model]
        assert main([*words, "--figure", str(page)]) == 0
        printed = capsys.readouterr().out
        bundle, record = ecgbook.load(model), read_record(path)
        wanted, peaks_s = MambaLRP(bundle).explain(record, target), find_beats(made.signal_mv, 500)
        assert wanted.balance() in printed and "for teaching, not for diagnosis" in printed
        share = wanted.input_share
        assert f"Input share {share:.3f}, bias share {1 - share:.3f}." in printed
        rows = [line.split() for line in printed.splitlines()]
        rows = {row[0]: row[1:] for row in rows if row and row[0] in (*LEADS, "biases")}
        parts = [float(rows[name][0]) for name in (*LEADS, "biases")]
        exact = np.array([*wanted.per_lead(), wanted.bias])
        assert parts == pytest.approx(exact, abs=6e-4)
        shares = [float(rows[name][1].strip("%")) for name in (*LEADS, "biases")]
        assert shares == pytest.approx(100 * exact / wanted.logit, abs=0.06)
        beats = [row.split() for row in printed.splitlines() if row[5:8] == " s "]
        assert [float(row[0]) for row in beats] == pytest.approx(peaks_s, abs=6e-3)
        sums = [float(row[2]) for row in beats]
        assert sums == pytest.approx(wanted.per_beat(peaks_s), abs=6e-4)
        assert page.read_bytes()[1:4] == b"PNG"
        page.unlink()


def test_explain_can_explain_a_margin_and_a_record_without_beats(tmp_path, capsys):
    signal_mv = make_records(1, seed=5)[0].signal_mv.copy()
    signal_mv[:, 1] = 0
    words = ["explain", str(write(signal_mv, tmp_path)), "--target", "PVC"]
    assert main([*words, "--against", "SR"]) == 0
    printed = capsys.readouterr().out
    assert "PVC - SR: margin " in printed and "finds no R peaks in lead II" in printed
    assert main([*words, "--against", "PVC"]) == 1
    assert "--against PVC found, a class other than --target wanted" in capsys.readouterr().err
    assert main(["explain", str(tmp_path / "none.hea"), "--target", "PVC"]) == 1
    assert main([*words, "--figure", str(tmp_path / "page.dance")]) == 1
    assert "dance" in capsys.readouterr().err
    assert main(["explain", words[1], "--target", "VT"]) == 1
    assert "target 'VT' found, one of SR, AF" in capsys.readouterr().err


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


def test_evaluate_knows_the_records_by_content_not_by_path(ecgdata, tmp_path, capsys):
    folder = tmp_path / "ecg"
    folder.mkdir()
    lines = (ecgdata / "manifest.csv").read_text().splitlines()
    (folder / "challenge2021").symlink_to(ecgdata / "challenge2021")
    rows = [line for line in lines if ",challenge2021," in line][::8]
    (folder / "manifest.csv").write_text("\n".join([lines[0], *rows]) + "\n")
    out = tmp_path / "run"
    assert main(["train", "--data", str(folder), "--out", str(out), "--epochs", "1"]) == 0
    evaluate = ["evaluate", str(out / "model.safetensors"), "--data"]
    assert main([*evaluate, f"{folder}/../ecg"]) == 0
    (folder / "manifest.csv").write_text("\n".join([lines[0], *rows[1:]]) + "\n")
    capsys.readouterr()
    assert main([*evaluate, str(folder)]) == 1
    assert "was trained with records_sha256=" in capsys.readouterr().err


def test_errors_are_one_line_and_a_status(tmp_path, capsys):
    assert main(["evaluate", str(tmp_path / "none.safetensors")]) == 1
    assert "no such file" in capsys.readouterr().err
    assert main(["train", "--data", str(tmp_path), "--out", str(tmp_path)]) == 1
    assert "no manifest.csv found" in capsys.readouterr().err
    assert main(["train", "--out", str(tmp_path), "--epochs", "0"]) == 1
    assert "epochs=0 found" in capsys.readouterr().err
    (tmp_path / "file").touch()
    assert main(["train", "--out", str(tmp_path / "file"), "--records", "60"]) == 1
    assert "File exists" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["dance"])


def test_control_c_is_one_line_and_its_status(tmp_path, capsys, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(ecgbook.data, "download", interrupted)
    assert main(["download", "--folder", str(tmp_path)]) == 130
    assert capsys.readouterr().err == "ecgbook download: stopped\n"
