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

# The same of an axis that the rule declares.
OWN_AXES = """
optimizer EveryOperationOfAnAxis
  "no paper: a test"

hyper lr   = 0.1 in [0, 1]
hyper beta = 0.7 in [0, 1]
hyper rank = 2   in {1, ..., inf}
hyper gap  = 3   in {1, ..., inf}

def length(x over a) = sqrt(sum(x^2 over a))

for stacked matrices

axis k = min(rank, rows)

state P : rows * k = 0
state m : k * cols = 0
state n : cols * k = 1
state d : k = 0
state q : k * k = identity(k)

P'     = where(mod(t - 1, gap) == 0, singular_vectors(g, k), P)
h      = transpose(P') @ g
m'     = ema(m, h, beta)
n'     = n + transpose(h) * beta
d'     = ema(d, sum(h^2 over cols), beta) + diagonal(q) / k + mean(transpose(n') over cols)
q'     = q + h @ transpose(m') + rows(m') * identity(k)
back   = P' @ (q' @ m' / (1 + d')) + length(h over k) + mean(m' over k) + mean(P' over k)
alone  = mean(transpose(n') over cols) + sum(transpose(P') over rows)
large  = max(m') + min(n') + min(g over rows) + max(g over cols) + min(m' over k) + max(P' over k)
whole  = max(g over tensor) - min(g over tensor) + max(m' over k) - min(P' over k)
edges  = max(theta over rows) - min(theta over cols)
update = back + large + whole + edges + sum(alone) + mean(m') * cols(transpose(m'))
theta' = theta - lr * update / (1 + rms(update))

otherwise

theta' = theta - lr * g
"""
