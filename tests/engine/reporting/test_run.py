"""Whole reports of small real classifiers: what is on the page, what is refused, and how a browser takes it."""

import html
import json
import re

import pytest

import tle
from tle.errors import AllImagesFailedError, HeadError, OutputError, SourceError, UsageError

ALL = ("summary", "data", "provenance", "metrics")
REST = ("mistakes", "curves", "rates", "map", "throughput")


def text_of(page):
    return page.read_text(encoding="utf-8").replace("&#160;", " ")


def section_of(text, name):
    return re.search(rf'<section id="{name}".*?</section>', text, re.DOTALL).group()


def test_the_page_says_what_evaluate_says_and_escapes_every_name(make_head, tmp_path, plain, hostile):
    manifest, head = make_head()
    (tmp_path / "photos" / "a" / "000.jpg").write_bytes(b"no picture")
    result = tle.report(head, tmp_path / "r.html", images=manifest, execution=plain)
    text = text_of(result.path)
    assert (result.n, result.n_failed, result.split) == (11, 1, "test")
    assert result.sections == (*ALL, "confusion", "reliability", "classes", *REST)
    assert result.bytes == result.path.stat().st_size
    evaluation = tle.evaluate(head, manifest, execution=plain)
    assert f"<strong>{100 * evaluation.metrics['top1']:.1f} %</strong>" in section_of(text, "summary")
    low, high = evaluation.metrics["top1_interval"]
    assert f"{100 * low:.1f} to {100 * high:.1f} %" in section_of(text, "summary")
    assert "a/006.jpg" in section_of(text, "mistakes")
    for name in hostile:
        assert html.escape(name, quote=True) in section_of(text, "classes")
    for raw in ("<script>alert", 'it\'s "so"', "<i>"):
        assert (
            raw not in text.split("<style>")[0] + text.split("</style>")[1].split('<script type="application/json"')[0]
        )
    assert not re.search(r"(?:src|href|url\()\s*=?\s*[\"']?\s*(?:https?:)?//", text)  # nothing is fetched
    for name in ("curves", "rates"):
        assert "backbone is frozen" in section_of(text, name)


def test_of_several_labels_there_is_no_confusion_and_a_row_a_label(make_head, tmp_path, plain):
    manifest, head = make_head("multilabel")
    result = tle.report(head, tmp_path / "r.html", images=manifest, execution=plain)
    text = text_of(result.path)
    assert result.sections == (*ALL, "reliability", "classes", *REST)
    labels = section_of(text, "classes")
    assert labels.count('<th scope="row"') == 4
    assert "Average precision" in labels
    assert "mean average precision" in section_of(text, "summary")


def test_of_values_there_is_a_scatter_plot_and_no_class(make_head, tmp_path, plain):
    manifest, head = make_head("regression")
    result = tle.report(head, tmp_path / "r.html", images=manifest, execution=plain)
    text = text_of(result.path)
    assert result.sections == (*ALL, "values", *REST)
    assert section_of(text, "values").count("data-tip=") == 12
    assert "Largest errors" in section_of(text, "mistakes")
    assert "Mean absolute error" in section_of(text, "metrics")


def test_the_story_of_a_training_is_told(make_head, story, tmp_path, plain):
    manifest, head = make_head()
    tle.write_bundle(tmp_path / "c.tle", story(tle.load_head(head)))
    result = tle.report(tmp_path / "c.tle", tmp_path / "r.html", images=manifest, execution=plain)
    text = text_of(result.path)
    verdict = section_of(text, "summary")
    assert "The frozen head was kept: accuracy 75.0 % after fine-tuning against 70.0 % before" in verdict
    assert "+5.00 points (95 % interval -2.00 to +12.00, p = 0.3)" in verdict
    curves = section_of(text, "curves")
    assert "epoch 1, training" in curves
    assert "1 (best)" in curves
    rates = section_of(text, "rates")
    assert rates.count("<polyline") == 2  # two groups that moved; the frozen one has no line
    assert "frozen" in rates
    assert "training, as it ran" in section_of(text, "throughput")


def test_pictures_of_the_fit_are_confessed(make_head, tmp_path, plain):
    manifest, head = make_head()
    result = tle.report(head, tmp_path / "r.html", images=manifest, split="train", execution=plain)
    assert "24 of these 24 pictures in the fit" in section_of(text_of(result.path), "summary")


def test_outputs_are_checked_before_any_work(make_head, tmp_path):
    manifest, head = make_head()
    (tmp_path / "r.html").write_text("mine")
    for output, kind, message in (
        ("r.txt", UsageError, r"\.html"),
        ("no/r.html", OutputError, "does not exist"),
        ("r.html", OutputError, "--overwrite"),
    ):
        with pytest.raises(kind, match=message):
            tle.report(head, tmp_path / output, images=manifest)
    assert (tmp_path / "r.html").read_text() == "mine"


def test_what_cannot_be_measured_is_refused_in_a_line(make_head, make_images, tmp_path, plain):
    _, head = make_head()
    with pytest.raises(UsageError, match="--images"):
        tle.report(head, tmp_path / "r.html")
    flat = make_images(tmp_path / "flat", ["x"], 2)
    with pytest.raises(SourceError, match="lie in none"):
        tle.report(head, tmp_path / "r.html", images=flat / "x")
    with pytest.raises(HeadError, match="does not know"):
        tle.report(head, tmp_path / "r.html", images=flat)
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "owl").mkdir()
    (tmp_path / "bad" / "owl" / "a.jpg").write_bytes(b"no picture")
    with pytest.raises(AllImagesFailedError, match="all 1 pictures"):
        tle.report(head, tmp_path / "r.html", images=tmp_path / "bad", execution=plain)
    assert not (tmp_path / "r.html").exists()


@pytest.mark.browser
@pytest.mark.parametrize("target", ["class", "multilabel", "regression"])
def test_a_browser_draws_every_section_at_every_width(make_head, story, browse, tmp_path, target, plain):
    manifest, head = make_head(target)
    tle.write_bundle(tmp_path / "c.tle", story(tle.load_head(head)))
    result = tle.report(tmp_path / "c.tle", tmp_path / "r.html", images=manifest, execution=plain)
    for width in (1280, 390):
        seen = browse(result.path, width)
        assert seen.root == {"width": str(width), "overflow": "false", "ready": "true"}
        assert seen.drawn == dict.fromkeys(result.sections, "true")
        assert seen.console == []


@pytest.mark.browser
def test_a_browser_sorts_tells_what_a_mark_is_and_picks_a_class(make_head, browse, tmp_path, plain, hostile):
    manifest, head = make_head()
    page = tle.report(head, tmp_path / "r.html", images=manifest, split="all", execution=plain).path
    script = """
        const table = inner.querySelector("#classes table"), head = table.tHead.rows[0].cells[0];
        const names = () => [...table.tBodies[0].rows].map((row) => row.cells[0].textContent).join("|");
        head.querySelector("button").click();
        found.up = names(); found.sort = head.getAttribute("aria-sort");
        head.querySelector("button").click();
        found.down = names();
        const tip = inner.getElementById("tip"), map = inner.querySelector("svg.map");
        const press = (key) => map.dispatchEvent(new frame.contentWindow.KeyboardEvent("keydown", { key }));
        found.before = tip.style.visibility;
        press("ArrowRight");
        found.shown = tip.style.visibility; found.first = tip.textContent;
        found.lines = String(tip.textContent.split("\\n").length);
        found.image = tip.querySelector("img").src.slice(0, 22);
        press("ArrowRight"); press("ArrowLeft");
        found.again = tip.textContent;
        press("Escape");
        found.after = tip.style.visibility;
        const button = inner.querySelector("[data-picks] button");
        button.click();
        found.dim = map.querySelectorAll(".dim").length;
        button.click();
        found.undim = map.querySelectorAll(".dim").length;
    """
    found = browse(page, 1280, script).found
    assert sorted(html.unescape(found["up"]).split("|")) == sorted(hostile)
    assert found["down"].split("|") == found["up"].split("|")[::-1]
    assert (found["sort"], found["before"], found["shown"], found["after"]) == ("ascending", "", "visible", "hidden")
    assert found["first"] == found["again"]
    assert int(found["lines"]) >= 2  # the class, and which picture
    assert ".jpg" in found["first"]
    assert found["image"] == "data:image/jpeg;base64"
    assert (found["dim"], found["undim"]) == ("25", "0")


@pytest.mark.browser
def test_a_fine_tuned_classifier_reports_on_the_pictures_it_was_made_of(make_images, browse, tmp_path, plain, small):
    from tle.finetuning.options import FinetuneOptions

    photos = make_images(tmp_path / "photos", ["cat", "dog"], 10, 48)
    tle.extract(
        photos, tmp_path / "p.h5", backbone="torchvision/resnet18", weights="none", overrides=small, execution=plain
    )
    tle.fit_head(tmp_path / "p.h5", tmp_path / "p.head", val_fraction=0.4)
    options = FinetuneOptions(epochs=2, batch_size=4, keep="last", workers=1)
    tle.finetune(photos, tmp_path / "p.tle", init=tmp_path / "p.head", options=options)
    result = tle.report(tmp_path / "p.tle", tmp_path / "r.html", execution=plain)
    bundle, text = tle.read_bundle(tmp_path / "p.tle"), text_of(result.path)
    assert result.split == "val"
    assert result.n == bundle.training["verdict"]["n"] == len(bundle.arrays["val_digests"])
    assert "pictures in the fit" not in section_of(text, "summary")
    assert "validation pictures were used to choose" in section_of(text, "summary")
    assert section_of(text, "provenance").count(bundle.base["weights_digest"]) == 1
    assert section_of(text, "rates").count("<polyline") > 3
    thumbs = json.loads(re.search(r'id="thumbs">(.*?)</script>', text).group(1))
    assert len(thumbs) == result.n
    seen = browse(result.path, 390)
    assert seen.drawn == dict.fromkeys(result.sections, "true")
    assert seen.console == []
