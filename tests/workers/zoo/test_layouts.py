"""State formats: renaming, Keras's axis order, and differences told by name."""

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F

from app.domain.errors import ModelRejected
from tests.fixtures.weights import packaged
from workers.zoo.architectures import skeleton
from workers.zoo.layouts import foreign_prefix, low_precision, native_state, wrapper_prefix

EXPECTED = {
    "conv.weight": torch.empty(4, 3, 1, 1),
    "bn.running_mean": torch.empty(4),
    "bn.num_batches_tracked": torch.tensor(0),
}


def test_by_order_pairs_tensors_and_fills_in_the_counters() -> None:
    given = {"w": torch.randn(4, 3, 1, 1), "m": torch.randn(4)}
    state = native_state(given, EXPECTED, "by_order")
    assert set(state) == set(EXPECTED)
    torch.testing.assert_close(state["conv.weight"], given["w"])
    torch.testing.assert_close(state["bn.running_mean"], given["m"])


def test_half_precision_becomes_float32() -> None:
    given = {"conv.weight": torch.randn(4, 3, 1, 1).half(), "bn.running_mean": torch.zeros(4)}
    state = native_state(given, EXPECTED, "native")
    assert state["conv.weight"].dtype == torch.float32
    assert state["bn.num_batches_tracked"].dtype == torch.int64


@pytest.mark.parametrize(
    ("given", "state_format", "difference"),
    [
        ({"conv.weight": (4, 3, 1, 1)}, "native", "1 missing: bn.running_mean"),
        ({"conv.weight": (4, 3, 1, 1), "bn.running_mean": (4,), "x": (1,)}, "native", "1 unexpected: x"),
        ({"conv.weight": (4, 3), "bn.running_mean": (4,)}, "native", "conv.weight (4, 3) for (4, 3, 1, 1)"),
        ({"m": (4,), "w": (4, 3, 1, 1)}, "by_order", "2 of another shape"),
        ({"w": (4, 3, 1, 1)}, "by_order", "1 tensors where the architecture has 2"),
        ({"a/b": (2,)}, "keras_mobilenet_v2", "unexpected: a/b"),
        ({"a/b": (2,)}, "keras_hed_vgg16", "unexpected: a/b"),
    ],
)
def test_differences_are_named(given: dict[str, tuple[int, ...]], state_format: str, difference: str) -> None:
    tensors = {name: torch.zeros(shape) for name, shape in given.items()}
    with pytest.raises(ModelRejected) as caught:
        native_state(tensors, EXPECTED, state_format)  # type: ignore[arg-type]
    assert caught.value.code == "weights_mismatch"
    assert difference in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(
    "dtype", [torch.int8, torch.uint8, torch.bool, torch.int64, torch.complex64, torch.float8_e8m0fnu]
)
def test_quantised_weights_are_refused_by_name_and_type(dtype: torch.dtype) -> None:
    given = {"conv.weight": torch.zeros(4, 3, 1, 1).to(dtype), "bn.running_mean": torch.zeros(4)}
    with pytest.raises(ModelRejected) as caught:
        native_state(given, EXPECTED, "native")
    assert caught.value.code == "weights_mismatch"
    assert f"1 of another type: conv.weight {str(dtype).removeprefix('torch.')} for float32" in caught.value.message
    assert "quantised" in str(caught.value.hint)


def test_real_numbers_are_no_index_and_counters_may_have_any_type() -> None:
    expected = {"index": torch.zeros(2, dtype=torch.int64), "bn.num_batches_tracked": torch.tensor(0)}
    counted = {"bn.num_batches_tracked": torch.tensor(3.0)}
    native_state({"index": torch.zeros(2, dtype=torch.int32), **counted}, expected, "native")
    with pytest.raises(ModelRejected, match="index float32 for int64"):
        native_state({"index": torch.zeros(2), **counted}, expected, "native")


def test_eight_bits_of_a_real_number_become_float32() -> None:
    given = {"conv.weight": torch.ones(4, 3, 1, 1).to(torch.float8_e4m3fn), "bn.running_mean": torch.zeros(4).half()}
    assert low_precision(given) == ["conv.weight"]
    torch.testing.assert_close(native_state(given, EXPECTED, "native")["conv.weight"], torch.ones(4, 3, 1, 1))


@pytest.mark.parametrize("prefix", ["module.", "model.", "backbone.", "_orig_mod.", "module._orig_mod."])
def test_a_prefix_of_all_names_is_taken_off_where_all_then_fit(prefix: str) -> None:
    given = {f"{prefix}conv.weight": torch.ones(4, 3, 1, 1), f"{prefix}bn.running_mean": torch.zeros(4)}
    assert foreign_prefix(given, EXPECTED) == prefix
    assert set(native_state(given, EXPECTED, "native")) == set(EXPECTED)
    assert foreign_prefix({name.removeprefix(prefix) for name in given}, EXPECTED) == ""


@pytest.mark.parametrize("names", [["conv.weight"], ["conv.weight", "bn.running_mean", "head.bias"]])
def test_a_prefix_without_which_not_all_fit_is_told_and_not_taken_off(names: list[str]) -> None:
    given = {f"module.{name}": torch.zeros(4) for name in names}
    with pytest.raises(ModelRejected) as caught:
        native_state(given, EXPECTED, "native")
    assert f"{len(names)} unexpected: module.conv.weight" in caught.value.message
    assert "begin with 'module.'" in str(caught.value.hint)


def test_a_prefix_that_helps_nothing_is_not_told() -> None:
    with pytest.raises(ModelRejected) as caught:
        native_state({"stem.a": torch.zeros(4), "stem.b": torch.zeros(4)}, EXPECTED, "native")
    assert "begin with" not in str(caught.value.hint)


def test_only_wrappers_are_taken_off_without_a_look_at_the_architecture() -> None:
    assert wrapper_prefix(["module._orig_mod.a.b", "module._orig_mod.a.c"]) == "module._orig_mod."
    assert wrapper_prefix(["model.a", "model.b"]) == wrapper_prefix([]) == wrapper_prefix(["module.a", "b"]) == ""


def test_keras_names_reach_every_tensor_of_the_two_architectures() -> None:
    """Invert the naming by hand for a few layers; strict loading of the real files covers the rest."""
    rng = np.random.default_rng(0)
    kernel_HWIO = torch.from_numpy(rng.normal(size=(3, 3, 64, 64)).astype(np.float32))
    expected = skeleton(packaged("vgg16-hed-edges")).state_dict()
    with pytest.raises(ModelRejected) as caught:
        native_state(
            {"block1/layers/conv2d_1/vars/0": kernel_HWIO, "dsn1/vars/0": torch.ones(1)}, expected, "keras_hed_vgg16"
        )
    assert "25 missing: features.0.weight, features.0.bias, features.2.bias" in caught.value.message
    assert "unexpected" not in caught.value.message


def test_keras_kernels_are_turned_as_their_convolutions_need() -> None:
    """Compare with sums written out by hand, for an ordinary and for a depthwise kernel."""
    rng = np.random.default_rng(0)
    tensors = {
        "m/Conv1/kernel": torch.from_numpy(rng.normal(size=(3, 3, 3, 32)).astype(np.float32)),
        "m/expanded_conv_depthwise/kernel": torch.from_numpy(rng.normal(size=(3, 3, 32, 1)).astype(np.float32)),
        "m/dense/kernel": torch.from_numpy(rng.normal(size=(1280, 19)).astype(np.float32)),
    }
    names = ("conv_stem.weight", "blocks.0.0.conv_dw.weight", "classifier.weight")
    network = timm.create_model("mobilenetv2_100", num_classes=19)
    expected = {name: network.state_dict()[name] for name in names}
    state = native_state(tensors, expected, "keras_mobilenet_v2")

    x_HWC = rng.normal(size=(3, 3, 3)).astype(np.float32)
    by_hand = np.einsum("hwi,hwio->o", x_HWC, tensors["m/Conv1/kernel"].numpy())
    ours = F.conv2d(torch.from_numpy(x_HWC).permute(2, 0, 1)[None], state["conv_stem.weight"])[0, :, 0, 0]
    np.testing.assert_allclose(ours, by_hand, rtol=1e-5, atol=1e-5)

    x_HWC = rng.normal(size=(3, 3, 32)).astype(np.float32)
    by_hand = np.einsum("hwc,hwc->c", x_HWC, tensors["m/expanded_conv_depthwise/kernel"].numpy()[..., 0])
    image_1CHW = torch.from_numpy(x_HWC).permute(2, 0, 1)[None]
    ours = F.conv2d(image_1CHW, state["blocks.0.0.conv_dw.weight"], groups=32)[0, :, 0, 0]
    np.testing.assert_allclose(ours, by_hand, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(state["classifier.weight"], tensors["m/dense/kernel"].T)
