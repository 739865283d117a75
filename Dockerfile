# Astro Runtime for Airflow 3.3, pinned. `astro dev start` builds this; so does a deployment.
FROM astrocrpublic.azurecr.io/runtime:3.3-2

# RecList, the gate's suite, and TensorFlow, for the laptop's training jobs and endpoints, conflict with
# Airflow's packages: they live in an environment of their own that the scheduler never imports.
COPY --chown=astro:0 requirements/ml.txt requirements/ml.txt
RUN python -m venv .venv-ml \
    && .venv-ml/bin/pip install --no-cache-dir --no-deps --require-hashes -r requirements/ml.txt

# Cosmos draws the transform group from this manifest, so that parsing a DAG runs no dbt.
RUN python -m include.local.dbt_manifest

# Every AWS client tries a call five times, with growing pauses, before its task fails and is retried later.
ENV AWS_RETRY_MODE=standard \
    AWS_MAX_ATTEMPTS=5 \
    AIRFLOW__COSMOS__ENABLE_TELEMETRY=False \
    DO_NOT_TRACK=1 \
    PMS_ML_PYTHON=/usr/local/airflow/.venv-ml/bin/python
