"""State formats: from the names in a weights file to an architecture's own parameter names.

Keras keeps convolution kernels as height, width, in, out (HWIO), PyTorch as out, in, height, width (OIHW).
"""

from collections.abc import Collection, Mapping, Sequence

import torch

from app.domain.errors import ModelRejected
from app.domain.model_spec import StateFormat
from workers.zoo.containers import Tensors

COUNTER = "num_batches_tracked"
"""BatchNorm's step counter: it changes nothing at inference and older files lack it."""

WRAPPERS = ("module.", "_orig_mod.")
"""What ``DataParallel`` and ``torch.compile`` put before the names of the network inside them."""

REAL_NUMBERS = frozenset(
    {
        *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
        *(torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz),
    }
)
"""Types whose numbers are the weights themselves, whatever was lost when they were rounded to them."""

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
        ModelRejected: ``weights_mismatch`` with the missing, the unexpected, the differently shaped names and those
            of a type that is no floating-point number where the architecture has one.
    """
    if state_format == "by_order":
        state = _by_order(tensors, expected)
    elif state_format == "keras_mobilenet_v2":
        state = _keras_mobilenet_v2(tensors)
    elif state_format == "keras_hed_vgg16":
        state = _keras_hed_vgg16(tensors)
    else:
        prefix = foreign_prefix(tensors, expected)
        state = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    for name, tensor in expected.items():
        if name.endswith(COUNTER):
            state.setdefault(name, torch.zeros((), dtype=tensor.dtype))
    _refuse_differences(state, expected, _fitting_prefix(tensors, expected))
    refuse_types(state, expected)
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in state.items()}


def foreign_prefix(names: Collection[str], expected: Collection[str]) -> str:
    """Return what all names of a file begin with and the architecture's do not, ``""`` where there is nothing such.

    A network that was saved inside another has its names behind the other's. The prefix is one without which the names
    are exactly the architecture's own.

    Args:
        names: of a file.
        expected: of the architecture; its step counters may be missing in the file.
    """
    needed = {name for name in expected if not name.endswith(COUNTER)}
    prefix = _fitting_prefix(names, expected)
    return prefix if needed <= {name.removeprefix(prefix) for name in names} <= set(expected) else ""


def wrapper_prefix(names: Collection[str]) -> str:
    """Return what ``DataParallel`` or ``torch.compile`` put before all names: no architecture has such names itself."""
    prefix, shared = "", _shared_prefix(names)
    while found := next((one for one in WRAPPERS if shared.startswith(prefix + one)), ""):
        prefix += found
    return prefix


def low_precision(tensors: Tensors) -> list[str]:
    """Return the names of the floating-point tensors with fewer than 16 bits a number."""
    return [name for name, tensor in tensors.items() if tensor.is_floating_point() and tensor.dtype.itemsize < 2]


def _fitting_prefix(names: Collection[str], expected: Collection[str]) -> str:
    """Return the shared prefix without which the most names are the architecture's own, if it is more than with it."""
    shared, own = _shared_prefix(names), set(expected)
    cuts = [shared[: at + 1] for at, letter in enumerate(shared) if letter == "."]
    return max(["", *cuts], key=lambda cut: sum(name.removeprefix(cut) in own for name in names))


def _shared_prefix(names: Collection[str]) -> str:
    """Return what all names begin with, up to a dot."""
    first, last = min(names, default=""), max(names, default="")  # what these two share, all share
    length = next((at for at, (one, other) in enumerate(zip(first, last, strict=False)) if one != other), len(first))
    return first[: first.rfind(".", 0, length) + 1]


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


def _refuse_differences(state: Tensors, expected: Mapping[str, torch.Tensor], prefix: str) -> None:
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
        raise weights_mismatch(differences, prefix)


def refuse_types(state: Tensors, expected: Mapping[str, torch.Tensor]) -> None:
    """Refuse whole numbers for real ones, and the other way round: what they were scaled by is not known here.

    Args:
        state: tensors of a file, named as the architecture names them; others are not looked at.
        expected: the architecture's own state, whose types count.

    Raises:
        ModelRejected: ``weights_mismatch`` with names and types.
    """
    wrong = [
        f"{name} {_called(state[name].dtype)} for {_called(tensor.dtype)}"
        for name, tensor in expected.items()
        if name in state and not name.endswith(COUNTER) and not _can_become(state[name].dtype, tensor.dtype)
    ]
    if wrong:
        raise ModelRejected(
            "weights_mismatch",
            f"the weights do not fit the architecture: {len(wrong)} of another type: {_shortened(wrong)}",
            param="source",
            hint="Save the weights as they were before they were quantised, in float32, float16 or bfloat16.",
        )


def _can_become(given: torch.dtype, wanted: torch.dtype) -> bool:
    if wanted.is_floating_point:
        return given in REAL_NUMBERS
    return given == wanted or not (given.is_floating_point or given.is_complex)


def _called(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def weights_mismatch(differences: Mapping[str, Sequence[str]], prefix: str = "") -> ModelRejected:
    """Return the error of weights that do not fit an architecture.

    Args:
        differences: names by what is wrong with them.
        prefix: what all names of the file begin with and the architecture's do not.
    """
    found = "; ".join(f"{len(names)} {kind}: {_shortened(names)}" for kind, names in differences.items() if names)
    if not prefix:
        return _mismatch(found)
    hint = f"All names in the file begin with {prefix!r}, and the architecture's do not; without it more of them fit, "
    hint += "but not all. Save the inner network alone, and check the architecture and head.num_classes."
    return _mismatch(found, hint)


def _shortened(names: Sequence[str], most: int = 8) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def _mismatch(
    difference: str, hint: str = "Check the architecture, head.num_classes and state_format."
) -> ModelRejected:
    return ModelRejected(
        "weights_mismatch",
        f"the weights do not fit the architecture: {difference}",
        param="architecture",
        hint=hint,
    )
