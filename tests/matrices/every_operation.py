"""A rule that uses every operation on matrices, twice where axes can be exchanged."""

EVERY_OPERATION = """
optimizer EveryMatrixOperation
  "no paper: a test"

hyper lr    = 0.1 in [0, 1]
hyper beta  = 0.7 in [0, 1]
hyper depth = 2   in {0, ..., 9}

def halved(x, n) = where(n > 0, halved(x / 2, n - 1), x)

for stacked matrices

state m = 0
state r : rows = 0
state c : cols = 1
state s : scalar = 0
state L : rows * rows = 0
state R : cols * cols = identity(cols)
state T : cols * rows = 0

m'     = ema(m, g, beta)
r'     = ema(r, mean(g^2 over cols), beta) + sum(theta over cols)
c'     = c + mean(m' over rows) * sum(g over rows)
s'     = s + mean(g) + sum(r') / rows + mean(g over tensor) + sum(m' over tensor) / cols
L'     = ema(L, g @ transpose(m'), beta) + identity(rows)
R'     = ema(R, transpose(g) @ m', beta) - sum(diagonal(R))
T'     = T + transpose(m') * beta + where(t > 1, transpose(float32(bfloat16(g))), 0)
update = L' @ m' @ R' + r' * c' + transpose(T') + s' + diagonal(L') + halved(m', depth)
theta' = theta - lr * update / (1 + rms(update))

otherwise

theta' = theta - lr * g
"""
