"""A model and its training as torchtitan 0.3.0 takes them: a folder that is a package of its own.

`lpanas export --to torchtitan` copies these files beside a config_registry.py that it writes; they need torchtitan, numpy and
nothing of lpanas.
"""
