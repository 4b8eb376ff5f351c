from tle.cache import fingerprint


def test_the_fingerprint_knows_the_features_and_not_the_way_to_the_weights(make_content):
    spec = make_content().spec
    moved = {**spec, "backbone": {**spec["backbone"], "weights": "/elsewhere/w.pth"}}
    assert fingerprint(moved) == fingerprint(spec)
    assert fingerprint({**spec, "precision": "bfloat16"}) == fingerprint(spec)
    for section, key, value in (
        ("backbone", "weights_digest", "cd"),
        ("backbone", "layer", "m"),
        ("backbone", "name", "x/z"),
        ("preprocess", "resize", 224),
    ):
        assert fingerprint({**spec, section: {**spec[section], key: value}}) != fingerprint(spec)
    assert fingerprint({**spec, "decoder": "other"}) != fingerprint(spec)


def test_the_same_content_is_the_same_file(tmp_path, write_cache):
    a, b = (write_cache(tmp_path / name, failed=(2,)).read_bytes() for name in ("a.h5", "b.h5"))
    assert a == b
