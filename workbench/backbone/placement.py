"""Where a backbone's weights lie: on one device, or its blocks spread over several.

A spread model runs as accelerate's hooks take its states from device to device. Whoever reads or
overwrites it need not know: states are handed out on one device, the backbone's ``device``, and
what comes back goes to where the block is.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from workbench.errors import BackboneError, MemoryLimitError

AUTO = "auto"
"""As a device: spread the blocks over all graphics cards, evenly."""
DeviceMap = Mapping[str, str | int]
"""Device by the name of a module in the checkpoint, or a card's number; ``""`` names the model."""
_ELSEWHERE = "Give each block one device that this machine has, all of them graphics cards"


def parse_device(name: str) -> torch.device:
    """The device of this name, if this machine has it.

    Raises:
        BackboneError: No such device.
    """
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise BackboneError(
            f"unknown device '{name}': use cpu, cuda, cuda:1 or mps, or auto, which spreads a "
            "backbone over all graphics cards"
        ) from error
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there.get(device.type, True):
        raise BackboneError(
            f"this torch sees no {device.type} device: use cpu, or a machine and a build of torch "
            "that have one"
        )
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise BackboneError(
            f"there is no {name}: torch sees {torch.cuda.device_count()} graphics cards, counted "
            "from cuda:0"
        )
    return device


def parse_map(device_map: DeviceMap) -> dict[str, torch.device]:
    """A map whose devices this machine has.

    Raises:
        BackboneError: An empty map, weights that would stay on disk, or a device that is not there.
    """
    if not device_map:
        raise BackboneError("the device map is empty: {'': 'cuda:0'} puts the model on one card")
    devices: dict[str, torch.device] = {}
    for module, wanted in device_map.items():
        if isinstance(wanted, str) and wanted in ("disk", "meta"):
            raise BackboneError(
                f"the device map leaves '{module}' on {wanted}: heads, adapters and the "
                f"fingerprint need weights that are in memory. {_ELSEWHERE}"
            )
        devices[module] = parse_device(f"cuda:{wanted}" if isinstance(wanted, int) else wanted)
    return devices


def devices_of(tensors: Iterable[Tensor]) -> tuple[torch.device, ...]:
    """Every device that holds one of the tensors, in their order."""
    return tuple(dict.fromkeys(tensor.device for tensor in tensors))


def check_spread(name: str, weights: Mapping[str, Tensor], model: nn.Module) -> None:
    """Look whether a spread model is spread by blocks, over devices of one kind.

    Raises:
        MemoryLimitError: Weights that found no room on the graphics cards.
        BackboneError: A block cut in two.
    """
    kinds = {device.type for device in devices_of(weights.values())}
    if len(kinds) > 1:
        raise MemoryLimitError(
            f"{name} lies partly on {' and partly on '.join(sorted(kinds))}: the graphics cards "
            "have no room for all of it, or the device map says so. Hold it in half the memory "
            "with --dtype bfloat16, take a smaller model or more cards"
        )
    for path, module in model.named_modules():
        if not isinstance(module, nn.ModuleList):
            continue
        for number, block in enumerate(module):
            if len(devices_of(block.parameters())) > 1:
                raise BackboneError(
                    f"the device map cuts {path}.{number} of {name} in two: a block lies on one "
                    f"device. {_ELSEWHERE}"
                )
