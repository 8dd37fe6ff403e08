"""Softmax losses as loops over RoIs and classes; autograd of a loop gives the reference gradient.

Written from the formulas. z: the scores of one RoI, a list of scalars; y: its class, k for the
background; x: its embedding; w: the classifier's rows.
"""

import itertools
import math

import torch


def softmax(z):
    powers = [torch.exp(v) for v in z]
    return [power / sum(powers) for power in powers]


def cross_entropy(z, y):
    return -torch.log(softmax(z)[y])


def number(scalar):
    """Its value, through which no gradient flows."""
    return float(scalar.detach())


def norm(vector):
    return sum(v * v for v in vector) ** 0.5


class Loop:
    """The weighted mean of `row` over RoIs. Constants and context become attributes."""

    state = ()  # the attributes to compare with buffers of the same names

    def __init__(self, k, **constants):
        self.k = k
        self.__dict__.update(constants)
        self.reset()

    def reset(self):
        """The state before the first step."""

    def before(self, scores, ys, xs):
        """What the batch changes before its loss."""

    def after(self, scores, ys, xs, weights):
        """What it changes after it."""

    def divisor(self, ys, weights):
        return sum(weights) or 1.0

    def row(self, z, y, x, w):
        return cross_entropy(z, y)

    def probs(self, z, x):
        return softmax(z)

    def __call__(
        self, scores, gt_classes, *, embeddings=None, class_weight=None, sample_weight=None
    ):
        ys = gt_classes.tolist()
        weights = [1.0] * len(ys) if sample_weight is None else sample_weight.tolist()
        xs = [None] * len(ys) if embeddings is None else list(embeddings)
        self.before(scores.detach(), ys, xs)
        loss = self.loss(scores, ys, xs, class_weight, weights)
        self.after(scores.detach(), ys, xs, weights)
        return loss

    def loss(self, scores, ys, xs, w, weights):
        total = 0 * scores.sum()
        for i, y in enumerate(ys):
            total = total + weights[i] * self.row(list(scores[i]), y, xs[i], w)
        return total / self.divisor(ys, weights)


class SoftmaxCE(Loop):
    pass


class CosineCE(Loop):
    """Logits s cos(t_j); the subclasses' margins change one of them, on foreground rows."""

    def logit(self, c, y, j, w):
        return c

    def row(self, z, y, x, w):
        cosines = [self.logit(c, y, j, w) if y < self.k else c for j, c in enumerate(z)]
        return cross_entropy([self.scale * c for c in cosines], y)

    def probs(self, z, x):
        return softmax([self.scale * c for c in z])


class CosFace(CosineCE):
    def logit(self, c, y, j, w):
        return c - self.margin if j == y else c


class ArcFace(CosineCE):
    def logit(self, c, y, j, w):
        if j != y:
            return c
        if math.acos(number(c)) + self.margin > math.pi:
            return c - self.margin * math.sin(self.margin)
        return torch.cos(torch.acos(c) + self.margin)


class IGAM(CosineCE):
    """s cos(t_j + m_yj), the angle held at pi; no margin with the background."""

    def margin_of(self, y, j, w):
        return max(0.0, float(self.potentials[y] - self.potentials[j]))

    def logit(self, c, y, j, w):
        if j in (y, self.k):
            return c
        return torch.cos((torch.acos(c) + self.margin_of(y, j, w)).clamp(max=math.pi))


class C2AM(IGAM):
    def margin_of(self, y, j, w):
        norms = number(norm(w[y])), number(norm(w[j]))
        return max(0.0, self.alpha / math.pi * math.log(norms[0] / norms[1]))


class SphereFace(Loop):
    """norm(x) psi(t_y), psi(t) = (-1)^k cos(m t) - 2k, blended with norm(x) cos(t_y)."""

    state = ("iteration",)

    def reset(self):
        self.iteration = 0

    def before(self, scores, ys, xs):
        self.iteration += 1

    def row(self, z, y, x, w):
        logits = [norm(x) * c for c in z]
        if y < self.k:
            blend = max(self.lambda_min, self.lambda_max / (1 + 0.1 * self.iteration))
            theta = torch.acos(z[y])
            turn = int(self.margin * number(theta) / math.pi)
            psi = (-1) ** turn * torch.cos(self.margin * theta) - 2 * turn
            logits[y] = norm(x) * (blend * z[y] + psi) / (1 + blend)
        return cross_entropy(logits, y)

    def probs(self, z, x):
        return softmax([norm(x) * c for c in z])


class VirtualSoftmax(Loop):
    def row(self, z, y, x, w):
        return cross_entropy([*z, norm(w[y]) * norm(x)], y)


class Center(Loop):
    """CE + weight/2 of the mean squared distance of foreground embeddings to their centres."""

    state = ("centers",)

    def loss(self, scores, ys, xs, w, weights):
        total, share = 0.0, sum(v for v, y in zip(weights, ys, strict=True) if y < self.k) or 1.0
        for x, y, v in zip(xs, ys, weights, strict=True):
            if y < self.k:
                total = total + v * norm(x - torch.tensor(self.centers[y])) ** 2 / share
        return super().loss(scores, ys, xs, w, weights) + self.weight / 2 * total

    def after(self, scores, ys, xs, weights):
        for j in range(self.k):
            own = [x.tolist() for x, y in zip(xs, ys, strict=True) if y == j]
            for d, old in enumerate(list(self.centers[j])):
                step = sum(old - x[d] for x in own) / (1 + len(own))
                self.centers[j][d] = old - self.step * step


class LOCE(Loop):
    """CE of z + log s; s runs over each class's own scores, with momentum^(their number)."""

    state = ("mean_score",)

    def reset(self):
        self.mean_score = [self.start] * self.k

    def before(self, scores, ys, xs):
        for j in range(self.k):
            own = [number(softmax(scores[i])[j]) for i, y in enumerate(ys) if y == j]
            if own:
                keep = self.momentum ** len(own)
                mean = sum(own) / len(own)
                self.mean_score[j] = keep * self.mean_score[j] + (1 - keep) * mean

    def row(self, z, y, x, w):
        s = [*self.mean_score, self.background]
        powers = [s_j * torch.exp(v) for s_j, v in zip(s, z, strict=True)]
        return -torch.log(powers[y] / sum(powers))


class Seesaw(Loop):
    """K classes, then the pair (foreground, background)."""

    state = ("class_count",)

    def reset(self):
        self.class_count = [0] * (self.k + 1)

    def before(self, scores, ys, xs):
        for y in ys:
            self.class_count[y] += 1

    def parts(self, z):
        z = [self.scale * v for v in z] if self.normalized else z
        return z[: self.k], z[self.k :]

    def row(self, z, y, x, w):
        classes, pair = self.parts(z)
        loss = cross_entropy(pair, int(y == self.k))
        if y == self.k:
            return loss
        s = [number(v) for v in softmax(classes)]
        n = [max(1, count) for count in self.class_count]
        shifted = []
        for j, v in enumerate(classes):
            mitigation = min(1.0, (n[j] / n[y]) ** self.p)
            compensation = max(1.0, (s[j] / max(s[y], self.eps)) ** self.q)
            shifted.append(v if j == y else v + math.log(mitigation * compensation))
        return loss + cross_entropy(shifted, y)

    def probs(self, z, x):
        classes, pair = (softmax(part) for part in self.parts(z))
        return [p * pair[0] for p in classes] + [pair[1]]


class BAGS(Loop):
    """Columns: K classes, background, any foreground, "others" of each group.

    `kept` gives the rows that take part in each group; None for all.
    """

    kept = None

    def groups(self):
        edges = [0, *self.thresholds, math.inf]
        counts = [int(n) for n in self.class_instance_count]
        for low, high in itertools.pairwise(edges):
            yield [j for j, n in enumerate(counts) if low <= n < high]

    def loss(self, scores, ys, xs, w, weights):
        total = 0 * scores.sum()
        pair = [(i, [self.k, self.k + 1], int(y < self.k)) for i, y in enumerate(ys)]
        tasks = [pair]
        for g, classes in enumerate(self.groups()):
            columns = [*classes, self.k + 2 + g]
            rows = self.kept[g] if self.kept else range(len(ys))
            if not any(y in classes for y in ys):
                rows = ()
            place = [classes.index(y) if y in classes else len(classes) for y in ys]
            tasks.append([(i, columns, place[i]) for i in rows])
        for task in tasks:
            part = 0 * total
            for i, columns, place in task:
                part = part + weights[i] * cross_entropy([scores[i, c] for c in columns], place)
            total = total + part / (sum(weights[i] for i, _, _ in task) or 1.0)
        return total

    def probs(self, z, x):
        probs = [None] * self.k
        background, foreground = softmax(z[self.k : self.k + 2])
        for g, classes in enumerate(self.groups()):
            parts = softmax([*(z[j] for j in classes), z[self.k + 2 + g]])
            for j, p in zip(classes, parts[:-1], strict=True):
                probs[j] = p * foreground
        return [*probs, background]


class DisAlign(Loop):
    """`align`: (scale, shift, weight and bias of the confidence), tensors."""

    def calibrated(self, z, x):
        scale, shift, weight, bias = self.align
        c = 1 / (1 + torch.exp(-sum(a * b for a, b in zip(weight[0], x, strict=True)) - bias[0]))
        fg = [c * (scale[j] * z[j] + shift[j]) + (1 - c) * z[j] for j in range(self.k)]
        return [*fg, z[self.k]]

    def class_weights(self):
        raw = [int(n) ** -self.rho for n in self.class_instance_count]
        return [v * self.k / sum(raw) for v in raw] + [1.0]

    def loss(self, scores, ys, xs, w, weights):
        own = self.class_weights()
        weights = [v * own[y] for v, y in zip(weights, ys, strict=True)]
        return super().loss(scores, ys, xs, w, weights)

    def row(self, z, y, x, w):
        return cross_entropy(self.calibrated(z, x), y)

    def probs(self, z, x):
        return softmax(self.calibrated(z, x))
