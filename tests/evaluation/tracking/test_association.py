"""Kalman filter, reconstruction similarity, assignment: each against a plain statement. Track lives: scripted."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from mec.evaluation.tracking import kalman
from mec.evaluation.tracking.association import Objects, Settings, Tracker, assign, inclusive_iou, reconstruction_cost


def random_boxes(rng: np.random.Generator, n: int) -> np.ndarray:
    corner, size = rng.uniform(0, 80, (n, 2)), rng.uniform(5, 40, (n, 2))
    return np.concatenate([corner, corner + size], axis=1)


# --- Kalman filter -----------------------------------------------------------------------------------------------


def textbook(first: np.ndarray, others: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The filter's equations with F, H, Q, R and an explicit inverse, for one track."""
    transition, observation = np.eye(8), np.zeros((4, 8))
    for i in range(4):
        transition[i, i + 4] = observation[i, i] = 1

    def squares(*deviations: float) -> np.ndarray:
        return np.diag(np.array(deviations) ** 2)

    h = first[3]
    x = np.array([*first, 0, 0, 0, 0])
    p = squares(h / 10, h / 10, 1e-2, h / 10, h / 16, h / 16, 1e-5, h / 16)
    for z in others:
        h = x[3]
        q = squares(h / 20, h / 20, 1e-2, h / 20, h / 160, h / 160, 1e-5, h / 160)
        x, p = transition @ x, transition @ p @ transition.T + q
        h = x[3]
        s = observation @ p @ observation.T + squares(h / 20, h / 20, 1e-1, h / 20)
        k = p @ observation.T @ np.linalg.inv(s)
        x = x + k @ (z - observation @ x)
        p = (np.eye(8) - k @ observation) @ p
    return x, p


def test_the_filter_is_the_textbooks():
    rng = np.random.default_rng(0)
    seen = [
        np.array([[50, 60, 0.4, 80], [10, 20, 1.5, 30.0]]) + rng.normal(0, [2, 2, 0.05, 2], (2, 4)) for _ in range(6)
    ]
    mean, covariance = kalman.begin(seen[0])
    for measured in seen[1:]:
        mean, covariance = kalman.update(*kalman.predict(mean, covariance), measured)
    for i in range(2):
        x, p = textbook(seen[0][i], [z[i] for z in seen[1:]])
        np.testing.assert_allclose(mean[i], x, rtol=1e-9)
        np.testing.assert_allclose(covariance[i], p, rtol=1e-7, atol=1e-10)


def test_distances_are_mahalanobis_under_the_innovation_covariance():
    rng = np.random.default_rng(1)
    boxes = random_boxes(rng, 3)
    mean, covariance = kalman.predict(*kalman.begin(kalman.measured_from(boxes)))
    measured = kalman.measured_from(random_boxes(rng, 5))
    found = kalman.distances(mean, covariance, measured)
    for i in range(3):
        h = mean[i, 3]
        s = covariance[i, :4, :4] + np.diag([h / 20, h / 20, 1e-1, h / 20]) ** 2
        for j in range(5):
            d = measured[j] - mean[i, :4]
            assert found[i, j] == pytest.approx(d @ np.linalg.inv(s) @ d, rel=1e-9)


def test_a_box_survives_the_way_to_a_state_and_back():
    boxes = random_boxes(np.random.default_rng(2), 20)
    np.testing.assert_allclose(kalman.boxes_from(kalman.measured_from(boxes)), boxes, atol=1e-4)


# --- reconstruction similarity -----------------------------------------------------------------------------------


def plain_cost(tracks: list[np.ndarray], found: list[np.ndarray], tau: float = 100.0) -> np.ndarray:
    """Softmax over all rows of the other side, the columns of one object, its rows summed; all in float64."""

    def padded(sets):
        longest = max(len(s) for s in sets)
        whole = np.zeros((len(sets), longest, sets[0].shape[1]))
        for i, rows in enumerate(sets):
            whole[i, : len(rows)] = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
        return whole

    def one_way(queries, sources):
        result = np.zeros((len(queries), len(sources)))
        everything = sources.reshape(-1, sources.shape[2])
        for i, query in enumerate(queries):
            logits = tau * query @ everything.T
            weights = np.exp(logits - logits.max(1, keepdims=True))
            weights /= weights.sum(1, keepdims=True)
            for j, source in enumerate(sources):
                columns = slice(j * sources.shape[1], (j + 1) * sources.shape[1])
                rebuilt = (weights[:, columns] @ source).ravel()
                flat = query.ravel()
                norms = max(np.linalg.norm(rebuilt), 1e-12) * max(np.linalg.norm(flat), 1e-12)
                result[i, j] = rebuilt @ flat / norms
        return result

    ours, theirs = padded(tracks), padded(found)
    return 1 - (one_way(ours, theirs) + one_way(theirs, ours).T) / 2


@pytest.mark.parametrize("positive", [True, False])
def test_cost_is_that_of_the_plain_reconstruction(positive):
    rng = np.random.default_rng(3)
    centres = rng.normal(size=(4, 12))  # objects look like themselves: some weights are then far below 1e-8

    def seen(i: int, n: int) -> np.ndarray:
        rows = centres[i] + 0.3 * rng.normal(size=(n, 12))
        return np.abs(rows) if positive else rows

    tracks = [seen(i, n) for i, n in enumerate((3, 5, 1, 4))]
    found = [seen(i, n) for i, n in ((2, 6), (0, 2), (1, 4))]
    expected = plain_cost(tracks, found)
    cost = reconstruction_cost([torch.tensor(t) for t in tracks], [torch.tensor(f) for f in found])
    np.testing.assert_allclose(cost, expected, atol=2e-4)
    assert [int(cost[:, j].argmin()) for j in range(3)] == [2, 0, 1]


def test_a_tiny_reconstruction_keeps_its_direction():
    # Weights of the wrong object are e^-25 and less: a norm floor of 1e-8 would turn its cosine into 0.
    one, other = np.eye(8)[:2], 0.25 * np.eye(8)[:2] + np.eye(8)[2:4]
    expected = plain_cost([one, other], [one, other], tau=30.0)
    cost = reconstruction_cost([torch.tensor(one), torch.tensor(other)], [torch.tensor(one), torch.tensor(other)], 30.0)
    np.testing.assert_allclose(cost, expected, atol=1e-4)
    assert cost[0, 1] < 0.95


def test_zero_features_match_nothing():
    cost = reconstruction_cost([torch.zeros(1, 6), torch.ones(2, 6)], [torch.zeros(1, 6), torch.ones(3, 6)])
    assert cost[0].min() == pytest.approx(1)
    assert cost[1, 1] < 0.3


def test_no_tracks_or_no_objects_cost_nothing():
    assert reconstruction_cost([], [torch.ones(1, 4)]).shape == (0, 1)
    assert reconstruction_cost([torch.ones(1, 4)], []).shape == (1, 0)


def test_sets_of_other_channels_are_refused():
    with pytest.raises(ValueError, match=r"\[4, 6\] channels"):
        reconstruction_cost([torch.ones(1, 4)], [torch.ones(1, 6)])


# --- assignment and overlap --------------------------------------------------------------------------------------


def brute_force(cost: np.ndarray, limit: float) -> float:
    """The smallest sum of cost - limit over all ways to pair some rows with some columns."""
    n, m = cost.shape
    best = 0.0
    for k in range(1, min(n, m) + 1):
        for rows in itertools.combinations(range(n), k):
            for columns in itertools.permutations(range(m), k):
                best = min(best, sum(cost[i, j] - limit for i, j in zip(rows, columns)))
    return best


@pytest.mark.parametrize("seed", range(20))
def test_assignment_is_the_best_of_all(seed):
    rng = np.random.default_rng(seed)
    cost = rng.uniform(0, 1, rng.integers(1, 5, 2))
    cost[rng.uniform(size=cost.shape) < 0.2] = np.inf
    pairs = assign(cost, 0.5)
    assert len({i for i, _ in pairs}) == len({j for _, j in pairs}) == len(pairs)
    assert sum(cost[i, j] - 0.5 for i, j in pairs) == pytest.approx(brute_force(cost, 0.5))


def test_a_limit_is_not_a_threshold_after_the_fact():
    # The diagonal has the smallest sum, 0.6 + 0.8; cut at 0.7 it would leave the pair of 0.6 and miss that of 0.
    assert assign(np.array([[0.6, 0.0], [1.5, 0.8]]), 0.7) == [(0, 1)]


def test_an_empty_side_gives_no_pairs():
    assert assign(np.empty((0, 3)), 0.7) == assign(np.empty((2, 0)), 0.7) == []


def test_overlap_counts_both_ends():
    box = np.array([[0.0, 0, 9, 9]])  # 10 x 10 when both ends count
    other = np.array([[5.0, 0, 14, 9], [10, 0, 19, 9], [9, 9, 9, 9]])
    np.testing.assert_allclose(inclusive_iou(box, other), [[50 / 150, 0, 1 / 100]])


# --- lives of tracks ---------------------------------------------------------------------------------------------

PLACES = {"a": (0, 0), "b": (200, 0), "c": (0, 200), "d": (200, 200)}
LOOKS = {name: torch.eye(8)[2 * i : 2 * i + 2] for i, name in enumerate("abcd")}


def frame(*objects: str, score: float = 1.0) -> Objects:
    """Objects as LOOK or LOOK@PLACE; without a place each stands at its own."""
    looks = [text[0] for text in objects]
    places = [PLACES[text[-1]] for text in objects]
    boxes = np.array([[x, y, x + 40, y + 90] for x, y in places], dtype=float).reshape(-1, 4)
    return Objects(boxes, [LOOKS[look] for look in looks], np.full(len(objects), score))


def lives(settings: Settings, *frames: tuple[str, ...]) -> list[list[int]]:
    """Ids seen in each frame."""
    tracker = Tracker(settings)
    return [[seen.id for seen in tracker.step(frame(*objects))] for objects in frames]


SURE = Settings(sure=True, buffer=3)
BOXES = Settings(buffer=3)
NONE: tuple[str, ...] = ()


def test_a_box_counts_from_its_second_frame_unless_it_is_the_videos_first():
    assert lives(BOXES, ("a",), ("a",), ("a", "b"), ("a", "b")) == [[1], [1], [1], [1, 2]]


def test_a_mask_counts_at_once():
    assert lives(SURE, ("a",), ("a", "b")) == [[1], [1, 2]]


def test_what_was_seen_once_is_forgotten_and_its_id_is_not_used_again():
    assert lives(BOXES, ("a",), ("a", "b"), ("a",), ("a", "b"), ("a", "b")) == [[1], [1], [1], [1], [1, 3]]


def test_what_was_seen_once_is_confirmed_by_place_not_by_looks():
    assert lives(BOXES, ("a",), ("a", "b"), ("a", "c@b")) == [[1], [1], [1, 2]]
    assert lives(BOXES, ("a",), ("a", "b"), ("a", "b@d")) == [[1], [1], [1]]


def test_looks_carry_an_id_to_another_place():
    assert lives(SURE, ("a", "b"), ("a@d", "b@c")) == [[1, 2], [1, 2]]


def test_place_carries_an_id_to_other_looks():
    assert lives(SURE, ("a", "b"), ("c@a", "d@b")) == [[1, 2], [1, 2]]


def test_looks_are_those_of_the_latest_frame():
    assert lives(SURE, ("a",), ("b@a",), ("b@d",)) == [[1], [1], [1]]
    assert lives(SURE, ("a",), ("b@a",), ("a@d",)) == [[1], [1], [2]]


@pytest.mark.parametrize(
    ("gap", "compat", "kept"), [(4, False, True), (5, False, False), (5, True, True), (6, True, False)]
)
def test_a_lost_track_returns_within_the_buffer_and_one_frame(gap, compat, kept):
    # A gap of g: g frames from the last detection to the next, so g - 1 frames without it.
    rules = Settings(sure=True, buffer=3, compat=compat)
    found = lives(rules, ("a",), *[NONE] * (gap - 1), ("a",))
    assert found[-1] == ([1] if kept else [2])
    assert all(ids == [] for ids in found[1:-1])


def test_with_the_sources_slip_a_track_found_too_late_is_dropped_at_its_next_loss():
    late = (("a",), *[NONE] * 4, ("a",), NONE, ("a",))
    assert lives(Settings(sure=True, buffer=3, compat=True), *late)[-3:] == [[1], [], [2]]
    in_time = (("a",), *[NONE] * 3, ("a",), NONE, ("a",))
    assert lives(Settings(sure=True, buffer=3, compat=True), *in_time)[-3:] == [[1], [], [1]]


def test_a_lost_track_is_not_found_by_its_place():
    # The new one stands where the lost one does: it is taken for a duplicate of the older, until that is removed.
    assert lives(SURE, ("a",), ("a",), NONE, ("b@a",)) == [[1], [1], [], []]
    assert lives(SURE, ("a",), ("a",), NONE, *[("b@a",)] * 4)[3:] == [[], [], [4], [4]]


def test_of_duplicates_the_younger_goes():
    # Both in one place, b the older; a is lost: it goes, and what looks like it later is new.
    assert lives(SURE, ("b@a",), ("b@a", "a"), ("b@a",), ("b@a", "a@d"))[-1] == [1, 3]
    # With b elsewhere, a is found again.
    assert lives(SURE, ("b",), ("b", "a"), ("b",), ("b", "a@d"))[-1] == [1, 2]
    # Of equals, both seen in one frame only, the tracked one goes.
    assert lives(SURE, ("a",), NONE, ("b@a",)) == [[1], [], []]


def test_a_doubtful_detection_carries_tracks_but_starts_none():
    tracker = Tracker(SURE)
    assert tracker.step(frame("a", score=0.4)) == []
    assert [seen.id for seen in tracker.step(frame("a", score=0.6))] == [1]
    assert [seen.id for seen in tracker.step(frame("a", "b", score=0.4))] == [1]


def test_gating_rules_out_what_moved_too_far_and_no_gate_does_not():
    far = (("a",), ("a",), ("a@d",))
    assert lives(Settings(sure=True, motion=0.98, gated=True), *far)[-1] == [2]
    assert lives(Settings(sure=True, motion=0.98), *far)[-1] == [2]  # a squared distance of hundreds, times 0.02
    assert lives(Settings(sure=True, motion=0.9999), *far)[-1] == [1]  # times 0.0001
    assert lives(Settings(sure=True), *far)[-1] == [1]


def test_boxes_given_are_the_filters():
    tracker, boxes = Tracker(SURE), []
    for step in range(5):
        moved = frame("a")
        boxes.append(moved.boxes[0] + 10 * step)
        (seen,) = tracker.step(Objects(boxes[-1][None], moved.features, moved.scores))
    x, _ = textbook(*(lambda m: (m[0], list(m[1:])))(kalman.measured_from(np.array(boxes))))
    np.testing.assert_allclose(seen.box, kalman.boxes_from(x[None])[0], atol=1e-9)
    assert seen.box[0] < boxes[-1][0]  # behind: it has not yet learnt the speed


def test_frames_without_objects_pass():
    assert lives(SURE, NONE, ("a",), NONE, ("a",)) == [[], [1], [], [1]]


def test_seen_says_which_detection_and_whether_it_returned():
    tracker = Tracker(SURE)
    tracker.step(frame("a", "b"))
    tracker.step(frame("b"))
    found = {seen.id: (seen.detection, seen.returned) for seen in tracker.step(frame("b", "a"))}
    assert found == {1: (1, True), 2: (0, False)}
