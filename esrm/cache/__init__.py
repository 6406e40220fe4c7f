"""What is derived from a log and kept beside it, so that long logs answer quickly.

Two projections of the events, in one file (``vm.db-cache`` beside ``vm.db``): snapshots of the whole layout every
thousand events or so, and an index of who held what from when to when. Neither is ever needed: delete the file at any
time, and the next question that reads a long way makes it anew. Neither is ever believed without asking the log: each
carries the hash of the record that it ends with, and the version of the code that made it; what does not match is
thrown away. What cannot be written, as on read-only media, is not kept, and nobody is told.

That is against accidents, and against another log's cache (but an entry that a disk turned into zeros is not missed).
It is not against somebody who may write the file, since the hash stands in the log for all to copy. Whoever distrusts
the file deletes it. ``esrm verify`` replays without it.

Everything here answers at once and needs no event loop, since the command line asks it too.
Read ``file.py`` (the file), ``snapshots.py`` (the layout at a moment), ``tenancies.py`` (who held an address).
"""
