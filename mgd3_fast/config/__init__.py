"""What every command is asked to do: frozen configurations, checked when they are made.

A command that needs what the stage before it needs grows from that one's configuration: `EncodeConfig` into
`DiscoverConfig`, and that into `DistillConfig`. The command line reads its options, defaults and help from
their fields. Importing this package loads nothing but these.
"""

from mgd3_fast.config.discover import DiscoverAndPlotConfig, DiscoverConfig
from mgd3_fast.config.distill import DistillConfig
from mgd3_fast.config.encode import EncodeConfig, EncodeShareConfig
from mgd3_fast.config.sampling import SamplingDefaults

__all__ = [
    "DiscoverAndPlotConfig",
    "DiscoverConfig",
    "DistillConfig",
    "EncodeConfig",
    "EncodeShareConfig",
    "SamplingDefaults",
]
