"""The counts of labels: what is written in the results and in the plan is what the codes say."""

import json
import re

import numpy as np
import pytest

from ecgbook.labels import CODES, NOT_SINUS, POLICIES, RHYTHMS, SINUS, UNSETTLED, label_mask
from scripts import EXPERIMENTS, imported


@pytest.fixture(scope="module")
def script():
    """The script as a module; its folder is searched only while it is imported."""
    with imported(EXPERIMENTS, "label_counts") as scripts:
        yield scripts.label_counts


@pytest.fixture(scope="module")
def results():
    return json.loads((EXPERIMENTS / "results" / "labels.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def plan():
    return (EXPERIMENTS / "plan.md").read_text(encoding="utf-8")


def codes_below(plan, heading):
    """Return the codes and names of the table below a heading of the plan."""
    section = plan.split(f"### {heading}\n")[1].split("\n##")[0]
    return dict(re.findall(r"^\| (\d{6,}) \| ([^|]+) \|", section, re.MULTILINE))


def test_the_counts_are_those_of_the_records(script, results, ecgdata):
    counted = json.loads(json.dumps(script.count(ecgdata, script.load(ecgdata))))
    assert {key: value for key, value in results.items() if key != "provenance"} == counted


def test_every_recording_is_one_zero_or_unknown(results):
    assert list(results["policies"]) == list(POLICIES)
    for places in results["policies"].values():
        totals = {place: set() for place in places}
        for place, rhythms in places.items():
            assert list(rhythms) == list(RHYTHMS)
            for states in rhythms.values():
                totals[place].add(sum(each["recordings"] for each in states.values()))
                assert all(each["patients"] <= each["recordings"] for each in states.values())
        assert all(len(sizes) == 1 for sizes in totals.values())
        sizes = {place: sizes.pop() for place, sizes in totals.items()}
        assert sizes.pop("all") == sum(sizes.values()) == results["recordings"]


def test_what_stated_takes_from_the_zeros_is_what_nobody_wrote(results):
    def states(policy, rhythm):
        found = results["policies"][policy]["all"][rhythm]
        return np.array([found[state]["recordings"] for state in ("1", "0", "unknown")])

    why = results["not_sr"]["all"]
    none, named, other = (
        why[reason]["recordings"]
        for reason in ("no rhythm code", "sinus under another name", "another rhythm")
    )
    assert none + named + other == why["recordings"]
    assert (states("stated", "SR") - states("extended", "SR")).tolist() == [
        named,
        other - why["recordings"],
        none,
    ]
    for rhythm in ("AF", "AFL", "PAC", "PVC"):
        more = states("stated", rhythm) - states("extended", rhythm)
        assert more[0] == 0 and more[1] == -more[2] <= 0, "no 1 is made or lost"


def test_the_reasons_are_told_apart(script):
    assert script.who_leads({"427084000", "713422000"}) == "sinus under another name"
    assert script.who_leads({"713422000", "59118001"}) == "another rhythm"
    assert script.who_leads({"59118001"}) == script.who_leads(set()) == "no rhythm code"


def test_the_plan_has_a_reason_for_every_code(plan):
    assert codes_below(plan, "Sinus rhythm") == SINUS
    assert codes_below(plan, "Another rhythm") == NOT_SINUS
    left = codes_below(plan, "Not enough to say who leads")
    assert len(left) == 27
    for code in left:
        assert not label_mask("Georgia", "stated", [code])[0]
    hints = plan.split("A code hints at a rhythm")[1].split("**Limits.**")[0]
    for rhythm, codes in UNSETTLED.items():
        assert f"{rhythm} at" in hints and all(code in hints for code in codes)
        assert set(codes).isdisjoint(CODES[rhythm])


def test_the_plan_says_what_was_counted(plan, results):
    why = results["not_sr"]
    table = plan.split("| of the 401 | recordings |")[1].split("\n\n")[0]
    rows = [int(number) for number in re.findall(r"\| (\d+) \|$", table, re.MULTILINE)]
    reasons = ("no rhythm code", "sinus under another name", "another rhythm")
    assert rows == [why["all"][reason]["recordings"] for reason in reasons]
    assert why["all"]["recordings"] == 401 and results["recordings"] == 1318
    assert why["CPSC2018"]["no rhythm code"]["recordings"] == 96
    assert results["afl_marked"] == {"recordings": 18, "patients": 13}
    for policy in ("extended", "stated"):
        places = results["policies"][policy]
        assert places["all"]["AFL"]["1"] == {"recordings": 12, "patients": 7}
        assert places["PTB-XL"]["AFL"]["1"] == {"recordings": 8, "patients": 3}
    beside = results["with_sr_beside_and_without"].values()
    pairs = {
        where: np.sum(
            [n for each in beside for p, n in each.items() if (p == "PTB-XL") == where], 0
        )
        for where in (True, False)
    }
    assert pairs[True].tolist() == [41, 24] and pairs[False].tolist() == [0, 95]
    assert results["without_a_code"]["recordings"] == 38
