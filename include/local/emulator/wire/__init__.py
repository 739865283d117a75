"""How AWS speaks.

Which operation a request is, whether botocore's model of SageMaker allows it, errors in AWS's words, and
those that come on demand. Imports none of the other rooms.
"""
