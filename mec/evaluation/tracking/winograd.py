"""Frozen convolutions of 3 x 3 on a CPU by a fifth of the multiplications: F(6 x 6, 3 x 3) of Lavin and Gray, 2016."""

import numpy as np
import torch
from numpy import float32 as f32
from torch import Tensor, nn

from mec.views.augment_cpu import compiled, inlined

TWO, HALF, Q, E, S, T = (f32(2.0**n) for n in (1, -1, -2, -3, -4, -5))
C4, C5, C8, C16, C32 = (f32(n) for n in (4, 5, 8, 16, 32))
A, B, C, D = (f32(n) for n in (5.25, 4.25, 1.25, 2.5))
# What turns a kernel, in 90ths; tiles and results are turned by the loops below, in the same order.
KERNEL = [[90, 0, 0], [-20, -20, -20], [-20, 20, -20], [1, 2, 4], [1, -2, 4], [64, 32, 16], [64, -32, 16], [0, 0, 90]]


# Every number is named by its place in a whole array: of slices the compiler does not see that they lie in a row.
@inlined
def turn_(x, y, t):
    """Each column of x [8, 8, c] -> each row of y[:, :, t], of [8, 8, tiles, c]."""
    for q in range(8):
        for i in range(y.shape[3]):
            a, b, c, d = x[0, q, i], x[1, q, i], x[2, q, i], x[3, q, i]
            e, f, g, h = x[4, q, i], x[5, q, i], x[6, q, i], x[7, q, i]
            y[q, 0, t, i] = a - g + A * (e - c)
            y[q, 7, t, i] = h - b + A * (d - f)
            even, odd = c - B * e + g, b - B * d + f
            y[q, 1, t, i], y[q, 2, t, i] = even + odd, even - odd
            even, odd = Q * c - C * e + g, HALF * b - D * d + TWO * f
            y[q, 3, t, i], y[q, 4, t, i] = even + odd, even - odd
            even, odd = C4 * c - C5 * e + g, TWO * b - D * d + HALF * f
            y[q, 5, t, i], y[q, 6, t, i] = even + odd, even - odd


@inlined
def sum_(x, t, y):
    """Each column of x[:, :, t], of [8, n, tiles, k] -> each row of y [n, 6, 1, k]."""
    for q in range(x.shape[1]):
        for i in range(x.shape[3]):
            b, c, d = x[1, q, t, i], x[2, q, t, i], x[3, q, t, i]
            e, f, g = x[4, q, t, i], x[5, q, t, i], x[6, q, t, i]
            one, two, half, of_one, of_two, of_half = b + c, d + e, f + g, b - c, d - e, f - g
            y[q, 0, 0, i] = x[0, q, t, i] + one + two + half
            y[q, 1, 0, i] = of_one + TWO * of_two + HALF * of_half
            y[q, 2, 0, i] = one + C4 * two + Q * half
            y[q, 3, 0, i] = of_one + C8 * of_two + E * of_half
            y[q, 4, 0, i] = one + C16 * two + S * half
            y[q, 5, 0, i] = of_one + C32 * of_two + T * of_half + x[7, q, t, i]


@compiled
def turn_tiles(cells, tiles):
    """Cells [h, w, c], zeros beyond -> tiles [8, 8, down * across, c], each six cells from the last."""
    h, w, c = cells.shape
    tile, half = np.empty((8, 8, c), f32), np.empty((8, 8, 1, c), f32)
    across = -(-w // 6)
    for t in range(tiles.shape[2]):
        for r in range(8):
            for q in range(8):
                y, x = 6 * (t // across) + r - 1, 6 * (t % across) + q - 1
                if 0 <= y < h and 0 <= x < w:
                    for i in range(c):
                        tile[r, q, i] = cells[y, x, i]
                else:
                    for i in range(c):
                        tile[r, q, i] = 0
        turn_(tile, half, 0)
        turn_(half.reshape(8, 8, c), tiles, t)


@compiled
def sum_tiles(products, bias, cells):
    """Products [8, 8, down * across, k] and bias [k] -> cells [h, w, k]; of the last tiles what lies inside."""
    h, w, k = cells.shape
    half, full = np.empty((8, 6, 1, k), f32), np.empty((6, 6, 1, k), f32)
    across = -(-w // 6)
    for t in range(products.shape[2]):
        sum_(products, t, half)
        sum_(half, 0, full)
        y, x = 6 * (t // across), 6 * (t % across)
        for r in range(min(6, h - y)):
            for q in range(min(6, w - x)):
                for i in range(k):
                    cells[y + r, x + q, i] = full[r, q, 0, i] + bias[i]


class Winograd(nn.Conv2d):
    """A frozen convolution: of 3 x 3, on a CPU, by products of tiles; values move by some 1e-5 of the largest.
    Others, and those elsewhere, are torch's."""

    by_tile: Tensor | None = None  # the kernels turned, [64, in, out]

    def forward(self, x: Tensor) -> Tensor:
        shape = (self.kernel_size, self.stride, self.padding, self.dilation, self.groups, self.padding_mode)
        fits = shape == ((3, 3), (1, 1), (1, 1), (1, 1), 1, "zeros")
        if not fits or x.device.type != "cpu" or x.dtype != torch.float32:
            return super().forward(x)
        (n, c, h, w), k = x.shape, self.out_channels
        if self.by_tile is None:
            kernel = torch.tensor(KERNEL, dtype=torch.float64) / 90
            kernels = torch.einsum("ar,bs,kcrs->abck", kernel, kernel, self.weight.detach().double())
            self.by_tile = kernels.float().reshape(64, c, k)
        tiles = -(-h // 6) * -(-w // 6)
        bias = np.zeros(k, f32) if self.bias is None else self.bias.detach().numpy()
        turned, products, found = torch.empty(64, tiles, c), torch.empty(64, tiles, k), torch.empty(n, h, w, k)
        for image, cells in zip(x.detach().permute(0, 2, 3, 1).contiguous(), found):
            turn_tiles(image.numpy(), turned.view(8, 8, tiles, c).numpy())
            torch.bmm(turned, self.by_tile, out=products)
            sum_tiles(products.view(8, 8, tiles, k).numpy(), bias, cells.numpy())
        return found.permute(0, 3, 1, 2)
