"""What the tests share: scripted and real servers, recorded streams, a clock.

Nothing here is part of the package, and nothing here may import it, ``clock`` apart.
"""
