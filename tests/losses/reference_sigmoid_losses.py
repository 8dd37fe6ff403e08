"""Sigmoid losses as loops over RoIs and classes, as :mod:`reference_losses`."""

import math

import torch
from reference_losses import Loop, number, softmax


def sigmoid(v):
    return 1 / (1 + torch.exp(-v))


def bce(v, target):
    return -torch.log(sigmoid(v) if target else 1 - sigmoid(v))


class PlainBCE(Loop):
    """K or K + 1 columns; `cell` is the loss of one."""

    def cell(self, v, y, j):
        return bce(v, y == j)

    def row(self, z, y, x, w):
        return sum(self.cell(v, y, j) for j, v in enumerate(z))

    def probs(self, z, x):
        return [sigmoid(v) for v in z] + [torch.zeros(())] * (self.k + 1 - len(z))


def times_no_background(z):
    probs = [sigmoid(v) for v in z]
    return [p * (1 - probs[-1]) for p in probs[:-1]] + probs[-1:]


class Focal(PlainBCE):
    def divisor(self, ys, weights):
        return max(1, sum(y < self.k for y in ys))

    def gamma_of(self, j):
        return self.gamma

    def cell(self, v, y, j):
        p = sigmoid(v)
        p_t, alpha_t = (p, self.alpha) if y == j else (1 - p, 1 - self.alpha)
        return alpha_t * (1 - p_t) ** self.gamma_of(j) * -torch.log(p_t)


class Accumulated:
    """Sums of absolute gradients of each class's cells, which no sample weight enters."""

    state = ("positive_grad", "negative_grad", "ratio")

    def reset(self):
        self.positive_grad, self.negative_grad = [0.0] * self.k, [0.0] * self.k
        self.ratio = [self.ratio_start] * self.k

    def after(self, scores, ys, xs, weights):
        for i, y in enumerate(ys):
            for j in range(self.k):
                v = scores[i, j].clone().requires_grad_()
                (grad,) = torch.autograd.grad(self.cell(v, y, j), v)
                sums = self.positive_grad if y == j else self.negative_grad
                sums[j] += abs(number(grad)) / self.grad_divisor(ys)
        for j in range(self.k):
            self.ratio[j] = self.ratio_of(self.positive_grad[j], self.negative_grad[j])

    def grad_divisor(self, ys):
        return 1

    def ratio_of(self, positive, negative):
        return positive / (negative + 1e-10)


class EqualizedFocal(Accumulated, Focal):
    """Focal of gamma_j = gamma + focus (1 - g_j), times gamma_j / gamma; g of its own gradients."""

    ratio_start = 1.0

    def grad_divisor(self, ys):
        return self.divisor(ys, None)

    def ratio_of(self, positive, negative):
        return min(1.0, max(0.0, super().ratio_of(positive, negative)))

    def gamma_of(self, j):
        return self.gamma + self.focus * (1 - self.ratio[j])

    def cell(self, v, y, j):
        return self.gamma_of(j) / self.gamma * super().cell(v, y, j)


class EQLv2(Accumulated, PlainBCE):
    ratio_start = 100.0

    def cell(self, v, y, j):
        if j == self.k:
            return bce(v, y == j)
        f = 1 / (1 + math.exp(-self.gamma * (self.ratio[j] - self.mu)))
        return (1 + self.alpha * (1 - f) if y == j else f) * bce(v, y == j)

    def probs(self, z, x):
        return times_no_background(z)


class EQL(PlainBCE):
    def rare(self, j):
        return int(self.class_image_count[j]) / self.num_images < self.rare_frequency

    def cell(self, v, y, j):
        weight = 1 - (y < self.k) * self.rare(j) * (y != j)
        return weight * bce(v, y == j)


class Drop(EQL):
    """`kept` (R, K): the cells of background rows that are not dropped; None for all."""

    kept = None

    def beta(self, ys):
        """Probability that a background RoI keeps a rare class."""
        fg = [self.rare(y) for y in ys if y < self.k]
        return sum(fg) / len(fg) if fg else 1.0

    def loss(self, scores, ys, xs, w, weights):
        total = super().loss(scores, ys, xs, w, weights)
        for i, y in enumerate(ys):
            for j in range(self.k):
                if y == self.k and self.kept is not None and not self.kept[i][j]:
                    dropped = weights[i] * bce(scores[i, j], False)
                    total = total - dropped / self.divisor(ys, weights)
        return total


class BalancedSoftmax(PlainBCE):
    def cell(self, v, y, j):
        if y < self.k:
            q = int(self.class_instance_count[j]) / sum(map(int, self.class_instance_count))
            v = v - math.log((1 - q) / q) if q < 1 else v  # a single class has no shift
        return bce(v, y == j)


class ACSL(PlainBCE):
    """`kept`: for "r", "c" and "f" the background rows that are negatives of such classes."""

    kept = None

    def loss(self, scores, ys, xs, w, weights):
        total = 0 * scores.sum()
        for i, y in enumerate(ys):
            for j in range(self.k + 1):
                if y < self.k:
                    counts = j == y or number(sigmoid(scores[i, j])) >= self.threshold
                else:
                    counts = j == self.k or self.negative(i, self.class_frequency[j])
                if counts:
                    total = total + weights[i] * bce(scores[i, j], y == j)
        return total / self.divisor(ys, weights)

    def negative(self, row, letter):
        return letter == "f" or self.kept is None or row in self.kept[letter]


class FCBL(PlainBCE):
    """BCE of z + log(M_yj / M_jy); M: mean softmax of each class's rows, over their K scores."""

    state = ("confusion", "confusion_count")
    reweight = False

    def reset(self):
        self.confusion = [[0.0] * self.k for _ in range(self.k)]
        self.confusion_count = [0] * self.k

    def cell(self, v, y, j):
        if max(y, j) < self.k:
            m = self.confusion
            v = v + self.alpha * math.log(max(m[y][j], self.floor) / max(m[j][y], self.floor))
        return bce(v, y == j)

    def row(self, z, y, x, w):
        q = [number(p) for p in self.probs(z, x)]
        total = 0
        for j, v in enumerate(z):
            passed_over = max(y, j) < self.k and q[j] < q[y] and q[j] < 0.7
            if not (self.reweight and passed_over):
                total = total + self.cell(v, y, j)
        return total

    def after(self, scores, ys, xs, weights):
        for i, y in enumerate(ys):
            if y < self.k:
                n = self.confusion_count[y]
                for j, p in enumerate(softmax(scores[i, : self.k])):
                    self.confusion[y][j] = (n * self.confusion[y][j] + number(p)) / (n + 1)
                self.confusion_count[y] += 1

    def probs(self, z, x):
        return times_no_background(z)
