"""A whole job in one thread: the real coordinators, sessions and store, fake workers, a scheduler, checkers.

Rule: nothing here reads a clock or draws a number that does not come from the scheduler, so one seed is one trace.
"""
