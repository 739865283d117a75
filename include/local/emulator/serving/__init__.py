"""What an endpoint config is at work.

Model servers and their variants, and what becomes of a request besides its answer: metrics, captured data, a
shadow's copy. Knows configs, and no endpoint.
"""
