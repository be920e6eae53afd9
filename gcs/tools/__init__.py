"""Helper programs of the image, which hooks and hosts run (spec 7.4 to 7.7).

Each starts an interpreter of its own, in the midst of the creation of a container: these modules
import next to nothing.
"""
