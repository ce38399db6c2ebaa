"""Says whether images can be built here, what kind of cluster this is, and what to change.

docs/doctor.md has every check. A check is a function of a :class:`~buildsvc.doctor.place.Place` and
of what was tried in it; it changes nothing.
"""
