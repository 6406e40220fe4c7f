"""The pure core: no await, no clock, no disk, no randomness. Start with ``decide.py``, then ``events.py``, ``state.py``."""
