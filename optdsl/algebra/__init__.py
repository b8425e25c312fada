"""Programs over the real numbers: exact normal forms, to decide equality and to read weights.

Nothing here makes code that runs: arithmetic over the reals is not that of floating point. Literals
are the decimals as which they are written, so that 0.95 * 0.98 is 0.931.
"""
