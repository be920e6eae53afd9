"""Container images as files: ``docker save`` archives, OCI archives, OCI layout directories."""
