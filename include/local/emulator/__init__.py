"""A small, honest AWS on loopback: moto for the well-kept services, real jobs and endpoints for SageMaker.

At the top is the door: the server, its routes, and who may pass. The rooms behind it import each other one
way only: `endpoints` stands on `serving`; both, and `training`, on `resources`; all of them, and `moto`, on
`machine`; and that on `wire`.
"""
