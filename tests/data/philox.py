"""The published random number algorithm, written out in plain integers: what the rows of a view are checked against."""

WORD = 2**64 - 1


def philox(key: tuple[int, int], count: int) -> list[int]:
    """Philox4x64-10 of Salmon et al., 2011, "Parallel random numbers: as easy as 1, 2, 3", for the counter (count, 0, 0, 0)."""
    words, keys = [count, 0, 0, 0], list(key)
    for _ in range(10):
        first, second = words[0] * 0xD2E7470EE14C6C93, words[2] * 0xCA5A826395121157
        words = [(second >> 64) ^ words[1] ^ keys[0], second & WORD, (first >> 64) ^ words[3] ^ keys[1], first & WORD]
        keys = [(keys[0] + 0x9E3779B97F4A7C15) & WORD, (keys[1] + 0xBB67AE8584CAA73B) & WORD]
    return words


def published_row(seed: int, stream: int, sample_id: int) -> list[float]:
    """The 16 numbers of a sample, from the counter that is its own; NumPy counts up before it draws."""
    return [(word >> 11) / 2**53 for count in range(1 + 4 * sample_id, 5 + 4 * sample_id) for word in philox((seed, stream), count)]
