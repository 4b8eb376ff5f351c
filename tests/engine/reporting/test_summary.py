from tle.reporting.summary import verdict_sentence

VERDICT = {
    "kept": "finetuned", "won": True, "metric": "accuracy", "head": 0.958, "finetuned": 0.983, "difference": 0.025,
    "interval": [-0.017, 0.067], "p": 0.45, "n": 120, "decided_by": "truth",
    "truth": {"head": 0.909, "finetuned": 0.956, "difference": 0.047, "standard_error": 0.019},
}  # fmt: skip


def test_what_decided_is_said_where_it_is_not_what_is_compared_first():
    assert " ".join(verdict_sentence(VERDICT).split()) == (
        "The fine-tuned backbone was kept: accuracy 98.3 % after fine-tuning against 95.8 % before, on the same 120 "
        "validation pictures; a difference of +2.50 points (95 % interval -1.70 to +6.70, p = 0.45). Right answers alone "
        "could not tell; the probability of the true class could: 0.956 against 0.909, a difference of +0.047 (standard "
        "error 0.019)."
    )


def test_nothing_is_added_where_the_metric_decided_or_nothing_did():
    for decided in ("accuracy", None):
        assert verdict_sentence(VERDICT | {"decided_by": decided}).endswith("p = 0.45).")
    assert verdict_sentence({}) == verdict_sentence(None) == ""
