"""Slow, obvious twins of the NCU losses: plain loops in float64, straight from the paper's equations."""

from __future__ import annotations

import math

Matrix = list[list[float]]


def dot(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def softmax(values: list[float]) -> list[float]:
    top = max(values)
    powers = [math.exp(value - top) for value in values]
    return [power / sum(powers) for power in powers]


def clean_confidence(image: Matrix, text: Matrix, scale: float, direction: str) -> list[float]:
    size = len(image)
    found = []
    for i in range(size):
        i2t = softmax([scale * dot(image[i], text[j]) for j in range(size)])[i]
        t2i = softmax([scale * dot(text[i], image[j]) for j in range(size)])[i]
        found.append((i2t + t2i) / 2 if direction == "symmetric" else i2t)
    return found


def separation(text: Matrix, negative: Matrix, alpha: float, beta: float) -> float:
    total = 0.0
    for t, n in zip(text, negative, strict=True):
        total += max(0.0, alpha - dot(t, n)) + max(0.0, dot(t, n) - beta)
    return total / len(text)


def farthest(text: Matrix, negative: Matrix) -> float:
    total = 0.0
    for t, n in zip(text, negative, strict=True):
        total += 2 - math.sqrt(sum((x - y) ** 2 for x, y in zip(t, n, strict=True)))
    return total / len(text)


def relation(text: Matrix, negative: Matrix, variant: str) -> float:
    total = 0.0
    for i in range(len(text)):
        for j in range(len(text)):
            if variant == "paper":
                total += (dot(text[i], negative[j]) - dot(text[j], negative[i])) ** 2
            else:
                total += (dot(text[i], text[j]) - dot(negative[i], negative[j])) ** 2
    return total / len(text)


def matching(image: Matrix, text: Matrix, negative: Matrix, scale: float, bias: float = 0.0) -> float:
    total = 0.0
    for i in range(len(text)):
        for j in range(len(image)):
            m = 1 if i == j else -1
            total += math.log(1 / (1 + math.exp(m * -(scale * dot(text[i], image[j]) + bias))))
            total += math.log(1 / (1 + math.exp(-m * -(scale * dot(negative[i], image[j]) + bias))))
    return -total / len(text)


def targets(
    plan: Matrix, forget: list[bool], gamma: float, order: str, text_to_image: str = "distribution"
) -> tuple[Matrix, Matrix]:
    size = len(plan)
    identity = [[0.0] * (size + 1) for _ in range(size)]
    for i in range(size):
        identity[i][size if forget[i] else i] = 1.0

    def rows_to_one(matrix: Matrix) -> Matrix:
        return [[x / sum(row) if sum(row) > 0 else 0.0 for x in row] for row in matrix]

    def transpose(matrix: Matrix) -> Matrix:
        return [list(column) for column in zip(*matrix, strict=True)]

    def mix(left: Matrix, right: Matrix) -> Matrix:
        return [
            [gamma * a + (1 - gamma) * b for a, b in zip(x, y, strict=True)] for x, y in zip(left, right, strict=True)
        ]

    plans = plan, transpose(plan)
    if order == "official":
        plans = rows_to_one(plans[0]), rows_to_one(plans[1])
    image_to_text, raw = mix(plans[0], identity), mix(plans[1], transpose(identity))
    return rows_to_one(image_to_text), raw if text_to_image == "official" else rows_to_one(raw)


def realignment(logits: Matrix, image_to_text: Matrix, text_to_image: Matrix, reduction: str) -> float:
    def mean_kl(target: Matrix, scores: Matrix) -> float:
        total = 0.0
        for t_row, s_row in zip(target, scores, strict=True):
            probability = softmax(s_row)
            total += sum(t * (math.log(t) - math.log(p)) for t, p in zip(t_row, probability, strict=True) if t > 0)
        return total / len(target)

    columns = [list(column) for column in zip(*logits, strict=True)]
    total = mean_kl(image_to_text, logits) + mean_kl(text_to_image, columns)
    return total if reduction == "sum" else total / 2


def contrastive(image: Matrix, text: Matrix, scale: float, smoothing: float) -> list[float]:
    size = len(image)
    found = []
    for i in range(size):
        both = 0.0
        for a, b in ((image, text), (text, image)):
            probability = softmax([scale * dot(a[i], b[j]) for j in range(size)])
            for j in range(size):
                target = (1 - smoothing if i == j else 0.0) + smoothing / size
                both -= target * math.log(probability[j])
        found.append(both / 2)
    return found


def softened(features: Matrix, weight: float, temperature: float) -> Matrix:
    found = []
    for i, feature in enumerate(features):
        alike = softmax([dot(feature, other) / temperature for other in features])
        found.append([(1 - weight) * (i == j) + weight * share for j, share in enumerate(alike)])
    return found
