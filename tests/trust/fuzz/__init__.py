"""Fuzzing: whatever bytes come, only declared exceptions may come out.

``targets.py`` says what is tried and what may come out of it; ``blind.py`` tries mutants of real inputs as fast as it
can, on any Python; ``guided.py`` looks for new paths by coverage where atheris is installed. ``../test_fuzz.py`` runs
both; ``python tests/trust/fuzz TARGET FILE`` tries one input again.
"""
