"""Where records rest: bytes in order. Stores have never heard of events; a codec comes from outside.

Read ``records.py`` (what is kept), ``chain.py`` (why it cannot be changed unseen), ``base.py`` (what every store
promises), then ``memory.py`` (the promise in a hundred lines) and ``sqlite/`` (the promise on a disk).
Nothing is imported here, so that a synchronous reader starts without an event loop.
"""
