"""Networks of containers and pods: what a person asks for, adapters, namespaces."""
