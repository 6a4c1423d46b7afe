"""Networks of other libraries, by their names there, in the form that the suite trains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torchvision as vision
from torch import Tensor, nn

KINDS = {
    "image_classification": ("AutoModelForImageClassification", "pixel_values"),
    "sequence_classification": ("AutoModelForSequenceClassification", "input_ids"),
}
"""Classes of transformers, and what they call their input."""


def torchvision(
    name: str,
    num_classes: int | None = None,
    in_channels: int = 3,
    pretrained: bool = False,
    **options: Any,
) -> nn.Module:
    """A network of `torchvision.models` by its name there.

    Args:
        name: One of `torchvision.models.list_models()`.
        num_classes: Size of the output; None for ImageNet's 1,000.
        in_channels: Channels of the images; the first convolution is made anew if they are not 3.
        pretrained: Load its weights, but of layers whose shapes differ.
        **options: What the function of that name takes.

    Raises:
        ValueError: There is no such network.

    Example:
        >>> network = torchvision("shufflenet_v2_x0_5", num_classes=10)
        >>> sum(p.numel() for p in network.parameters())
        352042
    """
    try:
        builder = vision.models.get_model_builder(name)
    except ValueError:
        raise ValueError(
            f"`model.name`: expected one of torchvision.models.list_models(); found {name!r}"
        ) from None
    if num_classes is not None:
        options["num_classes"] = num_classes
    network = builder(**options)
    _take_channels(network, in_channels)
    if pretrained:
        own = network.state_dict()
        source = builder(weights="DEFAULT").state_dict()
        fitting = {k: v for k, v in source.items() if k in own and own[k].shape == v.shape}
        network.load_state_dict(fitting, strict=False)
    return network


def timm(
    name: str,
    num_classes: int | None = None,
    in_channels: int = 3,
    pretrained: bool = False,
    **options: Any,
) -> nn.Module:
    """A network of timm by its name there.

    Args:
        name: One of `timm.list_models()`.
        num_classes: Size of the output; None for the usual one.
        in_channels: Channels of the images.
        pretrained: Load its weights, as timm does.
        **options: What `timm.create_model` takes.

    Raises:
        ModuleNotFoundError: timm is not installed.
        ValueError: timm knows no such network.
    """
    library = _need("timm", "model=timm")
    if num_classes is not None:
        options["num_classes"] = num_classes
    try:
        return library.create_model(name, pretrained=pretrained, in_chans=in_channels, **options)
    except RuntimeError as error:
        if "Unknown model" not in str(error):
            raise
        raise ValueError(
            f"`model.name`: expected one of timm.list_models(); found {name!r}"
        ) from error


class Transformers(nn.Module):
    """A classifier of transformers that maps a tensor to scores, as the suite's tasks expect.

    The keys of its state dict begin with `body.`.

    Args:
        path: Folder with `config.json`, and with weights if `pretrained`; or a name on the hub.
        kind: One of `KINDS`.
        num_classes: Size of the output; None for that of the configuration.
        pretrained: Load the weights, and not only the configuration.

    Raises:
        ModuleNotFoundError: transformers is not installed.
        ValueError: `kind` is unknown, or the folder holds no configuration.
    """

    def __init__(
        self,
        path: str,
        kind: str = "image_classification",
        num_classes: int | None = None,
        pretrained: bool = False,
    ) -> None:
        super().__init__()
        if kind not in KINDS:
            raise ValueError(f"`model.kind`: expected one of {', '.join(KINDS)}; found {kind!r}")
        library = _need("transformers", "model=transformers")
        if Path(path).is_dir() and not (Path(path) / "config.json").is_file():
            raise ValueError(f"`model.path`: expected a folder with config.json; found {path}")
        name, self.word = KINDS[kind]
        library.utils.logging.disable_progress_bar()  # of reading weights, which takes no time
        more = {} if num_classes is None else {"num_labels": num_classes}
        settings = library.AutoConfig.from_pretrained(path, **more)
        maker = vars(library).get(name) or library.__getattr__(name)
        if pretrained:
            self.body = maker.from_pretrained(path, config=settings, ignore_mismatched_sizes=True)
        else:
            self.body = maker.from_config(settings)
        self.body.train()

    def forward(self, inputs: Tensor) -> Tensor:
        """Class scores, float `(batch, num_classes)`, of images or of token numbers."""
        return self.body(**{self.word: inputs}).logits


def _need(package: str, word: str) -> Any:
    try:
        return __import__(package)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"`{word}` needs the package {package}; it is not installed. Type pip install "
            f"{package}",
            name=package,
        ) from error


@torch.no_grad()
def _take_channels(network: nn.Module, in_channels: int) -> None:
    """Make the first convolution anew for another number of channels."""
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            if module.in_channels == in_channels:
                return
            new = nn.Conv2d(
                in_channels,
                module.out_channels,
                module.kernel_size,  # type: ignore[arg-type]
                module.stride,  # type: ignore[arg-type]
                module.padding,  # type: ignore[arg-type]
                bias=module.bias is not None,
            )
            parent, _, own = name.rpartition(".")
            setattr(network.get_submodule(parent), own, new)
            return
