"""The accounts of a Relevance, and how it presents itself."""

import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits, load_wine

import xai
from tests.xai.examples import HOSTILE, made


class Tags(HTMLParser):
    """Every tag and attribute of a document, and its text with entities resolved."""

    def __init__(self, document: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: set[str] = set()
        self.text = ""
        self.feed(document)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def wine():
    data = load_wine(as_frame=True).data
    data = (data - data.mean()) / data.std()
    return xai.explain(KMeans(3, n_init=1, random_state=0).fit(data.to_numpy()), data)


def test_accounts_balance_row_by_row():
    relevance = made((4, 2, 3), absorbed=("a", "b"))
    for i in range(4):
        total = sum(relevance.values[i].ravel().tolist())
        taken = relevance.absorbed["a"][i] + relevance.absorbed["b"][i]
        assert relevance.absorbed_total[i] == pytest.approx(taken, rel=1e-15)
        error = relevance.evidence[i] - total - taken
        assert relevance.conservation_error[i] == pytest.approx(error, abs=1e-14)


def test_missing_relevance_shows_as_conservation_error():
    relevance = made((1, 2), absorbed=(), values=np.array([[3.0, -1.0]]), evidence=np.array([5.0]))
    assert relevance.conservation_error.tolist() == [3.0]
    assert relevance.relative_conservation_error.tolist() == [3.0 / 5.0]


def test_all_zero_relevance_has_no_relative_error():
    relevance = made((1, 2), absorbed=(), values=np.zeros((1, 2)), evidence=np.zeros(1))
    assert relevance.relative_conservation_error.tolist() == [0.0]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (2, [2]),
        (-1, [4]),
        (slice(1, 3), [1, 2]),
        ([3, 0], [3, 0]),
        (np.array([True, False, False, True, False]), [0, 3]),
    ],
)
def test_rows_are_taken_together(rows, expected):
    relevance = made(
        (5, 3), target=np.arange(5), original=np.arange(5.0) * 10, row_names=tuple("abcde")
    )
    some = relevance[rows]
    assert some.target.tolist() == expected
    assert some.original.tolist() == [10.0 * i for i in expected]
    assert some.row_names == tuple("abcde"[i] for i in expected)
    for i, j in enumerate(expected):
        assert some.values[i].tolist() == relevance.values[j].tolist()
        assert some.inputs[i].tolist() == relevance.inputs[j].tolist()
        assert some.evidence[i] == relevance.evidence[j]
        assert some.absorbed["bias"][i] == relevance.absorbed["bias"][j]
    assert some.conservation_error == pytest.approx(np.zeros(len(expected)), abs=1e-14)


def test_frame_of_real_data_adds_up(wine):
    frame = wine.to_frame()
    features = frame.loc[:, list(wine.feature_names)].sum(axis=1)
    assert features.to_numpy() == pytest.approx(frame["evidence"].to_numpy(), rel=1e-12)
    assert frame["target"].tolist() == wine.target.tolist()


def test_pictures_are_named_by_position():
    names = made((1, 2, 3)).flat_names
    assert names == ("0,0", "0,1", "0,2", "1,0", "1,1", "1,2")
    assert made((1, 2)).flat_names == ("feature 0", "feature 1")


def test_repr_is_one_line_with_the_accounts(wine):
    text = repr(wine)
    assert "\n" not in text
    for part in ("178 x 13", "KMeans", "squared distance", "absorbed nothing"):
        assert part in text
    assert f"{wine.evidence.max():.4g}" in text
    assert "'bias'" in repr(made((1, 2)))


def test_card_shows_the_accounts_of_the_first_rows(wine):
    page = Tags(wine._repr_html_())
    for part in ("KMeans", "178 rows of 13 features", "and 173 more rows", wine.evidence_name):
        assert part in page.text
    for i in range(5):
        assert f"{wine.evidence[i]:.4g}" in page.text
    assert page.tags.count("tr") == 6


def test_card_names_what_was_absorbed_and_the_models_own_score():
    relevance = made((2, 3), original=np.array([1.25, 2.5]), score_map="score_samples = -evidence")
    text = Tags(relevance._repr_html_()).text
    assert "absorbed: bias" in text
    assert "score_samples" in text
    assert "1.25" in text


def test_card_is_self_contained_and_small(wine):
    digits = load_digits()
    model = KMeans(10, n_init=1, random_state=0).fit(digits.data)
    for relevance in (wine, wine[0], xai.explain(model, digits.images), made((1000, 50))):
        card = relevance._repr_html_()
        assert len(card) < 200_000
        assert set(Tags(card).tags) <= {
            *("div", "strong", "br", "table", "thead", "tbody", "tr", "th", "td", "img", "small"),
        }
        assert card.count("src=") == card.count('src="data:image/png;base64,') == 1
        assert "http" not in card


def test_card_escapes_every_name():
    names = tuple(f"{HOSTILE}{i}" for i in range(3))
    relevance = made(
        (2, 3),
        absorbed=(HOSTILE, '"><img onerror=alert(1)>'),
        feature_names=names,
        row_names=(HOSTILE, "'\"&"),
        model_name=HOSTILE,
        method=HOSTILE,
        evidence_name=HOSTILE,
        score_map=HOSTILE,
        original=np.zeros(2),
    )
    page = Tags(relevance._repr_html_())
    assert "script" not in page.tags
    assert page.tags.count("img") == 1
    assert page.attributes == {"style", "alt", "src"}
    assert page.text.count(HOSTILE) >= 5


def test_card_of_what_is_no_picture_says_so():
    page = Tags(made((2, 5, 6, 7))._repr_html_())
    assert "img" not in page.tags
    assert "No figure: Expected pictures" in page.text


def test_explaining_and_drawing_leave_pyplot_alone():
    code = (
        "import sys, numpy as np, xai\n"
        "relevance = xai.explain(np.eye(2), np.array([[0.2, 0.5]]))\n"
        "assert 'matplotlib' not in sys.modules, 'a bare import draws nothing yet'\n"
        "relevance._repr_html_()\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)
