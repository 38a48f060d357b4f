"""The kernels the benchmark launches, as plain functions: each path decorates them with its own `jit`.

Every kernel that has a pointer counts its launches in it, so that the benchmark can check that they happened; the last
three, which double a tensor, are checked by what they wrote.  Imports nothing of lowlat: `fbtriton.py` runs without.
"""

import triton.language as tl

STEP = tl.constexpr(1)
FIRST = tl.constexpr(0)


def no_parameters():
    pass


def median_call(p0, p1, p2, p3, p4, n0, n1, s0, s1, A: tl.constexpr, B: tl.constexpr, C: tl.constexpr, D: tl.constexpr,
                E: tl.constexpr, F: tl.constexpr):
    tl.atomic_add(p0, 1)


def with_defaults(p0, p1, p2, p3, p4, n0, n1, s0, s1, A: tl.constexpr = 64, B: tl.constexpr = 32,
                  C: tl.constexpr = True, D: tl.constexpr = None, E: tl.constexpr = "x", F: tl.constexpr = 128):
    tl.atomic_add(p0, 1)


def reads_globals(p0, p1, n0, C0: tl.constexpr):
    tl.atomic_add(p0 + FIRST, STEP)


def descriptor(p0, block, rows, columns, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    loaded = block.load([0, 0])
    to = tl.arange(0, ROWS)[:, None] * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    tl.store(p0 + 16 + to, loaded.to(tl.int32))
    tl.atomic_add(p0, 1)


def parameters_4(p0, p1, n0, C0: tl.constexpr):
    tl.atomic_add(p0, 1)


def parameters_19(p0, p1, p2, p3, p4, n0, n1, n2, n3, n4, n5, n6, n7, n8, C0: tl.constexpr, C1: tl.constexpr,
                  C2: tl.constexpr, C3: tl.constexpr, C4: tl.constexpr):
    tl.atomic_add(p0, 1)


def parameters_32(p0, p1, p2, p3, p4, p5, p6, p7, n0, n1, n2, n3, n4, n5, n6, n7, n8, n9, n10, n11, n12, n13,
                  C0: tl.constexpr, C1: tl.constexpr, C2: tl.constexpr, C3: tl.constexpr, C4: tl.constexpr,
                  C5: tl.constexpr, C6: tl.constexpr, C7: tl.constexpr, C8: tl.constexpr, C9: tl.constexpr):
    tl.atomic_add(p0, 1)


def parameters_58(p0, p1, p2, p3, p4, p5, p6, p7, p8, p9, p10, p11, p12, p13, n0, n1, n2, n3, n4, n5, n6, n7, n8, n9,
                  n10, n11, n12, n13, n14, n15, n16, n17, n18, n19, n20, n21, n22, n23, n24, n25, C0: tl.constexpr,
                  C1: tl.constexpr, C2: tl.constexpr, C3: tl.constexpr, C4: tl.constexpr, C5: tl.constexpr,
                  C6: tl.constexpr, C7: tl.constexpr, C8: tl.constexpr, C9: tl.constexpr, C10: tl.constexpr,
                  C11: tl.constexpr, C12: tl.constexpr, C13: tl.constexpr, C14: tl.constexpr, C15: tl.constexpr,
                  C16: tl.constexpr, C17: tl.constexpr):
    tl.atomic_add(p0, 1)


def tensors_17(p0, p1, p2, p3, p4, p5, p6, p7, p8, p9, p10, p11, p12, p13, p14, p15, p16):
    tl.atomic_add(p0, 1)


def tensors_1(p0):
    tl.atomic_add(p0, 1)


def scalars_16(p0, n0, n1, n2, n3, n4, n5, n6, n7, n8, n9, n10, n11, n12, n13, n14, n15):
    tl.atomic_add(p0, 1)


def constexprs_16(p0, C0: tl.constexpr, C1: tl.constexpr, C2: tl.constexpr, C3: tl.constexpr, C4: tl.constexpr,
                  C5: tl.constexpr, C6: tl.constexpr, C7: tl.constexpr, C8: tl.constexpr, C9: tl.constexpr,
                  C10: tl.constexpr, C11: tl.constexpr, C12: tl.constexpr, C13: tl.constexpr, C14: tl.constexpr,
                  C15: tl.constexpr):
    tl.atomic_add(p0, 1)


def double(x, y, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y + i, tl.load(x + i, mask=i < n) * 2, mask=i < n)


def double_short(x, a, y, n, stride, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y + i, tl.load(x + i * stride, mask=i < n) * a, mask=i < n)


def double_long(x, a, b, c, d, e, f, g, h, y, n, stride, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y + i, tl.load(x + i * stride, mask=i < n) * a, mask=i < n)
