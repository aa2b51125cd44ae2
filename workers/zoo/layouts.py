"""State formats: from the names in a weights file to an architecture's own parameter names.

Keras keeps convolution kernels as height, width, in, out (HWIO), PyTorch as out, in, height, width (OIHW).
"""

from collections.abc import Mapping, Sequence

import torch

from app.domain.errors import ModelRejected
from app.domain.model_spec import StateFormat
from workers.zoo.containers import Tensors

COUNTER = "num_batches_tracked"
"""BatchNorm's step counter: it changes nothing at inference and older files lack it."""

KERAS_BATCH_NORM = {
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
MOBILENET_V2_STAGES = (1, 2, 3, 4, 3, 3, 1)
VGG16_CONVOLUTIONS = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))
HED_SIDE_OUTPUTS = ("dsn", "fuse/")


def native_state(tensors: Tensors, expected: Mapping[str, torch.Tensor], state_format: StateFormat) -> Tensors:
    """Rename the tensors of a file as the architecture names them, float tensors in float32.

    Args:
        tensors: the file's tensors, in its order.
        expected: the architecture's own state, whose names, order and shapes count.
        state_format: how the file names them.

    Raises:
        ModelRejected: ``weights_mismatch`` with the missing, the unexpected and the differently shaped names.
    """
    if state_format == "by_order":
        state = _by_order(tensors, expected)
    elif state_format == "keras_mobilenet_v2":
        state = _keras_mobilenet_v2(tensors)
    elif state_format == "keras_hed_vgg16":
        state = _keras_hed_vgg16(tensors)
    else:
        state = dict(tensors)
    for name, tensor in expected.items():
        if name.endswith(COUNTER):
            state.setdefault(name, torch.zeros((), dtype=tensor.dtype))
    _refuse_differences(state, expected)
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in state.items()}


def _by_order(tensors: Tensors, expected: Mapping[str, torch.Tensor]) -> Tensors:
    """Pair the n-th tensor with the n-th name; the shapes are compared afterwards like any others."""
    names = [name for name in expected if not name.endswith(COUNTER)]
    given = [name for name in tensors if not name.endswith(COUNTER)]
    if len(names) != len(given):
        raise _mismatch(f"{len(given)} tensors where the architecture has {len(names)}")
    return {name: tensors[other] for name, other in zip(names, given, strict=True)}


def _keras_mobilenet_v2(tensors: Tensors) -> Tensors:
    """Name the tensors of Keras's MobileNetV2, with or without a dense head, as timm's ``mobilenetv2_100``."""
    layers = {"Conv1": "conv_stem", "bn_Conv1": "bn1", "Conv_1": "conv_head", "Conv_1_bn": "bn2", "dense": "classifier"}
    blocks = [f"blocks.{stage}.{n}" for stage, depth in enumerate(MOBILENET_V2_STAGES) for n in range(depth)]
    first = {"depthwise": "conv_dw", "depthwise_BN": "bn1", "project": "conv_pw", "project_BN": "bn2"}
    other = {"expand": "conv_pw", "expand_BN": "bn1", "depthwise": "conv_dw", "depthwise_BN": "bn2"}
    other |= {"project": "conv_pwl", "project_BN": "bn3"}
    layers |= {f"expanded_conv_{part}": f"{blocks[0]}.{name}" for part, name in first.items()}
    for n, block in enumerate(blocks[1:], start=1):
        layers |= {f"block_{n}_{part}": f"{block}.{name}" for part, name in other.items()}

    state = {}
    for path, tensor in tensors.items():
        layer, _, variable = path.rpartition("/")
        layer = layer.rpartition("/")[2]
        if layer not in layers:
            state[path] = tensor
        elif variable in KERAS_BATCH_NORM:
            state[f"{layers[layer]}.{KERAS_BATCH_NORM[variable]}"] = tensor
        elif variable == "kernel":
            depthwise = layer.endswith("depthwise")
            state[f"{layers[layer]}.weight"] = _kernel(tensor, depthwise=depthwise)
        else:
            state[f"{layers[layer]}.{variable}"] = tensor
    return state


def _keras_hed_vgg16(tensors: Tensors) -> Tensors:
    """Name the trunk of a Keras HED network as torchvision's ``vgg16().features``.

    The six 1 x 1 convolutions of its side outputs are no part of the trunk and are left out.
    """
    names = {}
    for block, indices in enumerate(VGG16_CONVOLUTIONS, start=1):
        for n, index in enumerate(indices):
            layer = f"block{block}/layers/conv2d{f'_{n}' if n else ''}"
            names[f"{layer}/vars/0"] = f"features.{index}.weight"
            names[f"{layer}/vars/1"] = f"features.{index}.bias"
    trunk = {path: tensor for path, tensor in tensors.items() if not path.startswith(HED_SIDE_OUTPUTS)}
    return {
        names.get(path, path): _kernel(tensor, depthwise=False) if tensor.ndim == 4 else tensor
        for path, tensor in trunk.items()
    }


def _kernel(tensor: torch.Tensor, *, depthwise: bool) -> torch.Tensor:
    """Turn a Keras kernel: dense IO to OI, convolution HWIO to OIHW, depthwise HWO1 to O1HW."""
    if tensor.ndim == 2:
        return tensor.T.contiguous()
    axes = (2, 3, 0, 1) if depthwise else (3, 2, 0, 1)
    return tensor.permute(axes).contiguous()


def _refuse_differences(state: Tensors, expected: Mapping[str, torch.Tensor]) -> None:
    differences = {
        "missing": [name for name in expected if name not in state],
        "unexpected": [name for name in state if name not in expected],
        "of another shape": [
            f"{name} {tuple(state[name].shape)} for {tuple(tensor.shape)}"
            for name, tensor in expected.items()
            if name in state and state[name].shape != tensor.shape
        ],
    }
    if any(differences.values()):
        raise weights_mismatch(differences)


def weights_mismatch(differences: Mapping[str, Sequence[str]]) -> ModelRejected:
    """Return the error of weights that do not fit an architecture; ``differences`` lists names by what is wrong."""
    found = [f"{len(names)} {kind}: {_shortened(names)}" for kind, names in differences.items() if names]
    return _mismatch("; ".join(found))


def _shortened(names: Sequence[str], most: int = 8) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def _mismatch(difference: str) -> ModelRejected:
    return ModelRejected(
        "weights_mismatch",
        f"the weights do not fit the architecture: {difference}",
        param="architecture",
        hint="Check the architecture, head.num_classes and state_format.",
    )
