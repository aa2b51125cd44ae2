"""What is measured of a network for forecasts: of which images, and what is kept."""

from pathlib import Path

import numpy as np
import pytest

from app.domain.errors import EvaluationFailed
from app.forecasting import question
from tests.fixtures.subjects import CLASSES, make_subject
from tests.fixtures.weights import one_thread
from workers import network_measurement
from workers.network_measurement import measured_network
from workers.subject import Subject

__all__ = ["one_thread"]


@pytest.fixture
def subject(tmp_path: Path) -> Subject:
    return make_subject(tmp_path, forecast_images=12)


def test_measured_and_further_images_are_balanced_over_classes(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network_measurement, "_FURTHER", 30)
    with subject:
        name, found = measured_network(subject, ())
        rows_N, rows_M = subject.chosen(12).rows_E, subject.chosen(42).rows_E
        features_ED = subject.network.feature_dim
    assert found.measured_images == 12
    assert np.bincount(found.labels_N[:12]).tolist() == [4, 4, 4]
    assert np.bincount(found.labels_N[12:]).tolist() == [10, 10, 10]
    assert set(rows_N) < set(rows_M)
    assert found.features_ND.shape == (42, features_ED)
    assert len(np.unique(found.features_ND, axis=0)) == 42
    assert name.endswith("-12-of-1000.npz")
    assert [time.batch_size for time in found.step_times] == [8, 32]


def test_what_was_kept_is_taken_without_data_set_or_network(subject: Subject) -> None:
    with subject:
        name, found = measured_network(subject, ())
    subject.runtime.objects.delete("datasets/digest.parquet")
    with Subject(subject.runtime, subject.spec, subject.key, subject.held) as again:
        same_name, same = measured_network(again, ())
        assert "network" not in again.__dict__
        assert "shard" not in again.__dict__
    assert same_name == name
    np.testing.assert_array_equal(same.kernel, found.kernel)
    assert same.step_times == found.step_times


def test_more_classes_than_are_forecast_are_refused_before_anything_is_measured(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network_measurement, "MOST_CLASSES", CLASSES - 1)
    assert question.MOST_CLASSES > CLASSES
    with subject, pytest.raises(EvaluationFailed) as refused:
        measured_network(subject, ())
    assert refused.value.code == "too_many_classes"
    assert "the data set has 3" in refused.value.message
    assert "network" not in subject.__dict__
    kept = subject.runtime.objects.keys()
    assert not [key for key in kept if key.startswith("extractions/")]
