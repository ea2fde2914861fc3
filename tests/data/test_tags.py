from collections import Counter

from ed2.data.layers import Layer, Tag
from ed2.data.tags import Shuffle, caption_of, joined, shuffle_of
from ed2.draws import rng

TAGS = tuple(Tag(letter) for letter in "bcdef")


def test_an_unshuffled_caption_has_its_tags_in_order_the_heavier_first() -> None:
    layer = Layer(tags=(Tag("x"), Tag("light", 0.5), Tag("heavy", 2), Tag("y")))
    assert caption_of(layer, "a cat") == "a cat, heavy, x, y, light"
    assert caption_of(layer, "") == "heavy, x, y, light"


def test_the_first_tags_are_kept_and_all_others_come_once_in_every_order() -> None:
    shuffle = Shuffle("a", TAGS)
    seen = set()
    for visit in range(300):
        parts = shuffle.drawn(rng(1, "tags", visit), keep_tags=2).split(", ")
        assert parts[:3] == ["a", "b", "c"] and sorted(parts[3:]) == ["d", "e", "f"]
        seen.add(tuple(parts))
    assert len(seen) == 6
    assert shuffle.drawn(rng(1, "tags", 0), keep_tags=9) == "a, b, c, d, e, f"


def test_without_kept_tags_every_tag_stands_everywhere_equally_often() -> None:
    shuffle = Shuffle("a", TAGS)
    first = Counter(shuffle.drawn(rng(2, "tags", visit)).split(", ")[1] for visit in range(2000))
    assert set(first) == set("bcdef") and all(320 < count < 480 for count in first.values())


def test_a_tag_comes_first_in_proportion_to_its_weight_and_never_with_none() -> None:
    shuffle = Shuffle("a", (Tag("rare", 1), Tag("often", 3), Tag("never", 0)))
    drawn = [shuffle.drawn(rng(3, "tags", visit)) for visit in range(2000)]
    assert 1420 < sum(text == "a, often, rare" for text in drawn) < 1580
    assert set(drawn) == {"a, often, rare", "a, rare, often"}


def test_the_length_is_never_overrun_and_the_main_prompt_never_cut() -> None:
    tags = [Tag("four"), Tag("seventeen letters"), Tag("ten chars!")]
    assert joined("a cat", tags, 23) == "a cat, four, ten chars!"
    assert joined("a cat", tags, 22) == "a cat, four"
    assert joined("a cat", tags, 3) == "a cat"
    assert caption_of(Layer(tags=tuple(tags), max_caption_length=11), "a cat") == "a cat, four"
    shuffle = Shuffle("a", TAGS, max_length=7)
    assert all(len(shuffle.drawn(rng(4, "tags", visit))) == 7 for visit in range(20))


def test_what_files_say_of_shuffling_goes_before_the_setting() -> None:
    assert shuffle_of(Layer(tags=TAGS), "a", default=False) is None
    assert shuffle_of(Layer(tags=TAGS), "a", default=True) == Shuffle("a", TAGS)
    assert shuffle_of(Layer(tags=TAGS, shuffle_tags=True), "a", default=False) == Shuffle("a", TAGS)
    assert shuffle_of(Layer(tags=TAGS, shuffle_tags=False), "a", default=True) is None
    assert shuffle_of(Layer(shuffle_tags=True), "a", default=True) is None
