"""LeNet-5 and LeNet-300-100, the two small networks that compression papers compare on."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class LeNet5(nn.Module):
    """LeNet-5 in the Caffe form 20-50-500-10, with ReLU and max pooling.

    431,080 parameters on 28x28 images of one channel, the count that compression papers quote.
    Source: LeCun et al., Gradient-based learning applied to document recognition, 1998, in the
    version of Han et al., Deep Compression, 2016.

    Args:
        num_classes: Size of the output.
        in_channels: Channels of the images.
        image_size: Height and width of the images in pixels, at least 16.

    Example:
        >>> sum(p.numel() for p in LeNet5().parameters())
        431080
    """

    def __init__(self, num_classes: int = 10, in_channels: int = 1, image_size: int = 28) -> None:
        super().__init__()
        side = ((image_size - 4) // 2 - 4) // 2
        self.conv1 = nn.Conv2d(in_channels, 20, 5)
        self.conv2 = nn.Conv2d(20, 50, 5)
        self.fc1 = nn.Linear(50 * side * side, 500)
        self.fc2 = nn.Linear(500, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Class scores, float `(batch, num_classes)`, of images `(batch, channels, size, size)`."""
        maps = F.max_pool2d(F.relu(self.conv1(images)), 2)  # (batch, 20, 12, 12) for 28x28
        maps = F.max_pool2d(F.relu(self.conv2(maps)), 2)  # (batch, 50, 4, 4)
        return self.fc2(F.relu(self.fc1(maps.flatten(1))))  # (batch, num_classes)


class LeNet300(nn.Module):
    """LeNet-300-100: two hidden layers, fully connected, 266,610 parameters on 28x28 images.

    Args:
        num_classes: Size of the output.
        in_channels: Channels of the images.
        image_size: Height and width of the images in pixels.

    Example:
        >>> sum(p.numel() for p in LeNet300().parameters())
        266610
    """

    def __init__(self, num_classes: int = 10, in_channels: int = 1, image_size: int = 28) -> None:
        super().__init__()
        self.fc1 = nn.Linear(in_channels * image_size * image_size, 300)
        self.fc2 = nn.Linear(300, 100)
        self.fc3 = nn.Linear(100, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Class scores, float `(batch, num_classes)`, of images `(batch, channels, size, size)`."""
        hidden = F.relu(self.fc1(images.flatten(1)))  # (batch, 300)
        return self.fc3(F.relu(self.fc2(hidden)))  # (batch, num_classes)
