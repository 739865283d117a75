"""An endpoint through its life.

Its operations, its state, the requests to it, and the way from one fleet to the next: step by step, with
alarms that lead back.
"""
