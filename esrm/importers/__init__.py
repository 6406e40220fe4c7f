"""Layouts that were not made here: what other systems say about a machine, read into esrm's terms."""
