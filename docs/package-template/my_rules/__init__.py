"""Specifications of optimizers; optdsl reads the files beside this one."""
