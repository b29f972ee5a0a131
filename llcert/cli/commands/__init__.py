"""The commands, one file each: their options, and a function that imports the rest when it runs.

Nothing here imports torch, so that `llcert --help` answers at once. A command that prints more than a few lines has a
file of its own for that beside this package.
"""
