"""Datasets of the suite as LightningDataModules."""

from __future__ import annotations

from hemp_lightning.suite.datasets.folder import ImageFolder, ImageNet
from hemp_lightning.suite.datasets.memory import Arrays, InMemory, TensorBatches
from hemp_lightning.suite.datasets.others import Pair, Torchvision
from hemp_lightning.suite.datasets.small import CIFAR10, CIFAR100, MNIST, Digits, FashionMNIST

__all__ = [
    "CIFAR10",
    "CIFAR100",
    "MNIST",
    "Arrays",
    "Digits",
    "FashionMNIST",
    "ImageFolder",
    "ImageNet",
    "InMemory",
    "Pair",
    "TensorBatches",
    "Torchvision",
]
