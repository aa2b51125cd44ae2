"""What a measured network is called after, and the images behind those of its kernel."""

import dataclasses
import io

import numpy as np
import pytest

from app.forecasting.measured_network import MeasuredNetwork
from tests.fixtures.recorded import measured_network


@pytest.mark.parametrize(
    ("architecture", "family"),
    [
        ("mobilenet_v2", "mobilenet"),
        ("mobilenetv2_035", "mobilenet"),
        ("timm:tf_efficientnet_lite0", "efficientnet"),
        ("resnet50", "resnet"),
        ("levit_128", "levit"),
        ("vit_base", "vit"),
    ],
)
def test_versions_of_an_architecture_are_one_family(architecture, family):
    assert dataclasses.replace(measured_network(), architecture=architecture).family == family


def test_features_of_further_images_come_along():
    network = measured_network()
    images = len(network.labels_N)
    longer = dataclasses.replace(
        network,
        features_ND=np.vstack([network.features_ND, network.features_ND[:4] + 1]),
        labels_N=np.concatenate([network.labels_N, network.labels_N[:4]]),
    )
    file = io.BytesIO()
    longer.save(file)
    found = MeasuredNetwork.load(file.getvalue()).linearisation()
    assert found.num_images == images
    np.testing.assert_allclose(found.further_MD, network.features_ND[:4] + 1)
    np.testing.assert_array_equal(found.further_labels_M, network.labels_N[:4])
