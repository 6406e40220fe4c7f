"""The pure core: no await, no clock, no disk, no randomness. Start with ``decide.py``, ``events.py``, ``state.py``."""
