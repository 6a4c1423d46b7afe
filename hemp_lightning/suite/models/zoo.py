"""The table of networks and the one function that builds them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import torchvision
from torch import nn

from hemp_lightning.suite.models.cifar_resnet import CifarResNet
from hemp_lightning.suite.models.lenet import LeNet5, LeNet300

_log = logging.getLogger(__name__)

SMALL_IMAGE = 64  # up to this size torchvision's networks get the stem for small images


@dataclass(frozen=True)
class _Entry:
    make: Callable[[int, int, int], nn.Module]  # num_classes, in_channels, image_size
    num_classes: int  # the usual ones of that name
    in_channels: int
    image_size: int
    smallest: int  # the least height and width that its pooling leaves something of
    torchvision: bool = False


def build(
    name: str,
    num_classes: int | None = None,
    in_channels: int | None = None,
    image_size: int | None = None,
    pretrained: bool = False,
) -> nn.Module:
    """Build a network of the suite by its name.

    torchvision's networks get, for images of at most 64x64 pixels, the stem that is usual there:
    a 3x3 first convolution of stride 1 (no early pooling), and for VGG one linear layer on the
    pooled features in place of three.

    Args:
        name: One of `MODELS`.
        num_classes: Size of the output; None for the usual one of that name.
        in_channels: Channels of the images; None for the usual ones.
        image_size: Height and width of the images in pixels; None for the usual one.
        pretrained: Load torchvision's ImageNet weights (downloaded once) wherever the shapes agree;
            layers that differ (stem, head) stay new and are named in a log line.

    Returns:
        The network, in training mode, parameters float32.

    Raises:
        ValueError: The name is unknown, the size is too small for the network, or it has no
            pretrained weights.

    Example:
        >>> sum(p.numel() for p in build("lenet5").parameters())
        431080
    """
    if name not in MODELS:
        raise ValueError(f"`model.name`: expected one of {', '.join(MODELS)}; found {name!r}")
    entry = MODELS[name]
    num_classes = entry.num_classes if num_classes is None else num_classes
    in_channels = entry.in_channels if in_channels is None else in_channels
    image_size = entry.image_size if image_size is None else image_size
    if num_classes < 1 or in_channels < 1:
        raise ValueError(
            f"`num_classes` and `in_channels` of {name}: expected 1 or more; "
            f"found {num_classes} and {in_channels}"
        )
    if image_size < entry.smallest:
        raise ValueError(
            f"`image_size`: {name} takes images of {entry.smallest}x{entry.smallest} pixels or "
            f"larger; found {image_size}x{image_size}. Choose another model, or a larger "
            f"`dataset.image_size` where the dataset has that option"
        )
    if pretrained and not entry.torchvision:
        raise ValueError(
            f"`model.pretrained`: {name} has no weights in torchvision; give `model.checkpoint` "
            f"a file instead"
        )
    network = entry.make(num_classes, in_channels, image_size)
    if pretrained:
        _load_matching(network, getattr(torchvision.models, name)(weights="DEFAULT"), name)
    return network


def _resnet(name: str) -> Callable[[int, int, int], nn.Module]:
    def make(num_classes: int, in_channels: int, image_size: int) -> nn.Module:
        network = getattr(torchvision.models, name)(num_classes=num_classes)
        if image_size <= SMALL_IMAGE:
            network.conv1 = nn.Conv2d(in_channels, 64, 3, 1, 1, bias=False)
            network.maxpool = nn.Identity()
        elif in_channels != 3:
            network.conv1 = nn.Conv2d(in_channels, 64, 7, 2, 3, bias=False)
        return network

    return make


def _vgg(name: str) -> Callable[[int, int, int], nn.Module]:
    def make(num_classes: int, in_channels: int, image_size: int) -> nn.Module:
        small = image_size <= SMALL_IMAGE
        # The three large linear layers are 90 % of a VGG: where they go, do not fill them first.
        network = getattr(torchvision.models, name)(num_classes=num_classes, init_weights=not small)
        if small:
            network.avgpool = nn.AdaptiveAvgPool2d(1)
            network.classifier = nn.Linear(512, num_classes)
            for module in network.features:
                if isinstance(module, nn.Conv2d):
                    nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if in_channels != 3:
            network.features[0] = nn.Conv2d(in_channels, 64, 3, 1, 1)
        return network

    return make


def _mobilenet_v2(num_classes: int, in_channels: int, image_size: int) -> nn.Module:
    network = torchvision.models.mobilenet_v2(num_classes=num_classes)
    small = image_size <= SMALL_IMAGE
    if small or in_channels != 3:
        network.features[0][0] = nn.Conv2d(in_channels, 32, 3, 1 if small else 2, 1, bias=False)
    if small:
        network.features[2].conv[1][0].stride = (1, 1)  # the first halving inside the blocks
    return network


def _load_matching(network: nn.Module, source: nn.Module, name: str) -> None:
    """Copy the tensors whose name and shape agree; name the others in the log."""
    own = network.state_dict()
    found = {k: v for k, v in source.state_dict().items() if k in own and own[k].shape == v.shape}
    network.load_state_dict(found, strict=False)
    new = sorted(set(own) - set(found))
    if new:
        _log.warning("%s: pretrained weights do not fit, left new: %s", name, ", ".join(new))


MODELS: dict[str, _Entry] = {
    "lenet5": _Entry(LeNet5, 10, 1, 28, 16),
    "lenet300": _Entry(LeNet300, 10, 1, 28, 1),
    "resnet20": _Entry(lambda n, c, _: CifarResNet(3, n, c), 10, 3, 32, 8),
    "resnet32": _Entry(lambda n, c, _: CifarResNet(5, n, c), 10, 3, 32, 8),
    "resnet56": _Entry(lambda n, c, _: CifarResNet(9, n, c), 10, 3, 32, 8),
    "resnet18": _Entry(_resnet("resnet18"), 1000, 3, 224, 16, True),
    "resnet34": _Entry(_resnet("resnet34"), 1000, 3, 224, 16, True),
    "resnet50": _Entry(_resnet("resnet50"), 1000, 3, 224, 16, True),
    "vgg11_bn": _Entry(_vgg("vgg11_bn"), 1000, 3, 224, 32, True),
    "vgg16_bn": _Entry(_vgg("vgg16_bn"), 1000, 3, 224, 32, True),
    "mobilenet_v2": _Entry(_mobilenet_v2, 1000, 3, 224, 32, True),
}
"""Networks by name: how each is built, and its usual classes, channels and image size."""
