"""The rows of the benchmark, a module a family; ``tools/bench.py`` runs them. Read ``measure.py`` first.

The families enter their rows as they are imported, in the order of the page.
"""

from importlib import import_module

for _family in ("replaying", "appending", "placing", "footprint"):
    import_module(f"{__name__}.{_family}")
