"""The functions in C that round and draw: codecs, and random numbers as functions of a counter.

`optdsl.codecs` and `optdsl.runtime.core.draws` have the same arithmetic on tensors: in single and
in double precision the same bits, but for the logarithm, the cosine and the sine of normal numbers.
"""

from __future__ import annotations

import re

from optdsl.ir.draws import MULTIPLIERS, ROUNDS, SHIFT, UNIT, WEYL
from optdsl.ir.program import Program
from optdsl.ir.storage import stored

# Elements in single precision, of which steps are calculated in double precision.
WIDENED = """\
typedef float element;
static inline real load(element x) { return (real)x; }
static inline element rounded(real x) { return (element)x; }
"""
_BFLOAT16 = """\
/* States in bfloat16, the upper half of a float. */
typedef uint16_t bfloat16;
static inline real load_bfloat16(bfloat16 x) {
  const uint32_t bits = (uint32_t)x << 16;
  float y;
  memcpy(&y, &bits, sizeof y);
  return (real)y;
}
static inline bfloat16 rounded_bfloat16(real x) {  /* to nearest, ties to even */
  const float y = (float)x;
  uint32_t bits;
  memcpy(&bits, &y, sizeof bits);
  return (bfloat16)(y != y ? 0x7fc0u : (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}
APART static void put_bfloat16(bfloat16 *restrict to, const real *restrict from, int64_t n) {
  for (int64_t i = 0; i < n; i++) to[i] = rounded_bfloat16(from[i]);
}
"""
# `@` is the type of elements, `~` the end of names, `#` the suffix of the library's functions.
_AT_RANDOM = """\
/* Up or down, so that the mean is the number; the sign is the first bit, and so the next number
   away from zero is one more. What has no finite neighbours is rounded to the nearest. */
static inline @ at_random~(real x, real random) {
  const uint32_t nearest = rounded~(x);
  const real size = fabs#(x);
  /* Conditions as numbers of 32 bits: of those loops, compilers make vectors. */
  const uint32_t beyond = fabs#(load~((@)nearest)) > size ? 1u : 0u;
  const uint32_t toward = (nearest & 0x7fffu) - beyond;
  const real low = load~((@)toward), high = load~((@)(toward + 1u));
  const uint32_t away = random * (high - low) < size - low ? 1u : 0u;
  const uint32_t chosen = (nearest & 0x8000u) | (toward + away);
  return (@)(high <= LARGEST ? chosen : nearest);
}
"""
# The same of floats, whose upper halves are the neighbour toward zero.
_BFLOAT16_AT_RANDOM = """\
/* Up or down, so that the mean is the number; the next number away from zero is one more. What has
   no finite neighbours is rounded to the nearest. */
static inline @ at_random~(real x, real random) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  const uint32_t toward = bits & 0x7fff0000u, next = toward + 0x10000u;
  real low, high;
  memcpy(&low, &toward, sizeof low);
  memcpy(&high, &next, sizeof high);
  const uint32_t away = random * (high - low) < fabs#(x) - low ? 0x10000u : 0u;
  const uint32_t chosen = (bits & 0xffff0000u) + away;
  return (@)(high <= LARGEST ? chosen >> 16 : rounded~(x));
}
"""
_PUT_AT_RANDOM = """\
APART static void put_at_random~(@ *restrict to, const real *restrict from,
                                 const real *restrict random, int64_t n) {
  for (int64_t i = 0; i < n; i++) to[i] = at_random~(from[i], random[i]);
}
"""
_REST = """\
/* What rounding takes off; an infinity has no rest. */
static inline element rest(real x) {
  const real y = x - load(rounded(x));
  return rounded(fabs#(y) <= LARGEST ? y : 0);
}
"""
_BFLOAT16_REST = """\
/* What rounding takes off; an infinity has no rest. */
static inline element rest(real x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  bits = (bits + 0x7fffu + ((bits >> 16) & 1u)) & 0xffff0000u;
  real y;
  memcpy(&y, &bits, sizeof y);
  y = x - y;
  y = fabs#(y) <= LARGEST ? y : 0;
  memcpy(&bits, &y, sizeof bits);
  return (element)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}
"""
_PUT_WITH_REST = """\
APART static void put_with_rest(element *restrict to, element *restrict beside,
                                const real *restrict from, int64_t n) {
  for (int64_t i = 0; i < n; i++) to[i] = rounded(from[i]), beside[i] = rest(from[i]);
}
"""
_DRAWING = """\
/* Random words by Philox4x32-10 (Salmon et al., 2011), four for each counter of 128 bits. */
enum { ROUNDS = @ROUNDS@ };
#define LEFT @LEFT@u
#define RIGHT @RIGHT@u
#ifdef __AVX2__
/* Eight counters, in lanes of 64 bits of which the lower halves count: compilers make no such
   products of whole numbers of 32 bits. */
#include <immintrin.h>
typedef struct { __m256i a, b, c, d; } lanes;
static inline lanes after_round(lanes x, __m256i first, __m256i second) {
  const __m256i left = _mm256_mul_epu32(x.a, _mm256_set1_epi64x(LEFT));
  const __m256i right = _mm256_mul_epu32(x.c, _mm256_set1_epi64x(RIGHT));
  x.a = _mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi64(right, 32), x.b), first);
  x.c = _mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi64(left, 32), x.d), second);
  x.b = right, x.d = left;
  return x;
}
static inline void put_words(uint32_t *words, lanes x) {
  const __m256i ab = _mm256_blend_epi32(x.a, _mm256_slli_epi64(x.b, 32), 0xaa);
  const __m256i cd = _mm256_blend_epi32(x.c, _mm256_slli_epi64(x.d, 32), 0xaa);
  const __m256i even = _mm256_unpacklo_epi64(ab, cd), odd = _mm256_unpackhi_epi64(ab, cd);
  _mm256_storeu_si256((__m256i *)words, _mm256_permute2x128_si256(even, odd, 0x20));
  _mm256_storeu_si256((__m256i *)(words + 8), _mm256_permute2x128_si256(even, odd, 0x31));
}
static inline void eight_blocks(uint32_t *words, int64_t first, const uint32_t *high,
                                uint32_t (*keys)[2]) {
  const __m256i one = _mm256_add_epi64(_mm256_set1_epi64x(first), _mm256_setr_epi64x(0, 1, 2, 3));
  const __m256i two = _mm256_add_epi64(one, _mm256_set1_epi64x(4));
  const __m256i c = _mm256_set1_epi64x(high[0]), d = _mm256_set1_epi64x(high[1]);
  lanes x = {one, _mm256_srli_epi64(one, 32), c, d}, y = {two, _mm256_srli_epi64(two, 32), c, d};
  for (int r = 0; r < ROUNDS; r++) {
    const __m256i left = _mm256_set1_epi32((int)keys[r][0]);
    const __m256i right = _mm256_set1_epi32((int)keys[r][1]);
    x = after_round(x, left, right), y = after_round(y, left, right);
  }
  put_words(words, x), put_words(words + 16, y);
}
#endif
APART static void philox(uint32_t *restrict words, int64_t first, int64_t blocks,
                         const uint32_t *restrict high, const uint32_t *restrict key) {
  uint32_t keys[ROUNDS][2] = {{key[0], key[1]}};
  for (int r = 1; r < ROUNDS; r++)
    keys[r][0] = keys[r - 1][0] + @FIRST@u, keys[r][1] = keys[r - 1][1] + @SECOND@u;
  int64_t k = 0;
#ifdef __AVX2__
  for (; k + 8 <= blocks; k += 8) eight_blocks(words + 4 * k, first + k, high, keys);
#endif
  for (; k < blocks; k++) {
    uint32_t a = (uint32_t)(first + k), b = (uint32_t)((first + k) >> 32);
    uint32_t c = high[0], d = high[1];
    for (int r = 0; r < ROUNDS; r++) {
      const uint64_t left = LEFT * (uint64_t)a, right = RIGHT * (uint64_t)c;
      a = (uint32_t)(right >> 32) ^ b ^ keys[r][0], b = (uint32_t)right;
      c = (uint32_t)(left >> 32) ^ d ^ keys[r][1], d = (uint32_t)left;
    }
    words[4 * k] = a, words[4 * k + 1] = b, words[4 * k + 2] = c, words[4 * k + 3] = d;
  }
}

/* What is drawn under a name for a tensor at a counter. */
typedef struct { uint32_t key[2], counter[2]; const int64_t *origin; } stream;
APART static stream opened(const int64_t *origin, uint32_t low, uint32_t high, double counter) {
  const uint64_t seed = (uint64_t)origin[0], number = (uint64_t)origin[1];
  const uint32_t key[] = {(uint32_t)seed, (uint32_t)(seed >> 32)};
  const uint32_t own[] = {(uint32_t)number, (uint32_t)(number >> 32)};
  const double part = fmod(floor(counter), 18446744073709551616.0);
  const uint64_t whole = part < 0 ? 0 - (uint64_t)-part : (uint64_t)part;
  uint32_t words[4];
  philox(words, (int64_t)((uint64_t)high << 32 | low), 1, own, key);
  return (stream){{words[0], words[1]}, {(uint32_t)whole, (uint32_t)(whole >> 32)}, origin};
}

/* Numbers of 24 bits in [0, 1), of words; signs; and normal numbers, of two words each, two at a
   time (Box and Muller, 1958). */
APART static void uniform_numbers(real *restrict to, const uint32_t *restrict words, int64_t n) {
  for (int64_t i = 0; i < n; i++) to[i] = (real)(int32_t)(words[i] >> @SHIFT@) * (real)@UNIT@;
}
APART static void rademacher_numbers(real *restrict to, const uint32_t *restrict words, int64_t n) {
  for (int64_t i = 0; i < n; i++) to[i] = 1 - 2 * (real)(int32_t)(words[i] >> 31);
}
APART static void normal_numbers(real *restrict to, const uint32_t *restrict words, int64_t n) {
  for (int64_t i = 0; i < n; i += 2) {
    const real first = (real)(int32_t)((words[i] >> @SHIFT@) + 1) * (real)@UNIT@;
    const real radius = sqrt#(-2 * log#(first));
    const real second = (real)(int32_t)(words[i + 1] >> @SHIFT@) * (real)@UNIT@;
    const real angle = (real)6.283185307179586 * second;
    to[i] = radius * cos#(angle), to[i + 1] = radius * sin#(angle);
  }
}

/* The index in the whole tensor of an element, and how many follow on from it. */
static int64_t whole_index(const int64_t *origin, int64_t i, int64_t *run) {
  int64_t index = origin[2];
  if (!origin[3]) return index + i;
  for (int64_t k = origin[3] - 1; k >= 0; k--) {
    const int64_t length = origin[4 + 2 * k], place = i % length;
    if (k == origin[3] - 1 && length - place < *run) *run = length - place;
    index += place * origin[5 + 2 * k];
    i /= length;
  }
  return index;
}

/* The numbers for up to a chunk of elements. */
APART static void drawn(real *to, void (*numbers)(real *, const uint32_t *, int64_t),
                        const stream *from, int64_t start, int64_t n) {
  uint32_t words[CHUNK + 8];
  real made[CHUNK + 8];
  while (n > 0) {
    int64_t run = n;
    const int64_t index = whole_index(from->origin, start, &run), before = index % 4;
    const int64_t blocks = (before + run + 3) / 4;
    philox(words, index / 4, blocks, from->counter, from->key);
    numbers(made, words, 4 * blocks);
    memcpy(to, made + before, (size_t)run * sizeof *to);
    to += run, start += run, n -= run;
  }
}
APART static real drawn_alone(void (*numbers)(real *, const uint32_t *, int64_t),
                             const int64_t *origin, uint32_t low, uint32_t high, double counter) {
  const stream from = opened(origin, low, high, counter);
  uint32_t words[4];
  real made[4];
  philox(words, 0, 1, from.counter, from.key);
  numbers(made, words, 4);
  return made[0];
}
"""


def coding(program: Program, dtype: str, double: bool) -> list[str]:
    """The functions that the codecs of a program need, for parameters of a dtype.

    Args:
        program: it says how what is stored.
        dtype: of `optdsl.backends.base.DTYPES`.
        double: whether steps are calculated in double precision.
    """
    found = []
    codecs = stored(program).values()
    found += [_BFLOAT16] if any(c.buffers[0].dtype == "bfloat16" for c in codecs) else []
    for kind in dict.fromkeys(codec.buffers[0].dtype for codec in codecs if codec.draws):
        if kind or dtype in {"bfloat16", "float16"}:
            quick = (kind or dtype) == "bfloat16" and not double
            text = (_BFLOAT16_AT_RANDOM if quick else _AT_RANDOM) + _PUT_AT_RANDOM
            found.append(text.replace("@", kind or "element").replace("~", f"_{kind}" * bool(kind)))
    if any(codec.buffers[1:] for codec in codecs):
        found.append((_BFLOAT16_REST if dtype == "bfloat16" else _REST) + _PUT_WITH_REST)
    return [text.replace("#", "" if double else "f") for text in found]


def drawing(double: bool) -> str:
    """The functions that draw random numbers, in double precision or not."""
    words = dict(zip(("LEFT", "RIGHT", "FIRST", "SECOND"), (*MULTIPLIERS, *WEYL), strict=True))
    numbers = {name: hex(word) for name, word in words.items()}
    numbers |= {"ROUNDS": str(ROUNDS), "SHIFT": str(SHIFT), "UNIT": repr(UNIT)}
    text = _DRAWING
    for name, number in numbers.items():
        text = text.replace(f"@{name}@", number)
    # The directives of the preprocessor begin a line.
    return re.sub(r"(?<!^)#", "" if double else "f", text, flags=re.MULTILINE)
