"""Bottleneck residual networks (He et al. 2016) with a choice of stem, depth and width.

Names of weights are torchvision's, so weights that were published for it load as they are. torchvision's own code would
do, but its public builds do not load beside CPU torch.
"""

from collections.abc import Sequence

import torch
from torch import nn

from fxray.baselines.ports import Size

EXPANSION = 4
"""Channels that a block gives, per channel within."""
SHAPES: dict[Size, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "small": ((1, 1, 1, 1), (8, 16, 32, 64)),
    "published": ((3, 4, 6, 3), (64, 128, 256, 512)),
}
"""Blocks and inner channels of each stage: of ResNet-50, and with one block a stage and an eighth of the width."""


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolution around a shortcut; the 3x3 one strides."""

    def __init__(self, num_in: int, width: int, stride: int) -> None:
        super().__init__()
        num_out = width * EXPANSION
        self.conv1, self.bn1 = nn.Conv2d(num_in, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, num_out, 1, bias=False), nn.BatchNorm2d(num_out)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or num_in != num_out:
            self.downsample = nn.Sequential(nn.Conv2d(num_in, num_out, 1, stride, bias=False), nn.BatchNorm2d(num_out))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps [B, channels, H, W] to [B, 4 x width, H / stride, W / stride]."""
        inner = self.bn1(self.conv1(x)).relu_()
        inner = self.bn2(self.conv2(inner)).relu_()
        return (self.bn3(self.conv3(inner)) + self.downsample(x)).relu_()


class ResNet(nn.Module):
    """A residual network with one logit.

    Args:
        depths: Blocks of each stage; from the second on a stage halves the resolution.
        widths: Inner channels of each stage.
        stem_px: Side of the first convolution.
        stem_stride: Of the first convolution and of the pooling after it.
        head: Name of the last layer, as the published weights call it.
    """

    def __init__(
        self, depths: Sequence[int], widths: Sequence[int], *, stem_px: int, stem_stride: int, head: str
    ) -> None:
        super().__init__()
        num_channels = widths[0]
        self.conv1 = nn.Conv2d(3, num_channels, stem_px, stem_stride, stem_px // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(num_channels)
        self.maxpool = nn.MaxPool2d(3, stem_stride, 1)
        self._stages, self._head = [f"layer{number}" for number in range(1, len(depths) + 1)], head
        for number, (name, depth, width) in enumerate(zip(self._stages, depths, widths, strict=True)):
            blocks = []
            for place in range(depth):
                blocks.append(Bottleneck(num_channels, width, 2 if number and not place else 1))
                num_channels = width * EXPANSION
            self.add_module(name, nn.Sequential(*blocks))
        self.add_module(head, nn.Linear(num_channels, 1))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits [B] of images [B, 3, H, W]."""
        x = self.maxpool(self.bn1(self.conv1(x)).relu_())
        for name in self._stages:
            x = self.get_submodule(name)(x)
        return self.get_submodule(self._head)(x.mean((2, 3))).squeeze(1)
