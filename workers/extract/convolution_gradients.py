"""Each image's gradient with respect to a convolution's weights, sketched.

Channels are projected before windows are cut out of an image, which costs kh * kw times less than after.

    B images, O and I output and input channels, G groups, h x w places of the output, kh x kw taps of the kernel,
    R rows and K columns of a sketch
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from workers.extract.gradient_tape import GradientTape


def conv2d(
    tape: GradientTape,
    input_BIx: Tensor,
    weight_OIx: Tensor,
    bias_O: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    """``torch.nn.functional.conv2d``."""
    weight, bias = tape.wanted(weight_OIx), tape.wanted(bias_O)
    tape.require_images_first(input_BIx, weight, bias)
    bias_values_O = None if bias_O is None else bias_O.detach()
    output_BOhw = functional.conv2d(input_BIx, weight_OIx.detach(), bias_values_O, stride, padding, dilation, groups)
    sketched = None
    if weight is not None:
        shape = tuple(weight_OIx.shape)
        sketched = _WeightGradient(weight, tape, input_BIx, shape, stride, padding, dilation, groups)

    def contribution(gradient_BOhw: Tensor) -> dict[str, Tensor]:
        found = {}
        if weight is not None and sketched is not None:
            found[weight] = sketched(gradient_BOhw)
        if bias is not None:
            found[bias] = tape.signs_of(bias).vector(bias, gradient_BOhw.sum((2, 3)))
        return found

    return tape.watch(output_BOhw, contribution, "conv2d", weight, bias)


def conv1d(
    tape: GradientTape,
    input_BIl: Tensor,
    weight_OIl: Tensor,
    bias_O: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    """``torch.nn.functional.conv1d``: a convolution of images one pixel high."""
    kernel_OI1l = tape.derive(torch.unsqueeze, weight_OIl, 2)
    sides = padding if isinstance(padding, str) else (0, _single(padding))
    across, apart = (1, _single(stride)), (1, _single(dilation))
    return conv2d(tape, input_BIl.unsqueeze(2), kernel_OI1l, bias_O, across, sides, apart, groups).squeeze(2)


class _WeightGradient:
    """Holds a convolution's projected input until the gradient of its output is known.

    Where windows do not overlap, each is one long input and is projected as a whole: ``rows`` x ``columns`` numbers.
    Otherwise the taps of the kernel stay apart. Groups are projected each on its own and, where they are many, added
    up with random signs; a depthwise convolution is the case of one channel a group.
    """

    def __init__(
        self,
        name: str,
        tape: GradientTape,
        input_BIx: Tensor,
        weight_shape: tuple[int, ...],
        stride: Any,
        padding: Any,
        dilation: Any,
        groups: int,
    ) -> None:
        self._name, self._signs, self._groups, self._images = name, tape.signs_of(name), groups, tape.batch_size
        input_BIx = input_BIx.detach()
        outputs, inputs, *kernel = weight_shape
        self._rows = self._signs.rows(outputs // groups)
        self._outputs = outputs
        stride, dilation = _pair(stride), _pair(dilation)
        if isinstance(padding, str):
            input_BIx, padding = _padded(input_BIx, padding, kernel, dilation)
        padding = _pair(padding)
        window = inputs * kernel[0] * kernel[1]
        apart = all(step >= length for step, length in zip(stride, kernel, strict=True)) and padding == (0, 0)
        self._whole = apart and (kernel == [1, 1] or self._signs.columns(window) < window)
        self._columns = self._signs.columns(window if self._whole else inputs)
        if self._whole:
            self._input_BKx = self._projected_windows(input_BIx, inputs, kernel, stride, dilation)
        else:
            self._input_BKx = self._projected_channels(input_BIx, inputs)
        self._kernel, self._geometry = kernel, (stride, padding, dilation)

    def __call__(self, gradient_BOhw: Tensor) -> Tensor:
        """Return the sketches (B, S) for the gradient of the convolution's output."""
        batch = len(gradient_BOhw)
        rows_BRhw = self._projected_outputs(gradient_BOhw)
        if self._whole:
            rows_BGRp = rows_BRhw.reshape(batch * self._groups, self._rows, -1)
            columns_BGKp = self._input_BKx.reshape(batch * self._groups, self._columns, -1)
            found = torch.bmm(rows_BGRp, columns_BGKp.transpose(1, 2)).reshape(batch, -1)
        else:
            found = self._correlated(rows_BRhw)
        found_BGS = found.reshape(len(found), self._groups, -1)
        kept = self._signs.entries(self._groups, self._rows * self._columns)
        if self._groups > 1 and kept < self._groups:
            signs_GK = self._signs.draw(f"{self._name} groups", (self._groups, kept), kept, found_BGS)
            found_BGS = found_BGS.transpose(1, 2) @ signs_GK
        return found_BGS.flatten(1)

    def _projected_windows(
        self, input_BIx: Tensor, inputs: int, kernel: list[int], stride: tuple[int, int], dilation: tuple[int, int]
    ) -> Tensor:
        if self._columns == inputs * kernel[0] * kernel[1]:
            return input_BIx[:, :, :: stride[0], :: stride[1]]
        shape = (self._groups * self._columns, inputs, *kernel)
        signs = self._signs.draw(f"{self._name} columns", shape, self._columns, input_BIx)
        return functional.conv2d(input_BIx, signs, None, stride, 0, dilation, self._groups)

    def _projected_channels(self, input_BIx: Tensor, inputs: int) -> Tensor:
        if self._columns == inputs:
            return input_BIx
        shape = (self._groups * self._columns, inputs, 1, 1)
        signs = self._signs.draw(f"{self._name} columns", shape, self._columns, input_BIx)
        return functional.conv2d(input_BIx, signs, groups=self._groups)

    def _projected_outputs(self, gradient_BOhw: Tensor) -> Tensor:
        each = self._outputs // self._groups
        if self._rows == each:
            return gradient_BOhw
        shape = (self._groups * self._rows, each, 1, 1)
        signs = self._signs.draw(f"{self._name} rows", shape, self._rows, gradient_BOhw)
        return functional.conv2d(gradient_BOhw, signs, groups=self._groups)

    def _correlated(self, rows_BRhw: Tensor) -> Tensor:
        """Correlate output gradients with inputs, image by image, as the weight gradient of a small convolution."""
        stride, padding, dilation = self._geometry
        shape = (self._groups * self._rows, self._columns, *self._kernel)
        weight = rows_BRhw.new_empty(shape)
        found = rows_BRhw.new_empty((self._images, *shape))
        rows, inputs = rows_BRhw.chunk(self._images), self._input_BKx.chunk(self._images)
        for image in range(self._images):
            _, found[image], _ = torch.ops.aten.convolution_backward(
                rows[image],
                inputs[image],
                weight,
                None,
                stride,
                padding,
                dilation,
                False,
                (0, 0),
                self._groups,
                (False, True, False),
            )
        return found


def _single(value: Any) -> int:
    return int(value if isinstance(value, int) else value[0])


def _pair(value: Any) -> tuple[int, int]:
    if isinstance(value, int):
        return value, value
    first, second = value if len(value) == 2 else (value[0], value[0])
    return int(first), int(second)


def _padded(
    input_BIx: Tensor, padding: str, kernel: Sequence[int], dilation: tuple[int, int]
) -> tuple[Tensor, tuple[int, int]]:
    """Return the input with the padding that a word stands for already in place."""
    if padding == "valid":
        return input_BIx, (0, 0)
    above, left = ((length - 1) * apart for length, apart in zip(kernel, dilation, strict=True))
    sides = (left // 2, left - left // 2, above // 2, above - above // 2)
    return functional.pad(input_BIx, sides), (0, 0)
