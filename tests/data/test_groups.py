"""Groups: copies and patients are joined, also through others, and nothing else is."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ecgbook.data import join_records, signal_hash


def slow_components(n, links):
    """Connected components by repeated relabeling."""
    label = list(range(n))
    changed = True
    while changed:
        changed = False
        for a, b in links:
            low = min(label[a], label[b])
            if (label[a], label[b]) != (low, low):
                label[a] = label[b] = low
                changed = True
    return label


def same_partition(a, b):
    return len(set(zip(a, b, strict=True))) == len(set(a)) == len(set(b))


@given(st.data())
def test_joining_is_connected_components(data):
    n = data.draw(st.integers(1, 12))
    names = [f"f/{i}" for i in range(n)]
    patients = st.sampled_from(["", None, "p", "q", "r"])
    patients = data.draw(st.lists(patients, min_size=n, max_size=n))
    hashes = data.draw(st.lists(st.sampled_from("abcdefgh"), min_size=n, max_size=n))
    same = data.draw(st.lists(st.sampled_from(["", "g/x", *names]), min_size=n, max_size=n))
    databases = data.draw(st.lists(st.sampled_from(["one", "two"]), min_size=n, max_size=n))
    copies, groups = join_records(names, patients, hashes, same, databases)
    pairs = [(i, j) for i in range(n) for j in range(i)]
    twins = [(i, j) for i, j in pairs if hashes[i] == hashes[j]]
    twins += [(i, names.index(s)) for i, s in enumerate(same) if s in names]
    assert same_partition(copies, slow_components(n, twins))
    who = list(zip(databases, patients, strict=True))
    persons = [(i, j) for i, j in pairs if patients[i] and who[i] == who[j]]
    assert same_partition(groups, slow_components(n, twins + persons))


def test_hash_is_equal_for_copies_and_for_nothing_else():
    x = np.random.default_rng(0).normal(size=(1000, 12)).round(3)
    assert signal_hash(x) == signal_hash(x.astype(np.float32)) == signal_hash(np.asfortranarray(x))
    moved = x.copy()
    moved[500, 7] += 0.001
    assert signal_hash(moved) != signal_hash(x)
    assert signal_hash(x[::-1]) != signal_hash(x)
    holed = x.copy()
    holed[0, 0] = np.nan
    assert signal_hash(holed) == signal_hash(holed.copy()) != signal_hash(x)
