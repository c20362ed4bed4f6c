"""Published encoders, trained by the same loop as ours to check that the loop and the protocol are sound.

They are compared, never exported: neither has a state of fixed size that one event moves in constant time and that
``models.graphs`` could write down.
"""
