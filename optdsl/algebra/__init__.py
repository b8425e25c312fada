"""Exact algebra on programs over the real numbers, to prove equality and to read off weights.

Floating-point arithmetic does not obey these laws, so nothing here changes the code that runs. A
literal stands for the decimal number that is written, so that 0.95 * 0.98 is exactly 0.931.
"""
