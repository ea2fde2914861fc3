import pytest

from ed2.data.image_config import ImageConfig, Tag, config_from_mapping, config_from_text, merge_configs


def test_the_last_config_that_gives_a_value_wins_and_zero_is_a_value() -> None:
    configs = [
        ImageConfig(multiply=2, flip_p=0.5),
        ImageConfig(multiply=0, shuffle_tags=True),
        ImageConfig(loss_scale=0),
    ]
    found = merge_configs(configs)
    assert (found.multiply, found.flip_p, found.shuffle_tags, found.loss_scale) == (0, 0.5, True, 0)
    assert merge_configs([ImageConfig(shuffle_tags=True), ImageConfig(shuffle_tags=False)]).shuffle_tags is False


def test_main_prompts_and_tags_of_all_configs_are_collected_the_last_first() -> None:
    found = merge_configs(
        [ImageConfig(("a",), (Tag("old"), Tag("both", 3))), ImageConfig(("b", "a"), (Tag("both"), Tag("new")))]
    )
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
    config = config_from_text(text)
    assert (config.prompts, tuple(tag.text for tag in config.tags)) == (prompts, tags)


def test_the_documented_example_of_the_original_is_read() -> None:
    parsed = config_from_mapping(
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
    assert parsed.config == ImageConfig(("a photo of a cat",), tags, 0.5, 0.05, 0.5, -0.5, "cats", True, 250)
    assert parsed.problems == ()


def test_names_may_be_nested_under_caption() -> None:
    assert config_from_mapping(
        {"caption": {"main_prompt": ["a", "b"], "tags": "x, y"}, "multiply": 2}
    ).config == ImageConfig(("a", "b"), (Tag("x"), Tag("y")), multiply=2)


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ({"multiply": "two"}, "multiply is 'two'; it must be a number from 0 to 10,000."),
        ({"multiply": -1}, "a number from 0"),
        ({"multiply": "nan"}, "a number from 0"),
        ({"multiply": True}, "a number from 0"),
        ({"flip_p": 1.5}, "a number from 0 to 1"),
        ({"cond_dropout": [1]}, "a number from 0 to 1"),
        ({"shuffle_tags": "maybe"}, "true or false"),
        ({"max_caption_length": 1.5}, "a whole number"),
        ({"tags": [{"name": "x"}]}, "each as text or as"),
        ({"tags": [["x"]]}, "text"),
        ({"tags": {"x": 1}}, "a list of at most"),
        ({"main_prompt": {"x": 1}}, "text"),
        ({"cond_droput": 1}, "did you mean cond_dropout?"),
        ({"rating": 3}, "ratings are not supported"),
    ],
)
def test_invalid_values_are_reported_and_the_rest_applies(values: dict[str, object], fault: str) -> None:
    parsed = config_from_mapping({"batch_id": "b", **values})
    assert parsed.config == ImageConfig(batch_id="b")
    assert len(parsed.problems) == 1 and fault in parsed.problems[0]


def test_empty_values_set_nothing() -> None:
    assert config_from_mapping({"multiply": None, "flip_p": "", "batch_id": "null", "tags": None}) == (
        ImageConfig(),
        (),
    )
