"""What SageMaker keeps under a name.

The store of every resource, and those that are nothing but kept: models, endpoint configs, model packages.
Nothing runs here.
"""
