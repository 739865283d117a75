"""A small, honest AWS on loopback: moto for the well-kept services, real jobs and endpoints for SageMaker."""
