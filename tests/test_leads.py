"""Leads: the standard order, groups that cover it, and identities from the electrodes up."""

import numpy as np
import pytest

from ecgbook import leads


def electrodes_to_limb(ra, la, ll):
    """The six limb leads from the three limb potentials, straight from their definitions."""
    wilson = (ra + la + ll) / 3
    return np.stack(
        [
            la - ra,
            ll - ra,
            ll - la,
            1.5 * (ra - wilson),
            1.5 * (la - wilson),
            1.5 * (ll - wilson),
        ],
        axis=-1,
    )


def test_groups_are_the_standard_order_cut_in_four():
    assert sum(leads.LEAD_GROUPS.values(), ()) == leads.LEADS
    assert len(set(leads.LEADS)) == 12


def test_derive_equals_the_leads_from_electrode_potentials():
    ra, la, ll = np.random.default_rng(0).normal(size=(3, 500))
    limb = electrodes_to_limb(ra, la, ll)
    np.testing.assert_allclose(leads.derive(limb[:, 0], limb[:, 1]), limb, atol=1e-12)


def test_residual_is_zero_for_sound_leads_and_sees_a_swap():
    rng = np.random.default_rng(0)
    signal = np.concatenate(
        [electrodes_to_limb(*rng.normal(size=(3, 500))), rng.normal(size=(500, 6))], axis=1
    )
    assert np.abs(leads.limb_residual(signal)).max() < 1e-12
    for a, b in ((0, 1), (1, 2), (3, 4), (0, 5)):
        swapped = signal.copy()
        swapped[:, [a, b]] = signal[:, [b, a]]
        assert np.abs(leads.limb_residual(swapped)).max() > 0.5


def test_names_are_read_in_any_case_and_refused_by_name():
    assert leads.index(["avr", "v6", "II"]) == [3, 11, 1]
    assert leads.index("lateral") == [9, 10, 11]
    with pytest.raises(ValueError, match="'V7' found"):
        leads.index(["V7"])
    with pytest.raises(ValueError, match="length 8 found, 12 leads wanted"):
        leads.limb_residual(np.zeros((100, 8)))


def test_columns_have_any_name_and_standard_leads_their_own_spelling():
    assert leads.column_names([" avr", "v6", "MLII "]) == ("aVR", "V6", "MLII")
    assert leads.column_names(leads.LEADS) == leads.LEADS
    for names in ([], ["I", "i"], ["V7", "II", "V7"], ["II", ""], ["II", " "], ["II", 1], "V1"):
        with pytest.raises(ValueError, match="^leads=.* found, one name a column wanted"):
            leads.column_names(names)


def test_groups_keep_the_columns_of_their_leads_in_their_own_order():
    wanted = {group: leads.index(group) for group in leads.LEAD_GROUPS}
    assert leads.group_columns(leads.LEADS) == wanted
    assert leads.group_columns(["V3", "MLII", "ii", "V1", "I"]) == {
        "limb": [4, 2], "anterior": [3, 0],
    }  # fmt: skip
    assert leads.group_columns(["MLII"]) == {}


@pytest.mark.parametrize("record", ["E07516", "JS00001", "HR00001", "A0001"])
def test_real_limb_leads_obey_einthoven_to_their_rounding(ecgdata, record):
    import wfdb

    path = ecgdata / "challenge2021" / record
    if not path.with_suffix(".hea").exists():
        path = sorted((ecgdata / "challenge2021").glob(f"{record[:2]}*.hea"))[0].with_suffix("")
    signal = wfdb.rdrecord(str(path)).p_signal
    assert np.percentile(np.abs(leads.limb_residual(signal)), 99) < 0.005
