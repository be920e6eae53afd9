"""Scripts the build runs with the image's own interpreter; they import the standard library alone.

Each is read and handed to that interpreter as text, so it may not import its neighbours.
"""
