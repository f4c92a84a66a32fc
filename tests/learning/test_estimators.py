import pytest
from sklearn.ensemble import BaggingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline
from sklearn.svm import SVC

from fedmeta.errors import ConfigError
from fedmeta.learning.estimators import read_estimator


@pytest.mark.parametrize(
    ("text", "kind", "parameters"),
    [
        (
            "sklearn.ensemble.RandomForestClassifier(n_estimators=200)",
            RandomForestClassifier,
            {"n_estimators": 200, "random_state": 7},
        ),
        ("sklearn.svm.SVC(C=-1.5, gamma='auto')", SVC, {"C": -1.5, "gamma": "auto", "random_state": 7}),
        (" sklearn.neighbors.KNeighborsClassifier(3) ", KNeighborsClassifier, {"n_neighbors": 3}),
        ("sklearn.svm.SVC(random_state=2)", SVC, {"random_state": 2}),
        ("sklearn.svm.SVC(class_weight={0: 1.0, 1: 2.0})", SVC, {"class_weight": {0: 1.0, 1: 2.0}}),
        (
            "sklearn.ensemble.BaggingClassifier(sklearn.linear_model.LogisticRegression(C=2))",
            BaggingClassifier,
            {"estimator__C": 2, "estimator__random_state": 7, "random_state": 7},
        ),
        (
            "sklearn.pipeline.Pipeline([('scale', sklearn.preprocessing.StandardScaler()), "
            "('fit', sklearn.linear_model.LogisticRegression())])",
            Pipeline,
            {"fit__random_state": 7, "scale__with_mean": True},
        ),
    ],
)
def test_an_estimator_is_what_its_text_says_with_the_seed_where_none_is_given(
    text: str, kind: type, parameters: dict[str, object]
) -> None:
    found = read_estimator(text, 7)
    assert type(found) is kind
    assert {key: found.get_params()[key] for key in parameters} == parameters


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "is not one call"),
        ("sklearn.svm.SVC(", "is not one call"),
        ("sklearn.svm.SVC", "neither a literal nor a call"),
        ("3", "neither a literal nor a call"),
        ("SVC()", "'SVC' is not an estimator class"),
        ("os.system('true')", "'os.system' is not an estimator class"),
        ("sklearn.os.system('true')", "not an estimator class"),
        ("sklearn.base._os.system('true')", "not an estimator class"),
        ("sklearn.svm._classes.SVC()", "not an estimator class"),
        ("sklearn.datasets.load_files('/tmp')", "not an estimator class"),
        ("sklearn.svm.SVC().fit()", "not an estimator class"),
        ("(lambda: 0)()", "not an estimator class"),
        ("sklearn.svm.SVC(C=__import__('os'))", "not an estimator class"),
        ("sklearn.svm.SVC(C=[x for x in ()])", "neither a literal"),
        ("sklearn.svm.SVC(**{'C': 1})", "neither a literal"),
        ("sklearn.svm.SVC(*[1])", "neither a literal"),
        ("sklearn.svm.SVC(c=1)", "cannot be created .*unexpected keyword argument 'c'"),
        ("sklearn.pipeline.Pipeline([('a', sklearn.svm.SVC())], memory='/tmp/x')", "'memory' cannot"),
        (
            "sklearn.model_selection.GridSearchCV("
            "sklearn.pipeline.Pipeline([('a', sklearn.svm.SVC())]), {'memory': ['/tmp/x']})",
            "'memory' cannot",
        ),
        ("sklearn.svm.SVC(class_weight={[1]: 2})", "is neither a literal nor a call"),
        ("sklearn.svm.SVC(\n'\x00')", "is not one call"),
    ],
)
def test_anything_else_is_refused_in_one_line(text: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why) as refusal:
        read_estimator(text, 0)
    assert "\n" not in str(refusal.value)


def test_the_same_text_gives_the_same_parameters() -> None:
    text = "sklearn.linear_model.LogisticRegression(C=0.5)"
    one, other = read_estimator(text, 1), read_estimator(text, 1)
    assert isinstance(one, LogisticRegression)
    assert one.get_params() == other.get_params()
