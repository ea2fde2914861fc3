from collections import Counter

from ed2.data.image_config import ImageConfig, Tag, TagShuffle, caption_in_order, join_tags, tag_shuffle
from ed2.draws import rng

TAGS = tuple(Tag(letter) for letter in "bcdef")


def test_an_unshuffled_caption_has_its_tags_in_order_the_heavier_first() -> None:
    layer = ImageConfig(tags=(Tag("x"), Tag("light", 0.5), Tag("heavy", 2), Tag("y")))
    assert caption_in_order(layer, "a cat") == "a cat, heavy, x, y, light"
    assert caption_in_order(layer, "") == "heavy, x, y, light"


def test_the_first_tags_are_kept_and_all_others_come_once_in_every_order() -> None:
    shuffle = TagShuffle("a", TAGS)
    seen = set()
    for visit in range(300):
        parts = shuffle.draw(rng(1, "tags", visit), keep_tags=2).split(", ")
        assert parts[:3] == ["a", "b", "c"] and sorted(parts[3:]) == ["d", "e", "f"]
        seen.add(tuple(parts))
    assert len(seen) == 6
    assert shuffle.draw(rng(1, "tags", 0), keep_tags=9) == "a, b, c, d, e, f"


def test_without_kept_tags_every_tag_is_equally_often_in_every_position() -> None:
    shuffle = TagShuffle("a", TAGS)
    first = Counter(shuffle.draw(rng(2, "tags", visit)).split(", ")[1] for visit in range(2000))
    assert set(first) == set("bcdef") and all(320 < count < 480 for count in first.values())


def test_a_tag_comes_first_in_proportion_to_its_weight_and_never_with_none() -> None:
    shuffle = TagShuffle("a", (Tag("rare", 1), Tag("often", 3), Tag("never", 0)))
    drawn = [shuffle.draw(rng(3, "tags", visit)) for visit in range(2000)]
    assert 1420 < sum(text == "a, often, rare" for text in drawn) < 1580
    assert set(drawn) == {"a, often, rare", "a, rare, often"}


def test_the_length_is_never_exceeded_and_the_main_prompt_never_cut() -> None:
    tags = [Tag("four"), Tag("seventeen letters"), Tag("ten chars!")]
    assert join_tags("a cat", tags, 23) == "a cat, four, ten chars!"
    assert join_tags("a cat", tags, 22) == "a cat, four"
    assert join_tags("a cat", tags, 3) == "a cat"
    assert caption_in_order(ImageConfig(tags=tuple(tags), max_caption_length=11), "a cat") == "a cat, four"
    shuffle = TagShuffle("a", TAGS, max_length=7)
    assert all(len(shuffle.draw(rng(4, "tags", visit))) == 7 for visit in range(20))


def test_files_override_the_setting_for_shuffling() -> None:
    assert tag_shuffle(ImageConfig(tags=TAGS), "a", default=False) is None
    assert tag_shuffle(ImageConfig(tags=TAGS), "a", default=True) == TagShuffle("a", TAGS)
    assert tag_shuffle(ImageConfig(tags=TAGS, shuffle_tags=True), "a", default=False) == TagShuffle("a", TAGS)
    assert tag_shuffle(ImageConfig(tags=TAGS, shuffle_tags=False), "a", default=True) is None
    assert tag_shuffle(ImageConfig(shuffle_tags=True), "a", default=True) is None
