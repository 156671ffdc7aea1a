"""`moorage bench`: a closed loop of requests over kept connections, and what it measured.

`payload` makes the request, `connection` and `load` send it, `statistics` (pure) counts, `report` draws.
"""
