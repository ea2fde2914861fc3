"""What captions have in common."""

import pytest

from ed2.app.images.captions import trigger_phrase


@pytest.mark.parametrize(
    ("captions", "phrase"),
    [
        (["sks dog on a bed", "sks dog in the snow", "sks dog"], "sks dog"),
        (["a photo of sks dog", "a photo of sks dog in a box", "a photo of sks dog, night"], "a photo of sks dog"),
        (["mychar, 1girl, solo", "mychar, 1girl", "mychar, hat"], "mychar"),
        (["sks dog asleep", "sks dog awake", "sks dog", "two cats"], "sks dog"),
        (["sks dog.", "sks dog", "sks dog!"], "sks dog"),
        (["one two three four five six seven eight nine ten"] * 3, "one two three four five six seven eight"),
    ],
)
def test_the_words_that_most_captions_begin_with_are_the_trigger_phrase(captions: list[str], phrase: str) -> None:
    assert trigger_phrase(captions) == phrase
    assert trigger_phrase(reversed(captions)) == phrase


@pytest.mark.parametrize(
    "captions",
    [
        [],
        ["", " ", ""],
        ["sks dog", "sks dog"],
        ["a cat", "a dog", "a house"],
        ["a photo of a cat", "a photo of the sea", "a photo of"],
        ["sks dog", "sks dog", "two cats", "a bird"],
        ["\ud800 dog"] * 3,
    ],
    ids=["none", "empty", "few", "articles", "kinds of image", "half of them", "no text"],
)
def test_there_is_no_trigger_phrase_where_captions_have_none_in_common(captions: list[str]) -> None:
    assert trigger_phrase(captions) == ""
