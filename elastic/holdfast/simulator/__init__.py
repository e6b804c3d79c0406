"""A whole job in one thread: the real coordinators, sessions and store, fake workers, a scheduler, checkers.

Rule: nothing here reads a clock or draws a number that does not come from a seed, so one seed is one trace. See
docs/simulator.md; `python -m holdfast.simulator --help` runs it.
"""
