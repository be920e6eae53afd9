"""Network adapters of pods: finding them, and moving and configuring them in a worker process."""
