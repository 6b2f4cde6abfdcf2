"""The classifiers of the protocols, our own code, with torchvision's parameter names where it has them."""

from mgd3_fast.evaluate.networks.registry import (
    FIXED_NAMES,
    build_network,
    check_network_name,
    convnet_blocks,
)

__all__ = ["FIXED_NAMES", "build_network", "check_network_name", "convnet_blocks"]
