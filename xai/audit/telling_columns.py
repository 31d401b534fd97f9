"""Columns that decide alone, and columns that give the label away."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import cross_val_predict
from sklearn.tree import DecisionTreeClassifier

from xai.audit.context import AuditContext
from xai.audit.trial import RANDOM_PLACES, Effect, Replacement, some, trial
from xai.relevance import Array
from xai.report.finding import (
    Answer,
    Counterfactual,
    Finding,
    Measure,
    NotAssessable,
    Passed,
    Suspect,
)

MOST = 0.5
"""One column should not take more than this share of the relevance, the mean over rows."""

FEWEST = 4
"""Of fewer columns, one may well take that much."""

GIVEN_AWAY, BEYOND = 0.95, 0.1
"""A column gives the label away from this balanced accuracy on, this much above any other, ..."""

FEWER_ERRORS = 0.2
"""... or with at most a fifth of the next one's errors, where that is close to one already."""

TIE = 0.01
"""Columns this close tell the label alike."""

LABEL_ROWS, LABEL_COLUMNS = 2000, 200
"""Rows and columns that are looked at for labels given away, drawn at random."""

LEAVES = 8
"""Leaves of the tree that tells labels by one column; twice the number of labels, if more."""

FOLDS = 3


def deciding_column(audit: AuditContext) -> Iterator[Answer]:
    """The column with the largest share of the relevance, shuffled among rows."""
    d = audit.flat.shape[1]
    name = "largest share of relevance one column takes (mean over rows)"
    if d < FEWEST:
        yield NotAssessable(
            "Does one column decide alone?", f"There are {d} columns; of so few, one may."
        )
        return
    # Shuffling a constant column tells nothing; another question is asked of those.
    share = np.where(audit.variance > 0, audit.relevance_share.mean(0), 0.0)
    top = int(share.argmax())
    measure = Measure(name, float(share[top]), "<=", MOST)
    if measure.holds:
        yield Passed(measure, f"It is that of {audit.feature_name(top)}, of {d} columns.")
        return
    rows, effect = _shuffled(audit, top)
    feature = audit.feature_name(top)
    yield Finding(
        "warning" if effect.decides else "info",
        f"One of {d} columns, {feature}, takes {measure.value:.0%} of the relevance"
        + (" and decides nearly alone." if effect.decides else "."),
        measure,
        "Where its values are shuffled among the rows, "
        f"{effect.sentence(audit.decision_name, 'other columns')} A column may dominate by its "
        "unit alone, or because it holds what should not be known: a code, an order, a result.",
        f"Find out what {feature} is. Scale the columns, or leave it out, and fit again.",
        _counterfactual(audit, rows, effect, feature),
        suspect=Suspect("feature", feature, {"features": np.array([top])}),
    )


def given_away(audit: AuditContext) -> Iterator[Answer]:
    """A column that knows the label by itself as no other does, shuffled among rows."""
    assert audit.labels is not None
    question = "Does one column give the label away?"
    rng = audit.rng
    rows = some(np.arange(len(audit)), rng, LABEL_ROWS)
    columns = some(np.arange(audit.flat.shape[1]), rng, LABEL_COLUMNS)
    labels = audit.labels[rows].astype(str)
    kinds, counts = np.unique(labels, return_counts=True)
    enough = np.isin(labels, kinds[counts >= 2 * FOLDS])
    if len(np.unique(labels[enough])) < 2 or len(columns) < FEWEST:
        yield NotAssessable(question, "There are too few labels, or too few columns.")
        return
    told = np.array([_told(audit.flat[rows[enough], i], labels[enough]) for i in columns])
    best = int(told.argmax())
    second = float(np.delete(told, best).max())
    ahead = min(BEYOND, max((1 - FEWER_ERRORS) * (1 - second), TIE))
    bar = max(GIVEN_AWAY, second + ahead)
    measure = Measure(
        "balanced accuracy for the label of the best single column", float(told[best]), "<", bar
    )
    feature = audit.feature_name(int(columns[best]))
    if measure.holds:
        yield Passed(measure, f"It is {feature}; the next reaches {second:.2f}.")
        return
    chosen, effect = _shuffled(audit, int(columns[best]), audit.labels.astype(str))
    title = {
        "critical": "and decides part of the model's answers",
        "warning": "and moves the model's scores",
        "info": "and hardly matters to the model",
    }[effect.severity]
    yield Finding(
        effect.severity,
        f"{feature} gives the label away, {title}.",
        measure,
        f"By itself it tells the labels with a balanced accuracy of {told[best]:.2f}, the next "
        f"column with {second:.2f}. Where it gets the values of rows with other labels, "
        f"{effect.sentence(audit.decision_name, 'other columns')}",
        f"Find out whether {feature} is known when the model is used, and before the label is. If "
        "not, leave it out and fit again.",
        _counterfactual(audit, chosen, effect, feature, " with another label"),
        suspect=Suspect("feature", feature, {"features": columns[[best]]}),
    )


def _told(column: Array, labels: Array) -> float:
    leaves = max(LEAVES, 2 * len(np.unique(labels)))
    tree = DecisionTreeClassifier(max_leaf_nodes=leaves, class_weight="balanced", random_state=0)
    guessed = cross_val_predict(tree, column[:, None], labels, cv=FOLDS)
    return float(balanced_accuracy_score(labels, guessed))


def _shuffled(
    audit: AuditContext, column: int, labels: Array | None = None
) -> tuple[Array, Effect]:
    """The effect of a column's values dealt out anew, beside that of other columns'.

    With ``labels``, from rows of other labels: half the rows would keep the value of a column that
    is the label, if there are two.
    """
    rng = audit.rng
    d = audit.flat.shape[1]
    rows = some(np.arange(len(audit)), rng)
    source = rng.integers(len(audit), size=len(rows))
    if labels is not None:
        source = np.array([rng.choice(np.flatnonzero(labels != labels[row])) for row in rows])
    dealt = audit.flat[source]
    rest = np.setdiff1d(np.arange(d), [column])
    others = rng.choice(rest, min(RANDOM_PLACES, len(rest)), replace=False)
    return rows, trial(
        audit,
        rows,
        Replacement(np.arange(d) == column, dealt),
        (Replacement(np.arange(d) == other, dealt) for other in others),
    )


def _counterfactual(
    audit: AuditContext, rows: Array, effect: Effect, feature: str, which: str = ""
) -> Counterfactual:
    return Counterfactual(
        f"In {len(rows)} rows, {feature} was given the values of other rows{which}, drawn at "
        f"random; so were {len(effect.random_moved)} other columns, one at a time. "
        f"{audit.decision_note}".strip(),
        effect.numbers("column shuffled", audit.decision_name),
        effect.before_after("column shuffled", audit.decision_name),
    )
