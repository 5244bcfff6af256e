from pathlib import Path
from typing import Annotated, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lpanas.lpa.config import Config, Count, UserError, dump_yaml, nearest, override, parse_yaml, read_yaml
from lpanas.lpa.data import DataConfig
from lpanas.lpa.model_config import ModelConfig
from lpanas.lpa.optim import OptimConfig
from lpanas.lpa.train_config import TrainConfig
from pydantic import Field


class Engine(Config):
    power: float
    gears: Count = 5
    fuel: Literal["petrol", "diesel"] = "petrol"


class Car(Config):
    engine: Engine
    name: str = "car"
    wheels: tuple[int, ...] = (4,)
    doors: Annotated[int, Field(gt=0)] | None = None
    open_top: bool = False


def car(text: str) -> Car:
    return Car.parse(parse_yaml(text, "car.yaml"), "car.yaml")


def mistake(text: str) -> str:
    with pytest.raises(UserError) as error:
        car(text)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("text", ["3e-4", "4E-3", "1e6", "+2e+3", "-.5e1", "1.5e-3", "7", "0.25", ".5", "1_000e3"])
def test_numbers_in_every_notation_are_numbers(text: str) -> None:
    assert parse_yaml(f"power: {text}", "x") == {"power": float(text)}


@pytest.mark.parametrize("text", ["e4", "3e", "1e6x", "3e-4-5", "1/4", "'3e-4'", "v1e3"])
def test_what_only_looks_like_a_number_stays_text(text: str) -> None:
    assert parse_yaml(f"name: {text}", "x") == {"name": text.strip("'")}


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_float_reads_as_itself(value: float) -> None:
    assert parse_yaml(f"power: {value!r}", "x")["power"] == value


def test_a_count_may_be_written_as_a_power_of_ten() -> None:
    gears = car("engine: {power: 1.0, gears: 2.5e6}").engine.gears
    assert gears == 2_500_000
    assert isinstance(gears, int)


@pytest.mark.parametrize("gears", ["2.5", "true", "six", ".inf", "null", "[3]"])
def test_a_count_is_nothing_but_a_whole_number(gears: str) -> None:
    line = mistake(f"engine: {{power: 1.0, gears: {gears}}}")
    assert line.startswith("car.yaml: engine.gears: expected a whole number, found")


@pytest.mark.parametrize(
    ("text", "place"),
    [("a: 1\nb: [1, 2\nc: 3\n", "x:3:2"), ("a: 1\n  b: 2\n", "x:2:4"), ("a: 'open\n", "x:2:1"), ("\ta: 1\n", "x:1:1")],
)
def test_a_syntax_error_carries_its_line_and_column(text: str, place: str) -> None:
    with pytest.raises(UserError, match=rf"^{place}: YAML: .+$"):
        parse_yaml(text, "x")


@pytest.mark.parametrize(("text", "place"), [("a: 1\nb: 2\na: 3\n", "x:3:1"), ("a:\n  c: 1\n  c: 1\n", "x:3:3")])
def test_a_key_that_stands_twice_is_an_error(text: str, place: str) -> None:
    with pytest.raises(UserError, match=rf"^{place}: YAML: the key '[ac]' stands twice$"):
        parse_yaml(text, "x")


@pytest.mark.parametrize("text", ["", "just words", "- 1\n- 2", "3", "null"])
def test_what_is_not_a_mapping_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="expected a mapping of keys, found"):
        parse_yaml(text, "x")


def test_a_control_character_is_refused_in_one_line() -> None:
    with pytest.raises(UserError, match=r"^x: YAML: .+$"):
        parse_yaml("a: \x07", "x")


def test_a_file_that_is_not_there_or_not_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.yaml: no such file$"):
        read_yaml(tmp_path / "none.yaml")
    (tmp_path / "latin.yaml").write_bytes("name: café".encode("latin-1"))
    with pytest.raises(UserError, match="cannot be read"):
        read_yaml(tmp_path / "latin.yaml")
    with pytest.raises(UserError, match=r": a folder; expected a YAML file$"):
        read_yaml(tmp_path)


def test_a_file_reads_as_its_text(tmp_path: Path) -> None:
    (tmp_path / "car.yaml").write_text("name: café\n", encoding="utf-8")
    assert read_yaml(tmp_path / "car.yaml") == {"name": "café"}


def test_an_unknown_key_names_the_nearest_right_one() -> None:
    assert mistake("engin: {power: 1.0}") == "car.yaml: engin: unknown key, did you mean 'engine'? (and 1 more)"
    assert mistake("engine: {power: 1.0}\nwheel: [4]") == "car.yaml: wheel: unknown key, did you mean 'wheels'?"
    assert mistake("engine: {power: 1.0, gear: 3}") == "car.yaml: engine.gear: unknown key, did you mean 'gears'?"


def test_an_unknown_key_far_from_all_lists_the_known_ones() -> None:
    assert mistake("engine: {power: 1.0, zzz: 3}") == "car.yaml: engine.zzz: unknown key, known: power, gears, fuel"


def test_a_choice_names_the_nearest_right_one() -> None:
    line = mistake("engine: {power: 1.0, fuel: petrl}")
    assert line == "car.yaml: engine.fuel: found 'petrl' (text), did you mean 'petrol'?"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("engine: 3", "engine: expected keys with values, found 3 (a number)"),
        ("engine: {power: fast}", "engine.power: expected a number, found 'fast' (text)"),
        ("engine: {power: '1.0'}", "engine.power: expected a number, found '1.0' (text)"),
        ("engine: {power: 1.0}\nname: 3", "name: expected text, found 3 (a number)"),
        ("engine: {power: 1.0}\nname: yes", "name: expected text, found True (true/false)"),
        ("engine: {power: 1.0}\nopen_top: 1", "open_top: expected true or false, found 1 (a number)"),
        ("engine: {power: 1.0}\nwheels: 4", "wheels: expected a list, found 4 (a number)"),
        ("engine: {power: 1.0}\nwheels: [4, x]", "wheels.1: expected a whole number, found 'x' (text)"),
        ("engine: {power: 1.0}\ndoors: 0", "doors: expected greater than 0, found 0 (a number)"),
        ("name: x", "engine: missing"),
    ],
)
def test_a_wrong_type_is_one_line_with_key_expected_and_found(text: str, expected: str) -> None:
    assert mistake(text) == f"car.yaml: {expected}"


def test_of_several_mistakes_the_first_is_told_and_the_others_counted() -> None:
    assert mistake("engine: {power: x, gears: y}\nname: 3").endswith("found 'x' (text) (and 2 more)")


def test_a_config_cannot_be_changed_in_place() -> None:
    config = car("engine: {power: 1.0}")
    with pytest.raises(ValueError, match="frozen"):
        config.name = "other"  # type: ignore[misc]


def test_change_gives_a_validated_copy() -> None:
    config = car("engine: {power: 1.0}")
    assert (config.change(name="van").name, config.name) == ("van", "car")
    with pytest.raises(ValueError, match="doors"):
        config.change(doors=-1)


def test_set_puts_dotted_keys_in() -> None:
    raw = {"engine": {"power": 1.0, "gears": 4}, "name": "car"}
    changed = override(raw, ["engine.gears=2e6", "wheels=[3, 4]", "a.b.c=x", "name=", "engine.fuel=a=b"])
    assert changed == {
        "engine": {"power": 1.0, "gears": 2e6, "fuel": "a=b"},
        "name": None,
        "wheels": [3, 4],
        "a": {"b": {"c": "x"}},
    }
    assert raw == {"engine": {"power": 1.0, "gears": 4}, "name": "car"}


def test_of_two_settings_of_a_key_the_later_counts() -> None:
    assert override({}, ["a.b=1", "a.c=2", "a.b=3"]) == {"a": {"b": 3, "c": 2}}


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("name", "expected key=value"),
        ("=3", "expected key=value"),
        ("name=[1", "the value is not YAML"),
        ("name.first=x", "'name' holds 'car' (text), not keys"),
    ],
)
def test_a_setting_that_cannot_be_put_in_is_one_line(setting: str, expected: str) -> None:
    with pytest.raises(UserError) as error:
        override({"name": "car"}, [setting])
    assert str(error.value) == f"--set {setting}: {expected}"


def test_nearest_answers_with_a_near_word_or_with_all() -> None:
    assert nearest("attenton", ["attention", "ffn"]) == "did you mean 'attention'?"
    assert nearest("xyz", ["attention", "ffn"]) == "known: attention, ffn"


@given(
    lr=st.floats(1e-9, 1e3),
    beta=st.floats(0, 1),
    clip=st.none() | st.floats(1e-6, 10),
    tokens=st.integers(1, 10**15),
    globs=st.lists(st.text(min_size=1), min_size=1, max_size=3),
    rank=st.sampled_from(["dense", "attention=1/4", "0 gate=1/8 down=1/4; 1 q,k=0.375"]),
)
def test_a_dumped_config_reads_back_equal(
    lr: float, beta: float, clip: float | None, tokens: int, globs: list[str], rank: str
) -> None:
    shape = {"vocab_size": 257, "d_model": 64, "d_ff": 128, "n_layers": 2, "n_heads": 4, "rank_multiple": 1}
    config = TrainConfig(
        model=ModelConfig.parse({**shape, "placement": rank}, "shape"),
        data=DataConfig(source="text", text=tuple(globs)),
        optim=OptimConfig(lr=lr, beta1=beta, clip=clip),
        tokens=tokens,
        batch_size=2,
    )
    text = dump_yaml(config, head="two\nlines")
    assert TrainConfig.parse(parse_yaml(text, "dump"), "dump") == config
    assert text.startswith("# two\n# lines\n")


def test_a_dump_spells_out_every_field() -> None:
    assert parse_yaml(dump_yaml(car("engine: {power: 1.0}")), "x") == {
        "engine": {"power": 1.0, "gears": 5, "fuel": "petrol"},
        "name": "car",
        "wheels": [4],
        "doors": None,
        "open_top": False,
    }


def test_comments_stand_above_their_keys_and_are_not_read():
    config = car("engine: {power: 1.0}")
    text = dump_yaml(config, "head", {"engine": ["of the whole " + "long " * 40], "engine.power": ["one", "two"]})
    assert "  # one\n  # two\n  power: 1.0\n" in text
    assert text.startswith("# head\n# of the whole long")
    assert max(map(len, text.splitlines())) <= 118
    assert parse_yaml(text, "x") == parse_yaml(dump_yaml(config), "x")
    with pytest.raises(ValueError, match=r"no such keys: engine\.pover"):
        dump_yaml(config, "", {"engine.pover": ["one"]})
