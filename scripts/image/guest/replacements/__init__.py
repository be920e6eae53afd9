"""Modules of the standard library that start the agent sooner than the original does.

Unlike a substitute, a replacement stands for one module of a package. The original of
`re._compiler` is in the bundle, too, as `re._original_compiler`.
"""
