"""The HCS-GCS bridge protocol: frames, messages, settings and errors.

Pure data and conversions, shared by the agent and the host tool (spec chapters 1 and 3).
"""
