"""Tables of class predictions: known answers by hand, and what is refused."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import kdstats as kd
from kdstats.components.classes import COMPONENTS
from kdstats.errors import (
    ApproximationWarning,
    DataError,
    DuplicateStudentsError,
    EstimationError,
    NegativeComponentWarning,
    ProblemError,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore::kdstats.errors.ApproximationWarning"),
    pytest.mark.filterwarnings("ignore::kdstats.errors.NegativeComponentWarning"),
]

RNG = np.random.default_rng(11)
P = RNG.dirichlet([1.0, 2.0, 0.5], (7, 4))
LABELS = np.array([[RNG.choice(3, 6, p=p) for p in row] for row in P])  # student, point, replicate


def long(p=P, names=("a", "b", "c")):
    student, point = np.indices(p.shape[:2]).reshape(2, -1)
    return pd.DataFrame({"student": student, "point": point}).assign(
        **dict(zip(names, p.reshape(-1, 3).T, strict=True))
    )


def label_table(labels=LABELS):
    student, point, replicate = np.indices(labels.shape).reshape(3, -1)
    columns = {"student": student, "point": point, "replicate": replicate, "label": labels.ravel()}
    return pd.DataFrame(columns)


def decompose(table=None, **options):
    return kd.decompose_classes(long() if table is None else table, **({"replicate": None} | options))


def decompose_labels(table=None, **options):
    return kd.decompose_classes(label_table() if table is None else table, "labels", **options)


def test_known_probabilities_by_definition():
    answer = decompose()
    entropy = -(P * np.log(P)).sum(-1)
    mean = P.mean(0)
    np.testing.assert_allclose(answer.inter_student, P.var(0, ddof=1).sum(-1), rtol=1e-12)
    np.testing.assert_allclose(answer.intra_student, (1 - (P**2).sum(-1)).mean(0), rtol=1e-12)
    np.testing.assert_allclose(answer.expected_entropy, entropy.mean(0), rtol=1e-12)
    left = np.array([-(q * np.log(q)).sum(-1) for q in (np.delete(P, s, 0).mean(0) for s in range(7))])
    np.testing.assert_allclose(answer.total_entropy, 7 * -(mean * np.log(mean)).sum(-1) - 6 * left.mean(0), rtol=1e-12)


def test_parts_add_up_and_plug_in_conserves_the_pooled_gini_index():
    for answer in (decompose(), decompose_labels()):
        for array in (answer.estimate, answer.plug_in, answer.average().estimate):
            for first in (0, 3):
                np.testing.assert_allclose(array[first] + array[first + 1], array[first + 2], rtol=1e-12)
    np.testing.assert_allclose(decompose().plug_in.sel(component="total"), 1 - (P.mean(0) ** 2).sum(-1), rtol=1e-12)
    pooled, inter = decompose().plug_in.sel(component="total"), decompose().inter_student
    np.testing.assert_allclose(decompose().total, pooled + inter / 7, rtol=1e-12)  # the divisor S - 1


def test_labels_by_pairs():
    """Unbiased estimates are shares of pairs of labels that differ."""
    answer = decompose_labels()
    for point in range(4):
        labels = LABELS[:, point]
        differ = labels[:, :, None, None] != labels[None, None]
        same = np.eye(7, dtype=bool)
        within = differ[np.arange(7), :, np.arange(7)].sum() / (7 * 6 * 5)
        between = differ.transpose(0, 2, 1, 3)[~same].mean()
        assert answer.intra_student.values[point] == pytest.approx(within)
        assert answer.total.values[point] == pytest.approx(between)


def test_entropy_of_labels_is_the_second_order_jackknife():
    answer = decompose_labels()

    def plain(labels):
        share = np.bincount(labels, minlength=3) / len(labels)
        return -sum(p * np.log(p) for p in share if p)

    def corrected(x):
        one = np.mean([plain(np.delete(x, i)) for i in range(6)])
        two = np.mean([plain(np.delete(x, [i, j])) for i in range(6) for j in range(i)])
        return (36 * plain(x) - 2 * 25 * one + 16 * two) / 2

    expected = [np.mean([corrected(LABELS[s, x]) for s in range(7)]) for x in range(4)]
    np.testing.assert_allclose(answer.expected_entropy, expected, rtol=1e-10)


def test_replicated_one_hot_vectors_are_labels():
    rows = label_table()
    onehot = pd.concat(
        [rows.drop(columns="label"), pd.DataFrame(np.eye(3)[rows["label"]], columns=list("abc"))], axis=1
    )
    found, expected = kd.decompose_classes(onehot), decompose_labels()
    np.testing.assert_allclose(found.estimate[:3], expected.estimate[:3], rtol=1e-12)
    np.testing.assert_allclose(found.standard_error[:3], expected.standard_error[:3], rtol=1e-12)
    np.testing.assert_allclose(found.total_entropy, expected.total_entropy, rtol=1e-12)


def test_replicated_probabilities_by_definition():
    passes = np.random.default_rng(5).dirichlet([2.0, 1.0, 1.0], (5, 4, 2))  # student, replicate, point
    array = xr.DataArray(passes, dims=("student", "replicate", "point", "output"))
    answer, mean = kd.decompose_classes(array), passes.mean(1)
    within = (passes.var(1, ddof=1).sum(-1) / 4).mean(0)
    np.testing.assert_allclose(answer.inter_student, mean.var(0, ddof=1).sum(-1) - within, rtol=1e-12)
    np.testing.assert_allclose(answer.intra_student, (1 - (mean**2).sum(-1)).mean(0) + within, rtol=1e-12)


def test_jackknife_over_students_deletes_them_at_all_points():
    answer = decompose_labels().average()
    left = []
    for s in range(7):
        frame = label_table()
        left.append(decompose_labels(frame[frame["student"] != s], classes=[0, 1, 2]).average())
    for name in ("inter_student", "intra_student", "total", "expected_entropy"):
        found = np.array([part.estimate.sel(component=name).item() for part in left])
        expected = np.sqrt(6 / 7 * ((found - found.mean()) ** 2).sum())
        assert answer.standard_error.sel(component=name).item() == pytest.approx(expected), name
    whole = np.array([part.plug_in.sel(component="total_entropy").item() for part in left])
    expected = np.sqrt(6 / 7 * ((whole - whole.mean()) ** 2).sum())
    assert answer.standard_error.sel(component="total_entropy").item() == pytest.approx(expected)


def test_copied_points_add_no_precision():
    one = decompose(long(P[:, :1])).average()
    many = decompose(long(np.repeat(P[:, :1], 9, axis=1))).average()
    np.testing.assert_allclose(many.standard_error, one.standard_error, rtol=1e-10)
    np.testing.assert_allclose(many.interval(), one.interval(), rtol=1e-10)


def test_one_label_per_student_identifies_totals():
    answer = decompose_labels(label_table(LABELS[:, :, :1]))
    single = decompose_labels(label_table(LABELS[:, :, :1]).drop(columns="replicate"), replicate=None)
    xr.testing.assert_allclose(answer.estimate, single.estimate)
    expected = [np.mean([a != b for i, a in enumerate(x) for b in x[:i]]) for x in LABELS[:, :, 0].T]
    np.testing.assert_allclose(answer.total, expected)
    assert np.isnan(answer.inter_student).all()
    assert np.isnan(answer.mutual_information).all()
    assert np.isfinite(answer.total_entropy).all()
    assert any("not identified at 4 of 4 points: no student" in note for note in answer.attrs["notes"])


def test_one_probability_replicate_identifies_totals():
    answer = kd.decompose_classes(long().assign(replicate=0))
    assert np.isnan(answer.intra_student).all()
    np.testing.assert_allclose(answer.total, decompose().total)


def test_bits_and_names():
    nats, bits = decompose(), decompose(unit="bits")
    np.testing.assert_allclose(bits.estimate[3:] * np.log(2), nats.estimate[3:])
    np.testing.assert_allclose(bits.interval()[3:] * np.log(2), nats.interval()[3:])
    np.testing.assert_allclose(bits.estimate[:3], nats.estimate[:3])
    frame = long(names=("p_a", "p_b", "p_c")).assign(loss=3.0)
    xr.testing.assert_allclose(decompose(frame, classes="p_*").estimate, nats.estimate)
    xr.testing.assert_allclose(decompose(frame, classes=["p_c", "p_a", "p_b"]).estimate, nats.estimate)
    words = label_table().assign(label=np.array(["cat", "dog", "eel"])[LABELS.ravel()])
    xr.testing.assert_allclose(decompose_labels(words).estimate, decompose_labels().estimate)
    assert decompose_labels(words).attrs["classes"] == ("cat", "dog", "eel")
    array = xr.DataArray(LABELS, dims=("student", "point", "replicate"))
    xr.testing.assert_allclose(decompose_labels(array).estimate, decompose_labels().estimate)
    xr.testing.assert_allclose(
        decompose_labels(label_table().sample(frac=1, random_state=3)).average().estimate,
        decompose_labels().average().estimate,
    )


def test_a_column_of_lists_holds_all_classes():
    frame = long()
    lists = frame[["student", "point"]].assign(p=frame[["a", "b", "c"]].to_numpy().tolist())
    np.testing.assert_allclose(decompose(lists).estimate, decompose().estimate, rtol=1e-12)


def test_result_says_it_in_rows_and_in_print():
    answer = decompose()
    frame = answer.to_dataframe()
    assert list(frame.columns) == ["component", "point", "estimate", "standard_error", "lower", "upper", "plug_in"]
    assert len(frame) == 6 * 4
    assert ((frame["lower"] < frame["estimate"]) & (frame["estimate"] < frame["upper"])).all()
    text = answer.summary()
    assert all(name in text for name in COMPONENTS)
    assert "students: 7, point: 4, classes: 3" in repr(answer)
    assert answer.interval(0.5).sel(ci_bound="upper").values.max() < answer.interval().values.max()


def test_a_class_never_seen_counts_as_possible():
    answer = decompose_labels(classes=[0, 1, 2, 9])
    assert "Classes never seen: 9" in answer.summary()
    xr.testing.assert_allclose(answer.estimate, decompose_labels().estimate)
    assert "Classes never seen: d" in decompose(long().assign(d=0.0)).summary()


def test_rows_left_out():
    frame = label_table().astype({"label": float})
    frame.loc[[0, 1, 30], "label"] = np.nan
    with pytest.raises(DataError, match=r"hold a label in every row .* 3 missing, the first in row 0"):
        decompose_labels(frame)
    found = decompose_labels(frame, nan_policy="omit")
    xr.testing.assert_allclose(found.estimate, decompose_labels(frame.dropna().astype({"label": int})).estimate)
    short = long()
    short.loc[short["student"].eq(3) & short["point"].eq(1), "a"] = np.nan
    answer = decompose(short, nan_policy="omit")
    assert answer.n_students.values.tolist() == [7, 6, 7, 7]
    np.testing.assert_allclose(answer.inter_student[1], np.delete(P[:, 1], 3, 0).var(0, ddof=1).sum(), rtol=1e-12)
    with pytest.raises(DataError, match="NaN or infinite"):
        decompose(short)


def test_a_student_with_one_label_counts_in_totals_alone():
    frame = label_table()
    frame = frame[~(frame["student"].eq(0) & frame["replicate"].gt(0))]
    answer, rest = decompose_labels(frame), decompose_labels(frame[frame["student"] > 0])
    np.testing.assert_allclose(answer.intra_student, rest.intra_student, rtol=1e-12)
    assert not np.allclose(answer.total, rest.total)


def test_warnings_name_components():
    with pytest.warns(ApproximationWarning, match="expected_entropy and mutual_information rest on 2 outputs"):
        few = decompose_labels(label_table(LABELS[:, :, :2]))
    assert {"mutual_information", "expected_entropy"} <= set(few.attrs["unreliable"])
    with pytest.warns(ApproximationWarning, match="7 students: intervals of every component"):
        seven = decompose()
    assert seven.attrs["unreliable"] == COMPONENTS
    assert "UNRELIABLE: inter_student, " in " ".join(seven.summary().split())
    same = np.random.default_rng(0).integers(0, 3, (30, 1, 4))
    with pytest.warns(NegativeComponentWarning, match="inter_student is negative at 1 of 1 points"):
        answer = decompose_labels(label_table(same))
    assert answer.inter_student.item() < 0
    assert answer.attrs["boundary"] is True
    assert "keeps its sign" in answer.summary()


@pytest.mark.filterwarnings("error")
def test_many_students_of_known_probabilities_warn_of_nothing():
    answer = decompose(long(np.random.default_rng(1).dirichlet([3, 1, 0.5], (60, 2))))
    assert answer.attrs["boundary"] is False


def test_students_that_agree_exactly_have_no_interval():
    answer = decompose(long(np.full((5, 1, 3), [1.0, 0.0, 0.0])))
    assert answer.estimate.values.ravel().tolist() == [0.0] * 6
    assert np.isnan(answer.interval()).all()
    assert "agree exactly at 1 of 1" in answer.summary()


def test_two_students_have_no_standard_error():
    answer = decompose(long(P[:2]))
    assert np.isnan(answer.standard_error.sel(component="inter_student")).all()
    assert np.isfinite(answer.estimate).all()
    assert "jackknife needs three" in answer.summary()


def test_copies_are_refused():
    frame = long(P[[0, 1, 2, 2]])
    with pytest.raises(DuplicateStudentsError, match="got 1 of 4 that copy"):
        decompose(frame)
    assert decompose(frame, allow_duplicates=True).attrs["n_students"] == 4
    varied = np.random.default_rng(8).integers(0, 3, (5, 10, 4))
    varied[4] = varied[1]
    with pytest.raises(DuplicateStudentsError, match="students 1, 4"):
        decompose_labels(label_table(varied))
    assert decompose_labels(label_table(varied), allow_duplicates=True).attrs["n_students"] == 5


def test_agreement_that_chance_explains_is_not_refused():
    greedy = np.repeat(np.random.default_rng(8).integers(0, 2, (6, 3, 1)), 4, axis=2)
    greedy[5] = greedy[1]
    assert decompose_labels(label_table(greedy)).attrs["n_students"] == 6
    hard = np.eye(3)[np.random.default_rng(8).integers(0, 3, (30, 2))]
    assert decompose(long(hard)).attrs["n_students"] == 30


BAD = np.array(P)
BAD[2, 1] = [0.5, 0.4, 0.2]
NEGATIVE = np.array(P)
NEGATIVE[2, 1] = [1.1, -0.1, 0.0]


@pytest.mark.parametrize(
    ("table", "options", "error", "words"),
    [
        (long(BAD), {}, DataError, r"sum to 1 within 1e-06 in each row; got a sum of 1.1 in row 9 \(1 of 28 rows\)"),
        (long(NEGATIVE), {}, DataError, r"`table\['b'\]` must hold probabilities of at least 0; got -0.1 in row 9"),
        (long().assign(a="x"), {}, DataError, r"`table\['a'\]` must hold real numbers"),
        (long().assign(a=np.inf), {"nan_policy": "omit"}, DataError, "finite"),
        (long().assign(a=np.nan), {"nan_policy": "omit"}, DataError, "NaN in all rows"),
        (pd.concat([long(), long()]), {}, DataError, "28 repeated rows, first of student 0, point 0"),
        (long().iloc[1:], {}, DataError, "1 of 28 missing, first student 0 at point 0"),
        (long(), {"replicate": "replicate"}, DataError, r"a column 'replicate'; got .*\(replicate=None"),
        (long(), {"student": "model"}, DataError, "must have a column 'model'"),
        (long(), {"student": 3}, DataError, "`student` must be the name of a column"),
        (long(), {"student": "point"}, DataError, "different columns"),
        (long(), {"classes": "q_*"}, DataError, r"`classes` must match one of the columns \(a, b, c\)"),
        (long(), {"classes": ["a", "z"]}, DataError, "name columns that are not keys .* got z"),
        (long(), {"classes": ["a", "a"]}, DataError, "name each column once"),
        (long(), {"classes": ["a"]}, DataError, "at least 2 columns"),
        (long(), {"classes": []}, DataError, "at least 2 columns of probabilities; got none"),
        (long()[["student", "point"]], {}, DataError, "at least 2 columns of probabilities; got none"),
        (long(), {"classes": 4}, DataError, "pattern or a sequence"),
        (long(), {"kind": "logits"}, ProblemError, "`kind` must be one of probabilities, labels"),
        (long(), {"unit": "hartley"}, ProblemError, "`unit` must be one of nats, bits"),
        (long(), {"nan_policy": "fill"}, ProblemError, "`nan_policy` must be one of"),
        (long(), {"sum_tolerance": -1}, ProblemError, "`sum_tolerance` must be at least 0"),
        (long(P[:1]), {}, EstimationError, "at least 2 students at every point.*got 1"),
        (long().iloc[:0], {}, DataError, "not be empty"),
        (P, {}, DataError, "DataFrame or an xarray DataArray"),
    ],
)
def test_bad_probabilities(table, options, error, words):
    with pytest.raises(error, match=words):
        decompose(table, **options)


def mixed():
    frame = label_table().astype({"label": object})
    frame.loc[5, "label"] = "cat"
    return frame


@pytest.mark.parametrize(
    ("table", "options", "error", "words"),
    [
        (mixed(), {}, DataError, "labels of one type; got .* and 'cat'"),
        (label_table().assign(label=0.5), {}, DataError, "text, integers or booleans; got 0.5"),
        (label_table().assign(label=1), {}, DataError, r"at least 2 classes; got 1 in all rows \(classes="),
        (label_table(), {"classes": [0, 1]}, DataError, r"labels among `classes` \(0, 1\); got 2 in row"),
        (label_table(), {"classes": [0, 0, 1]}, DataError, "different labels"),
        (label_table(), {"classes": "0,1,2"}, DataError, "sequence of labels"),
        (label_table(), {"label": "answer"}, DataError, r"a column 'answer' of labels; got label"),
        (label_table(), {"label": "student"}, DataError, "different columns"),
        (label_table().assign(label=np.nan), {"nan_policy": "omit"}, DataError, "hold"),
        (label_table(LABELS[:1]), {}, EstimationError, "at least 2 students"),
        (pd.concat([label_table()] * 2), {}, DataError, "168 repeated rows"),
        (
            xr.DataArray(LABELS[..., None], dims=("student", "point", "replicate", "output")),
            {},
            DataError,
            "to hold labels",
        ),
    ],
)
def test_bad_labels(table, options, error, words):
    with pytest.raises(error, match=words):
        decompose_labels(table, **options)


def test_rounded_probabilities_need_leave():
    frame = long(np.round(P, 2))
    with pytest.raises(DataError, match="sum_tolerance, if they were rounded"):
        decompose(frame)
    answer = decompose(frame, sum_tolerance=0.02)
    assert abs(answer.average().total.item() - decompose().average().total.item()) < 0.02


@pytest.mark.filterwarnings("ignore::kdstats.errors.KdstatsWarning")
def test_intervals_end_at_what_is_possible():
    rows = [(s, p, r, "ab"[r]) for s in range(6) for p in range(3) for r in range(2)]
    table = pd.DataFrame(rows, columns=["student", "point", "replicate", "label"])
    table.loc[0, "label"] = "b"
    mean = kd.decompose_classes(table, "labels").average()
    bounds = mean.interval()
    assert set(bounds.attrs["clipped"]) >= {"inter_student", "intra_student"}
    gini = bounds.values[:3, 0]
    assert gini[0].tolist() == [0.0, 0.5]
    assert gini[1].tolist() == [0.5, 0.5]  # its unbiased estimate and interval are beyond: .80 to 1.09
    assert 0.0 < gini[2, 0] < gini[2, 1] == 0.5  # no student moves the total, which has an interval all the same
    assert (bounds.values >= 0).all()
    assert bounds.values[3:].max() <= np.log(2)
    text = kd.decompose_classes(table, "labels").summary()
    assert "Intervals end at what is possible: inter_student, intra_student" in " ".join(text.split())
    assert "No student moves the total at 3 of 3 points" in " ".join(text.split()) or "2 of 3" in text
    assert "Students agree exactly" not in text or "2 of 3" in text
