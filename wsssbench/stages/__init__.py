"""The pipeline's stages as functions: notebooks, the command line and tests call the same ones.

Each stage reads a profile and the outputs of the stages before it and writes one directory.
"""
