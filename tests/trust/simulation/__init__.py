"""Deterministic simulation: the real managers, subscriptions and projections in a world that a seed decides.

``loop.py`` is the scheduler: an asyncio event loop without threads, sockets or real time, in which dice choose what
runs next, and in which a process can die between any two awaits. ``disk.py`` is a store that fails in every way that a
store may. ``world.py`` is who lives there: processes that come and go, each with managers, subscribers, a projection.
``auditor.py`` judges all of it, and knows nothing but the records that stand and what callers were told.

``nursery.py`` has the same callers on trio.

A world is run by ``world.run(seed)``. The same seed is the same run, to the last choice.
"""
