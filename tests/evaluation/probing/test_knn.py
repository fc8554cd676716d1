"""k-NN against scikit-learn and lightly on the same features."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier

from mec.errors import BadInput
from mec.evaluation.features import Features
from mec.evaluation.probing.knn import classes_of, knn, neighbours, weighted_votes


def vote(train, queries, *, k, temperature, at_once=(512, 65_536)):
    found = neighbours(train, queries, k=k, at_once=at_once)
    return weighted_votes(*found, classes_of(train), temperature)


@pytest.fixture(scope="module")
def digits() -> tuple[Features, Features]:
    """Raw digits: 900 to vote, 400 to ask."""
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(y))[:1300]
    x, y = torch.from_numpy(x[order]).float(), torch.from_numpy(y[order])
    return Features(x[:900], y[:900]), Features(x[900:], y[900:])


@pytest.mark.parametrize("k", [1, 5, 20, 200])
@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_votes_are_those_of_scikit_learns_weighted_neighbours(digits, k, temperature):
    train, test = digits
    judge = KNeighborsClassifier(k, metric="cosine", weights=lambda distance: np.exp((1 - distance) / temperature))
    judge.fit(train.x.numpy(), train.y.numpy())
    probability = judge.predict_proba(test.x.numpy())
    ours = vote(train, test.unit(), k=k, temperature=temperature)
    np.testing.assert_allclose(ours / ours.sum(1, keepdim=True), probability, atol=1e-4)
    accuracy = 100 * np.mean(probability.argmax(1) == test.y.numpy())
    assert knn(train, test, k=k, temperature=temperature)[0].value == pytest.approx(accuracy, abs=1e-4)


@pytest.mark.parametrize("k", [5, 20])
def test_predictions_are_lightlys(digits, k):
    from lightly.utils.benchmarking import knn_predict  # loads a trainer, a second of every collection

    train, test = digits
    theirs = knn_predict(test.unit(), train.unit().T, train.y, num_classes=10, knn_k=k, knn_t=0.07)
    ours = torch.sort(vote(train, test.unit(), k=k, temperature=0.07), dim=1, descending=True, stable=True).indices
    assert torch.equal(ours[:, 0], theirs[:, 0])
    top5 = (theirs[:, :5] == test.y[:, None]).any(1).float().mean()
    # Classes without a vote are in any order beyond those that have one.
    assert knn(train, test, k=k)[1].value == pytest.approx(100 * top5.item(), abs=0.51)


def test_top_5_are_five_classes():
    """Ten neighbours of ten classes, each a little farther off than the one before; the label is at each place."""
    angles = torch.arange(10) * 0.1
    train = Features(torch.stack([angles.cos(), angles.sin()], 1), torch.arange(10))
    queries = Features(torch.tensor([[1.0, 0.0]]).repeat(10, 1), torch.arange(10))
    assert knn(train, queries, k=10)[1].value == 50


def test_equal_votes_go_to_the_lowest_class():
    train = Features(torch.eye(4), torch.tensor([3, 2, 2, 1]))
    query = Features(torch.tensor([[1.0, 1, 0, 0], [1, 0, 0, 1], [0, 0, 1, 1]]), torch.tensor([2, 1, 1]))
    top1, _ = knn(train, query, k=2)  # 3 against 2, 3 against 1, 2 against 1: all even
    assert top1.value == 100


def test_a_whole_bank_and_one_query_at_a_time_give_the_same_votes(digits):
    train, test = digits
    whole = vote(train, test.unit()[:50], k=20, temperature=0.07)
    single = vote(train, test.unit()[:50], k=20, temperature=0.07, at_once=(1, 65_536))
    torch.testing.assert_close(single, whole, atol=1e-3, rtol=1e-3)
    many = vote(train, test.unit()[:50], k=10_000, temperature=0.07)  # more than there are: all of them
    torch.testing.assert_close(many, vote(train, test.unit()[:50], k=900, temperature=0.07))


def test_the_length_of_features_does_not_count(digits):
    train, test = digits
    longer = Features(train.x * torch.linspace(0.1, 9, 900)[:, None], train.y)
    assert knn(longer, test)[0].value == knn(train, test)[0].value


def test_a_tiny_temperature_is_the_nearest_neighbour(digits):
    train, test = digits
    assert knn(train, test, k=20, temperature=1e-4)[0].value == knn(train, test, k=1)[0].value


def test_results_say_what_they_are(digits):
    top1, top5, _ = knn(*digits, k=7, temperature=0.1)
    assert (top1.protocol, top1.metric, top1.unit) == ("knn", "top-1", "%")
    assert top1.settings == {"k": 7, "temperature": 0.1, "train": 900}  # a bank of another size is another figure
    assert "train 900" in top1.line()
    assert top5.metric == "top-5"
    assert top1.value <= top5.value <= 100


@pytest.mark.parametrize("wrong", [{"k": 0}, {"k": -3}, {"temperature": 0.0}, {"temperature": -1.0}])
def test_a_k_or_temperature_that_makes_no_sense_is_refused(digits, wrong):
    with pytest.raises(BadInput, match=str(next(iter(wrong.values())))):
        knn(*digits, **wrong)


def test_chunks_of_bank_and_queries_change_nothing(digits):
    train, test = digits
    whole = neighbours(train, test.x, k=50)
    for at_once in ((7, 11), (400, 40), (1, 900)):
        similarity, labels = neighbours(train, test.x, k=50, at_once=at_once)
        torch.testing.assert_close(similarity, whole[0], rtol=0, atol=1e-6)
        scores = [weighted_votes(s, y, 10, 0.07) for s, y in ((similarity, labels), whole)]
        torch.testing.assert_close(scores[0], scores[1], rtol=1e-3, atol=1e-3)


def test_several_numbers_of_neighbours_give_what_each_gives_alone(digits):
    together = knn(*digits, k=[10, 20, 100, 200])
    assert [(r.settings["k"], r.metric) for r in together] == [
        (k, m) for k in (10, 20, 100, 200) for m in ("top-1", "top-5", "balanced accuracy")
    ]
    alone = [r.value for k in (10, 20, 100, 200) for r in knn(*digits, k=k)]
    assert [r.value for r in together] == pytest.approx(alone, abs=0.26)  # equal cosines may be taken in another order


@pytest.mark.parametrize("k", [100, 200])
def test_accuracy_with_many_neighbours_is_scikit_learns(digits, k):
    train, test = digits
    judge = KNeighborsClassifier(k, metric="cosine", weights=lambda distance: np.exp((1 - distance) / 0.07))
    judge.fit(train.x.double().numpy(), train.y.numpy())
    accuracy = 100 * judge.score(test.x.double().numpy(), test.y.numpy())
    assert knn(train, test, k=[10, k])[3].value == pytest.approx(accuracy, abs=0.1)
