import pytest

from ed2.data.layers import Layer, Tag, layer_of_mapping, layer_of_text, merged


def test_the_last_layer_that_says_a_value_wins_and_zero_is_a_value() -> None:
    layers = [Layer(multiply=2, flip_p=0.5), Layer(multiply=0, shuffle_tags=True), Layer(loss_scale=0)]
    found = merged(layers)
    assert (found.multiply, found.flip_p, found.shuffle_tags, found.loss_scale) == (0, 0.5, True, 0)
    assert merged([Layer(shuffle_tags=True), Layer(shuffle_tags=False)]).shuffle_tags is False


def test_main_prompts_and_tags_of_all_layers_are_put_together_the_last_first() -> None:
    found = merged([Layer(("a",), (Tag("old"), Tag("both", 3))), Layer(("b", "a"), (Tag("both"), Tag("new")))])
    assert found.prompts == ("b", "a")
    assert found.tags == (Tag("both"), Tag("new"), Tag("old"))


@pytest.mark.parametrize(
    ("text", "prompts", "tags"),
    [
        ("a cat", ("a cat",), ()),
        ("a cat, red,  big ", ("a cat",), ("red", "big")),
        ("a_cat,red,", ("a_cat",), ("red",)),
        ("1,000 cats, 3, 4 of them,5", ("1,000 cats",), ("3", "4 of them", "5")),
        (", red", (), ("red",)),
        ("a cat, red, red", ("a cat",), ("red",)),
    ],
)
def test_a_caption_is_a_main_prompt_and_tags_between_commas(
    text: str, prompts: tuple[str, ...], tags: tuple[str, ...]
) -> None:
    layer = layer_of_text(text)
    assert (layer.prompts, tuple(tag.text for tag in layer.tags)) == (prompts, tags)


def test_the_documented_example_of_the_original_is_read() -> None:
    told = layer_of_mapping(
        {
            "main_prompt": "a photo of a cat",
            "tags": ["black", {"tag": "sitting", "weight": "2.5"}, "no", 2020],
            "max_caption_length": "250",
            "multiply": "0.5",
            "cond_dropout": 0.05,
            "flip_p": "0.5",
            "shuffle_tags": "true",
            "batch_id": "cats",
            "loss_scale": "-0.5",
        }
    )
    tags = (Tag("black"), Tag("sitting", 2.5), Tag("no"), Tag("2020"))
    assert told.layer == Layer(("a photo of a cat",), tags, 0.5, 0.05, 0.5, -0.5, "cats", True, 250)
    assert told.faults == ()


def test_names_may_stand_below_caption() -> None:
    assert layer_of_mapping({"caption": {"main_prompt": ["a", "b"], "tags": "x, y"}, "multiply": 2}).layer == Layer(
        ("a", "b"), (Tag("x"), Tag("y")), multiply=2
    )


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ({"multiply": "two"}, "multiply is 'two': it takes a number from 0 to 10,000."),
        ({"multiply": -1}, "a number from 0"),
        ({"multiply": "nan"}, "a number from 0"),
        ({"multiply": True}, "a number from 0"),
        ({"flip_p": 1.5}, "a number from 0 to 1"),
        ({"cond_dropout": [1]}, "a number from 0 to 1"),
        ({"shuffle_tags": "maybe"}, "true or false"),
        ({"max_caption_length": 1.5}, "a whole number"),
        ({"tags": [{"name": "x"}]}, "tags as text"),
        ({"tags": [["x"]]}, "text"),
        ({"tags": {"x": 1}}, "a list of at most"),
        ({"main_prompt": {"x": 1}}, "text"),
        ({"cond_droput": 1}, "did you mean cond_dropout?"),
        ({"rating": 3}, "ratings are not used"),
    ],
)
def test_what_cannot_be_understood_is_told_and_the_rest_holds(values: dict[str, object], fault: str) -> None:
    told = layer_of_mapping({"batch_id": "b", **values})
    assert told.layer == Layer(batch_id="b")
    assert len(told.faults) == 1 and fault in told.faults[0]


def test_nothing_is_unsaid() -> None:
    assert layer_of_mapping({"multiply": None, "flip_p": "", "batch_id": "null", "tags": None}) == (Layer(), ())
