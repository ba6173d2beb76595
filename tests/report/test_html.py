from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest
from synthetic_audit import METHODS, build

from expunge.report._words import METRICS, VERDICTS, family, metric_label, number
from expunge.report.gaps import normalised_gaps
from expunge.report.html import render, write_report
from expunge.report.scorecard import Evidence, Finding, Published, Scorecard

VOID = {"meta", "line", "rect", "path", "circle", "polygon", "polyline", "br"}


class Page(HTMLParser):
    """Collects text, attributes and whether tags are closed in order."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.text, self.attributes, self.stack, self.tags = "", [], [], []
        self.feed(source)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.stack.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.stack.pop() == tag

    def handle_data(self, data):
        if "style" not in self.stack:
            self.text += data


@pytest.fixture(scope="module")
def many(scorecard):
    return render(scorecard)


def test_well_formed_and_self_contained(many):
    """Nothing is loaded from anywhere: no scripts, links, images, imports or addresses."""
    page = Page(many)
    assert page.stack == []
    assert not {"script", "link", "img", "iframe", "object"} & set(page.tags)
    assert not {"src", "href", "srcset"} & {name for name, _ in page.attributes}
    assert not re.search(r"url\(|@import|https?://", many)
    ids = [value for name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))


def test_the_verdict_comes_first():
    card = build(["npo"])
    text = Page(render(card)).text
    assert re.search(r"NPO:\s+◑ suppressed", text)
    assert text.index(card.verdicts["npo"].why) < text.index("What this report is")


def test_every_method_verdict_and_finding_is_shown(many, scorecard):
    text = Page(many).text
    for verdict in scorecard.verdicts.values():
        assert verdict.why in text
    assert "Nine methods were audited. None is consistent with removal." in text
    heads = re.findall(r'<th scope="col" class="(?:target|gold|method)">([^<]+)</th>', many)
    assert len(heads) == 4 * (2 + len(METHODS))
    for metric in {f.metric for f in scorecard.findings} - set(METRICS):
        assert metric.startswith("membership.")
        assert metric not in text
    assert "46%39–53%" in text  # NPO after relearning, with its interval


def test_target_gold_and_method_stand_side_by_side():
    findings = [
        Finding("accuracy", "forget", name, value, value - 0.05, value + 0.05, 9, "match-gold")
        for name, value in (("target", 0.9), ("gold", 0.1), ("npo", 0.14), ("rmu", 0.31))
    ]
    html = render(Scorecard(findings=findings))
    row = html[html.index("<tbody>") : html.index("</tbody>")]
    assert re.findall(r"<b>(\d+%)</b>", row) == ["90%", "10%", "14%", "31%"]
    near = [bool(re.search("near", cell)) for cell in row.split("<td>")[1:]]
    assert near == [False, False, True, False]  # only 9-19% overlaps gold's 5-15%


def test_evidence_names_the_control_and_the_limits(many):
    text = Page(many).text
    assert "a copy of the target trained only to refuse. It must be convicted." in text
    assert "latent steering" in text
    assert "It is not a proof of erasure" in text
    assert "removed" not in text


def test_how_it_was_made(many, scorecard):
    text = Page(many).text
    for piece in (
        "0.1.0",
        "8 min 32 s",
        "9f2c" * 16,
        "x86_64, 8 cores",
        "2026-03-01",
        scorecard.run["notes"][0],
    ):
        assert piece in text


def test_everything_is_escaped():
    evil = "<script>alert(1)</script>"
    card = build(["npo"])
    card.evidence[evil] = card.evidence["npo"]
    card.findings.append(Finding(evil, evil, evil, 0.5, 0.4, 0.6, 1, "lower"))
    card.curves["relearning"][evil] = card.curves["relearning"]["npo"]
    card.verdicts = {}
    card.run |= {"notes": [evil], "recipe": evil, "versions": {evil: evil}}
    html = render(card)
    assert evil not in html
    assert Page(html).stack == []


def test_no_gold_is_said():
    text = Page(render(build(["npo"], gold=False))).text
    assert "There is no gold model in this audit" in text
    assert "NPO:" in text
    assert "? inconclusive" in text


def test_an_empty_scorecard_still_renders():
    text = Page(render(Scorecard())).text
    assert "No method has been judged yet." in text
    bare = Scorecard(gap=[0.5] * 6, evidence={"npo": Evidence([], False, float("nan"), False)})
    assert "No test could be judged" in Page(render(bare)).text


def test_undefined_values_are_dashes_not_nan():
    nan = float("nan")
    html = render(Scorecard(findings=[Finding("model_utility", "all", "npo", nan, nan, nan, 0, "higher")]))
    assert "nan" not in Page(html).text
    assert "<b>–</b>" in html


def test_write_is_repeatable_and_leaves_one_file(tmp_path):
    card = build(["rmu"])
    write_report(card, tmp_path / "report.html")
    first = (tmp_path / "report.html").read_bytes()
    card.save(tmp_path / "scorecard.json")
    write_report(Scorecard.load(tmp_path / "scorecard.json"), tmp_path / "report.html")
    assert (tmp_path / "report.html").read_bytes() == first
    assert sorted(p.name for p in tmp_path.iterdir()) == ["report.html", "scorecard.json"]


def test_every_verdict_has_words_and_a_colour(many):
    for word in VERDICTS:
        assert f".badge.{word}" in many


def test_published_numbers_stand_beside_measured_ones():
    card = build(["npo"])
    card.published = [
        Published("probability", "forget", "Llama-2-7B", "gold", 0.123, "paper, table 9"),
        Published("nobody.measured", "forget", "Llama-2-7B", "npo", 0.5, "paper"),
    ]
    text = Page(render(card)).text
    part = text[text.index("Published beside measured") :]
    assert "12%" in part
    assert "paper, table 9" in part
    assert "Llama-2-7B" in part
    here = number(card.value("probability", "forget", "npo"), "share")
    assert here in part[: part.index("nobody, measured")]
    assert "not measured" in part[part.index("nobody, measured") :]


def test_the_share_of_the_way_and_the_missing_evidence_are_shown():
    card = build(["npo"])
    card.gaps = normalised_gaps(card.findings)
    page = render(card)
    gap = next(g for g in card.gaps if (g.metric, g.split, g.subject) == ("accuracy", "forget", "npo"))
    assert f"→ {100 * gap.value:.0f}%" in page
    assert "No gold model" in render(build(["npo"], gold=False))


def test_the_suite_has_a_table_of_its_own():
    card = build(["npo"])
    change = {"value": -0.1, "low": -0.15, "high": -0.05, "verdict": "lost", "p": 0.0001}
    row = {"task": "mmlu", "metric": "acc", "value": 0.5, "n": 100, "higher": True, "about": {}}
    card.curves["suite"] = {
        "tolerance": 0.02,
        "rows": [{**row, "model": "target"}, {**row, "model": "npo", "value": 0.4, "change": change}],
    }
    card.findings.append(Finding("harness.acc", "mmlu", "npo", 0.4, 0.3, 0.5, 100, "higher"))
    text = Page(render(card)).text
    part = text[text.index("Other abilities") :]
    assert "−0.10 (−0.15 to −0.05)" in part
    assert "lost, p < 0.001" in part
    assert "harness" not in text[: text.index("Other abilities")]


@pytest.mark.parametrize(
    ("metric", "name", "section"),
    [
        ("membership.lira.auroc", "Detection by LiRA (AUROC)", "membership"),
        ("membership.usage", "Share of the forgotten set still in use", "membership"),
        ("membership.rmia.tpr_at_0_1_fpr", "Caught at 0.1% false alarms, RMIA", "membership"),
        ("rwku.membership.loss.auroc", "Detection by loss (AUROC)", "membership"),
        ("hubble.gap.nll", "Share of the way to gold, nll", "forgetting"),
        ("extraction_likelihood_10", "Extraction likelihood of 10 words in a row", "forgetting"),
        ("nobody.heard.of_it", "nobody, heard, of it", "forgetting"),
    ],
)
def test_metrics_have_words(metric, name, section):
    assert metric_label(metric).name == name
    assert family(metric, "forget") == section
