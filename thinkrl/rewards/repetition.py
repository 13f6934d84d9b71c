"""Does a text go round in circles?"""

from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from itertools import pairwise


def repetition_start(tokens: Sequence[Hashable]) -> int:
    """Where a scan from the end first finds `tokens` to repeat themselves; their number where they do not.

    With n = 2, 3 or 4 (fewer than 30, fewer than 100, or more tokens), a text repeats itself where
    an n-gram stands three times (twice in fewer than 200 tokens) and two neighbours of these are closer than a
    third of the text, or where a 2n-gram stands twice. One token said over and over is left out, as is a text of
    no more than 2n tokens. The measure of LASER-DE's released code (arXiv 2505.15612).
    """
    count = len(tokens)
    n = 2 if count < 30 else 3 if count < 100 else 4
    if count <= 2 * n:
        return count
    enough, close = (2 if count < 200 else 3), count // 3
    places: dict[tuple[Hashable, ...], list[int]] = defaultdict(list)
    long_grams: set[tuple[Hashable, ...]] = set()
    for start in range(count - n, -1, -1):
        gram = tuple(tokens[start : start + n])
        if len(set(gram)) == 1:
            continue
        found = places[gram]
        found.append(start)
        if len(found) >= enough and any(later - earlier < close for later, earlier in pairwise(found)):
            return start
        long_gram = tuple(tokens[start : start + 2 * n])
        if len(long_gram) == 2 * n:
            if long_gram in long_grams:
                return start
            long_grams.add(long_gram)
    return count


def repeated_share(words: Sequence[Hashable], n: int) -> float:
    """Different n-grams that stand more than once, over all n-grams; 0 in a text of fewer than n words.

    The repetition ratio of arXiv 2505.22653, with n = 20.
    """
    grams = Counter(tuple(words[start : start + n]) for start in range(len(words) - n + 1))
    return sum(count > 1 for count in grams.values()) / grams.total() if grams else 0.0
