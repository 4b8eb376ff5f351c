"""What the reader of stored estimators trusts, and what it refuses."""

import io
import pickle
import zipfile
from functools import partial

import numpy as np
import pytest
import skops.io
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.svm import LinearSVC

from tle.errors import HeadError
from tle.heads.safe_skops import dump_estimator, load_estimator


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    return rng.normal(size=(60, 4)), np.arange(60) % 3


@pytest.mark.parametrize(
    "estimator",
    [
        LinearSVC(),
        RandomForestClassifier(5),
        HistGradientBoostingClassifier(max_iter=5),
        MLPClassifier(4, max_iter=5, solver="sgd", early_stopping=True),
    ],
)
@pytest.mark.filterwarnings("ignore:Stochastic Optimizer")
def test_round_trip_without_a_pickle(estimator, data):
    fitted = make_pipeline(StandardScaler(), estimator).fit(*data)
    content = dump_estimator(fitted)
    np.testing.assert_array_equal(load_estimator(content).predict(data[0]), fitted.predict(data[0]))
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for name in archive.namelist():
            assert name.endswith((".npy", ".json")), name
            with pytest.raises((pickle.UnpicklingError, ValueError, EOFError, KeyError, IndexError)):
                pickle.loads(archive.read(name))


@pytest.mark.parametrize(
    "function",
    [
        partial(np.testing.measure, "raise SystemExit('code was run')"),
        np.testing.runstring if hasattr(np.testing, "runstring") else np.loadtxt,
        print,
    ],
)
def test_functions_are_refused_even_of_numpy(function, data):
    pipeline = make_pipeline(FunctionTransformer(function, validate=False), LinearSVC())
    with pytest.raises(HeadError, match="not a class of scikit-learn: refused as unsafe"):
        load_estimator(skops.io.dumps(pipeline))
    with pytest.raises(HeadError, match="refused as unsafe"):
        dump_estimator(pipeline)


def test_what_is_no_pipeline_is_refused():
    with pytest.raises(HeadError, match="expected a stored scikit-learn pipeline, found LinearSVC"):
        load_estimator(skops.io.dumps(LinearSVC()))


def test_damage_and_compression_are_refused(data):
    content = dump_estimator(make_pipeline(StandardScaler(), LinearSVC()).fit(*data))
    for broken in (b"", content[: len(content) // 2], b"nonsense"):
        with pytest.raises(HeadError, match="damaged"):
            load_estimator(broken)
    with pytest.raises(HeadError, match="compressed or overlapping"):
        load_estimator(skops.io.dumps(LinearSVC(), compression=zipfile.ZIP_DEFLATED))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("schema.json", "{}")
    with pytest.raises(HeadError, match="cannot be read"):
        load_estimator(buffer.getvalue())
