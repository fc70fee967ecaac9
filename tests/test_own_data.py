"""A reader's own arrays, classes and leads: trained, scored, saved, loaded and explained."""

from types import SimpleNamespace

import numpy as np
import pytest

from ecgbook import data, models, training
from ecgbook.data import ECGDataset, from_arrays, from_records
from ecgbook.explain import MambaLRP
from ecgbook.labels import RHYTHMS
from ecgbook.leads import LEADS
from ecgbook.records import DoubtfulRecordWarning, Record
from ecgbook.signals import Preprocessing
from ecgbook.training import Recipe, fit

CLASSES = tuple(f"finding {letter}" for letter in "ABCDEFGHI")
EIGHT = ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6")
FS_HZ = 100


def nine_findings(n, seed=0, leads=8, seconds=4):
    """Noise, in which finding k is a sine of its own frequency in a lead of its own."""
    rng = np.random.default_rng(seed)
    y = (rng.random((n, 9)) < 0.4).astype(float)
    x = 0.1 * rng.standard_normal((n, seconds * FS_HZ, leads))
    t = np.arange(seconds * FS_HZ) / FS_HZ
    for k in range(9):
        x[:, :, k % leads] += 0.4 * y[:, k : k + 1] * np.sin(2 * np.pi * (3 + 2 * k) * t)
    return x, y


@pytest.fixture(scope="module")
def arrays():
    return nine_findings(180)


def builds():
    small = {"n_classes": 9, "leads": EIGHT, "embed_dim": 16, "stem_width": 16, "stem_padding": 7}
    yield "cnn", lambda: models.CNNBaseline(**small, n_layers=1)
    yield "vision mamba", lambda: models.ECGVisionMamba(**small, n_layers=1)
    sizes = {**small, "d_state": 16, "head_dim": 16, "n_layers": 1}
    yield "enhanced", lambda: models.EnhancedECGMamba2(**sizes)


@pytest.mark.parametrize("build", [b for _, b in builds()], ids=[name for name, _ in builds()])
def test_nine_classes_on_eight_leads_from_arrays_to_an_explanation(tmp_path, arrays, build):
    x, y = arrays
    patients = [f"p{i // 2}" for i in range(len(x))]
    dataset = from_arrays(x, y, FS_HZ, patients, classes=CLASSES, leads=EIGHT)
    train, valid, test = data.split_by_patient(dataset)
    assert not set(train.groups) & set(test.groups) and len(set(dataset.groups)) == 90
    recipe = Recipe(epochs=4, batch_size=16, learning_rate=1e-2)
    bundle = fit(build(), train, valid, recipe, tmp_path, progress=False)
    again = training.load(tmp_path)
    assert again.classes == bundle.classes == CLASSES and again.leads == bundle.leads == EIGHT
    probabilities = again.predict(test)
    assert probabilities.shape == (len(test), 9)
    scores = training.evaluate(test, probabilities, again.thresholds, n_draws=20)
    assert list(scores["auroc"]) == ["macro", *CLASSES] == list(scores["f1"])
    assert scores["auroc"]["macro"][0] > 0.55 and "challenge" not in scores

    # a record with all twelve leads, in another order: the eight are found by their names
    names = ("V6", "aVF", *EIGHT[:-1], "III", "aVR", "aVL")
    signal = np.zeros((400, 12))
    for lead, column in zip(EIGHT, x[0].T, strict=True):
        signal[:, names.index(lead)] = column
    with pytest.warns(DoubtfulRecordWarning, match="mine: .*dead: aVF, III, aVR, aVL"):
        found = again.predict(Record("mine", signal, FS_HZ, leads=names))
    np.testing.assert_allclose(found, again.predict(dataset.subset([0]))[0], atol=1e-5)

    record = Record("mine", x[0], FS_HZ, leads=EIGHT)
    explained = MambaLRP(again).explain(record, "finding C")
    assert explained.target == "finding C" and explained.leads == EIGHT
    assert explained.per_lead().shape == (8,) and explained.error < 1e-5
    assert explained.per_lead().sum() + explained.bias == pytest.approx(explained.logit, abs=1e-4)
    with pytest.raises(ValueError, match="target 'PVC' found, one of finding A, .* wanted"):
        MambaLRP(again).explain(record, "PVC")
    texts = {text.get_text() for text in explained.plot().texts}
    assert {*EIGHT, "biases"} <= texts and not {"aVR", "III"} & texts


def test_what_a_model_cannot_take_or_give_is_said_before_it_is_trained(arrays):
    x, y = arrays
    dataset = from_arrays(x, y, FS_HZ, classes=CLASSES, leads=EIGHT)
    train, valid = dataset.subset(range(150)), dataset.subset(range(150, 180))
    small = {"embed_dim": 8, "stem_width": 8, "stem_padding": 7, "n_layers": 1}
    for wrong, message in (
        ({"n_classes": 9}, "records with the leads I, II, V1, .* found, I, II, III, .* wanted"),
        ({"leads": EIGHT}, r"logits of shape \(1, 5\) .* found, \(1, 9\) wanted.*n_classes=9"),
    ):
        model = models.CNNBaseline(**small, **wrong)
        with pytest.raises(ValueError, match=message):
            fit(model, train, valid, Recipe(epochs=1), progress=False)
    model = models.CNNBaseline(**small, n_classes=9, leads=EIGHT)
    other = ECGDataset(**{**vars(valid), "classes": CLASSES[::-1]})
    with pytest.raises(ValueError, match="training with classes .* prepare both in the same way"):
        fit(model, train, other, Recipe(epochs=1), progress=False)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    with pytest.raises(ValueError, match="a model without a parameter to train found"):
        fit(model, train, valid, Recipe(epochs=1), progress=False)


def test_arrays_become_what_their_records_would():
    x, y = nine_findings(6, leads=12)
    y = y[:, :5].copy()
    y[2, 3] = np.nan
    steps = Preprocessing(fs_hz=50, n_samples=256, band_hz=(0.5, 20))
    lists = [each[: 300 + 10 * i] for i, each in enumerate(x)]
    found = from_arrays(lists, y, FS_HZ, ["a", "a", "", None, "b", 7], preprocessing=steps)
    wanted = from_records(
        [
            SimpleNamespace(name=str(i), signal_mv=s, fs_hz=FS_HZ, labels=r, patient=None)
            for i, (s, r) in enumerate(zip(lists, y, strict=True))
        ],
        steps,
    )
    np.testing.assert_array_equal(found.x, wanted.x)
    np.testing.assert_array_equal(found.n_valid, wanted.n_valid)
    assert not found.y_mask[2, 3] and found.y_mask.sum() == 29 and found.y[2, 3] == 0
    assert found.classes == RHYTHMS and found.leads == LEADS
    assert found.groups[0] == found.groups[1] == "arrays patient a"
    assert len(set(found.groups)) == 5
    assert from_arrays(lists, y, FS_HZ).preprocessing == Preprocessing(FS_HZ, 350)


def test_a_patient_or_a_signal_on_both_sides_is_found_also_in_data_sets_made_apart():
    x, y = nine_findings(40, leads=12)
    y, small = y[:, :5], models.CNNBaseline(embed_dim=8, stem_width=8, stem_padding=7, n_layers=1)

    def check(train, valid):
        fit(small, train, valid, Recipe(epochs=1), progress=False)

    apart = [from_arrays(x[part], y[part], FS_HZ) for part in (slice(30), slice(30, 40))]
    assert not set(apart[0].groups) & set(apart[1].groups), "numbers are no patients"
    check(*apart)
    same = [
        from_arrays(x[part], y[part], FS_HZ, patients)
        for part, patients in ((slice(30), range(30)), (slice(30, 40), range(29, 39)))
    ]
    with pytest.raises(ValueError, match=r"1 patients or recordings on both sides .*patient 29"):
        check(*same)
    copied = from_arrays(x[25:40], y[25:40], FS_HZ, [f"other {i}" for i in range(15)])
    with pytest.raises(ValueError, match="5 patients or recordings on both sides found"):
        check(apart[0], copied)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y": np.ones((6, 4))}, r"y of shape \(6, 4\) found, \(6, 5\) wanted"),
        ({"y": -np.ones((6, 5))}, "record 0: label -1 of SR found, 0 or 1 wanted"),
        ({"y": np.full((6, 5), 0.5)}, "label 0.5 of SR found"),
        ({"patients": ["a"]}, "1 patients found, 6 wanted"),
        ({"names": ["a"]}, "1 names found, 6 wanted"),
        ({"classes": "SR"}, "classes='SR' found, a sequence of names wanted"),
        ({"classes": ("A", "A", "B", "C", "D")}, "each only once"),
        (
            {"leads": LEADS[:8]},
            r"0: signal of shape \(400, 12\) found, \(samples, 8\) in mV wanted",
        ),
        ({"x": np.zeros((6, 12, 400))}, "wanted; transpose it"),
        ({"x": np.zeros((6, 400, 12))}, "0: 400 samples without a signal in any lead found"),
        ({"x": np.zeros((0, 400, 12)), "y": np.zeros((0, 5))}, "no record found"),
        ({"fs_hz": "500"}, "fs_hz='500' found, a positive rate"),
        ({"fs_hz": 1000}, "0: 0.40 s of signal found, 1 s or more wanted"),
        ({"fs_hz": 60}, "high < 30 Hz wanted"),
    ],
)
def test_what_does_not_fit_is_named(change, message):
    x, y = nine_findings(6, leads=12)
    with pytest.raises(ValueError, match=message):
        from_arrays(**({"x": x, "y": y[:, :5], "fs_hz": FS_HZ} | change))


def test_a_unit_that_is_not_mv_is_doubted():
    x, y = nine_findings(6, leads=12)
    with pytest.warns(DoubtfulRecordWarning, match="is the signal in mV"):
        from_arrays(1000 * x, y[:, :5], FS_HZ)


def test_records_of_files_bring_their_codes_and_those_of_somebody_their_labels():
    x, _ = nine_findings(3, leads=12)
    coded = Record("a", x[0], FS_HZ, codes=("164889003", "427172004"))
    found = from_records([coded], Preprocessing(FS_HZ, 400), database="Ningbo")
    assert found.y.tolist() == [[0, 1, 0, 0, 1]] and found.y_mask.tolist() == [[1, 0, 0, 1, 1]]
    own = [Record(str(i), x[i], FS_HZ, labels=[i == 1], patient="p") for i in range(3)]
    made = from_records(own, Preprocessing(FS_HZ, 400), classes=("mine",))
    assert made.y.tolist() == [[0], [1], [0]] and len(set(made.groups)) == 1
    for record, classes, message in (
        (coded, ("mine",), "a: no labels found, mine wanted"),
        (own[0], RHYTHMS, r"0: labels of shape \(1,\) found, \(5,\) wanted"),
    ):
        with pytest.raises(ValueError, match=message):
            from_records([record], Preprocessing(FS_HZ, 400), classes=classes)
    with pytest.raises(ValueError, match="a: no lead V7 found among I, II, .* wanted"):
        from_records([coded], Preprocessing(FS_HZ, 400), leads=("I", "V7"))
    with pytest.raises(TypeError, match="a str found, a Record wanted"):
        from_records(["a.hea"], Preprocessing(FS_HZ, 400))


def test_of_a_table_the_columns_are_taken_by_name():
    pandas = pytest.importorskip("pandas")
    x = nine_findings(1, leads=12)[0][0]
    table = pandas.DataFrame(x[:, ::-1], columns=[lead.lower() for lead in LEADS[::-1]])
    np.testing.assert_array_equal(Record("a", table, FS_HZ).signal_mv, x)
    np.testing.assert_array_equal(Record("a", pandas.DataFrame(x), FS_HZ).signal_mv, x)
    with pytest.raises(
        ValueError, match="a: a table with the columns A, .* found, I, II, .* wanted"
    ):
        Record("a", table.rename(columns={"v6": "A"}), FS_HZ)
    holes = np.ma.masked_array(x, mask=x > 1)
    assert np.isnan(Record("a", holes, FS_HZ).signal_mv).sum() == (x > 1).sum()


@pytest.mark.parametrize(
    "arguments", [(np.zeros((400, 8)), 100), (np.zeros(400), 100), (np.zeros((400, 12)), None)]
)
def test_what_is_no_record_is_refused_when_it_is_made(arguments):
    with pytest.raises(ValueError, match="mine: .* found, .* wanted"):
        Record("mine", *arguments)
