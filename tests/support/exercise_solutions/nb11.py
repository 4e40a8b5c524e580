import torch


def make(spread=lambda from_, to: 1 / len(to), end=True, pairs=True):
    def answer(source, target):
        matrix = torch.zeros(len(source.ids), len(target.ids))
        for word in range(len(source.words)):
            from_, to = source.positions_of_word(word), target.positions_of_word(word)
            for i, a in enumerate(from_):
                for j, b in enumerate(to):
                    if pairs and len(from_) == len(to):
                        matrix[a, b] = float(i == j)
                    else:
                        matrix[a, b] = spread(from_, to)
        if end:
            matrix[-1, -1] = 1
        return matrix

    return answer


reference = make()


def counted_by_the_target(source, target):
    """After a word with another number of pieces, the target's own positions are looked up in the
    source.
    """
    matrix = torch.zeros(len(source.ids), len(target.ids))
    for word in range(len(source.words)):
        to = target.positions_of_word(word)
        for b in to:
            changed = source.words[word] != target.words[word]
            matrix[
                min(source.positions_of_word(word)[0] if changed else b, len(source.ids) - 1), b
            ] = 1 / len(to)
    matrix[-1, -1] = 1
    return matrix


def transposed(source, target):
    return reference(source, target).T


INCORRECT_ANSWERS = [
    (counted_by_the_target, "everything moves on"),
    (make(lambda from_, to: 1.0), "1 / 2 each"),
    (make(lambda from_, to: 1 / len(from_)), "1 / 2 each"),
    (make(end=False), "end token"),
    (make(pairs=False), "one to one"),
    (transposed, "transposed"),
]


def ablation_reference(with_it, without):
    pairs = list(zip(with_it, without))
    return pairs.count((True, False)), pairs.count((False, True))


INCORRECT_ABLATIONS = [
    (lambda a, b: ablation_reference(b, a), "exchanged"),
    (lambda a, b: (sum(a), sum(b)), "compare each edit with itself"),
    (lambda a, b: (max(0, sum(a) - sum(b)), 0), "compare each edit with itself"),
    (lambda a, b: (sum(x != y for x, y in zip(a, b)), 0), "one is (False, True)"),
    (lambda a, b: (3, 1), "compared with itself"),
]
