"""For people who write stores and devices: the contracts as programs, and a fake that keeps one.

``stores.py`` checks that a store keeps its promises; ``devices.py`` has a device that keeps a device's, and a check for
devices of your own. No test framework is needed, nor imported.
"""

from esrm.testing.devices import FakeDevice, check_device
from esrm.testing.stores import (
    STORE_CHECKS,
    BytesCodec,
    Check,
    Factory,
    check_reopens,
    check_store,
    drafts,
    run_check,
)

__all__ = [
    "STORE_CHECKS",
    "BytesCodec",
    "Check",
    "Factory",
    "FakeDevice",
    "check_device",
    "check_reopens",
    "check_store",
    "drafts",
    "run_check",
]
