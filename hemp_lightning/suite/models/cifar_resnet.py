"""ResNets for CIFAR-size images: 6n+2 layers, 16-32-64 channels, parameter-free shortcuts."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut that adds no parameters (option A of the paper).

    Where the resolution halves, the shortcut takes every second pixel and pads the new channels
    with zeros, half in front and half behind.
    """

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.padding = (channels - in_channels) // 2
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, maps: Tensor) -> Tensor:
        """Feature maps `(batch, in_channels, s, s)` to `(batch, channels, s/stride, s/stride)`."""
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(maps)))))
        shortcut = maps
        if self.stride != 1 or self.padding:
            shortcut = maps[:, :, :: self.stride, :: self.stride]
            shortcut = F.pad(shortcut, (0, 0, 0, 0, self.padding, self.padding))
        return F.relu(out + shortcut)


class CifarResNet(nn.Module):
    """ResNet of 6n+2 layers for small images.

    Source: He et al., Deep Residual Learning for Image Recognition, CVPR 2016, section 4.2.
    The keys of its state dict are conv1, bn1, layer1.0.conv1 ... linear.

    Args:
        blocks: Blocks in each of the three stages, n of the paper: 3, 5, 9 for ResNet-20, 32, 56.
        num_classes: Size of the output.
        in_channels: Channels of the images.

    Example:
        >>> sum(p.numel() for p in CifarResNet(3).parameters())
        269722
    """

    def __init__(self, blocks: int, num_classes: int = 10, in_channels: int = 3) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(blocks, 16, 16, 1)
        self.layer2 = _stage(blocks, 16, 32, 2)
        self.layer3 = _stage(blocks, 32, 64, 2)
        self.linear = nn.Linear(64, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):  # as in the paper; nothing else departs from torch
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """Class scores, float `(batch, num_classes)`, of images `(batch, channels, size, size)`."""
        maps = F.relu(self.bn1(self.conv1(images)))  # (batch, 16, size, size)
        maps = self.layer3(self.layer2(self.layer1(maps)))  # (batch, 64, size/4, size/4)
        return self.linear(maps.mean((2, 3)))  # (batch, num_classes)


def _stage(blocks: int, in_channels: int, channels: int, stride: int) -> nn.Sequential:
    first = BasicBlock(in_channels, channels, stride)
    return nn.Sequential(first, *(BasicBlock(channels, channels, 1) for _ in range(blocks - 1)))
