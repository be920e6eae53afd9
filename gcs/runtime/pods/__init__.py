"""Kinds of containers: a pod's sandbox, a pod's workload, a container of its own (spec 4.2-4.6).

:func:`gcs.runtime.pods.plan.plan_container` says what a container is and what it needs;
:mod:`gcs.runtime.pods.pipeline` edits its specification, the same way for every kind.
"""
