"""Jobs that really run.

Training jobs, from a request to artefacts on S3 by way of a script in its own process, and tuning jobs, which
search by starting training jobs.
"""
