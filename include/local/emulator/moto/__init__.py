"""What moto lacks, put around it.

A memory: buckets as files, log lines, and a journal of the other services' changes, so that what a client was
told is there after a kill. And the resources of `include/cloud/aws.yaml` that moto's CloudFormation lacks.
"""
