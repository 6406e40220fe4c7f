"""What a support engineer does with a log in a file: look at it and at the place it is in, and accept it as it stands.

Read ``log.py`` (the SQLites, the settings, the head file, who writes), ``place.py`` (names, permissions, the file
system), ``disk.py`` (what is measured there), ``findings.py`` (a verdict each), ``adoption.py`` (to accept a log).
"""
