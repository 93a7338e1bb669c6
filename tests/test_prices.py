"""The table of prices: what comes with the package, the user's own, and what is refused."""

import csv
import json
import subprocess
import sys

import pytest

from bertwright import cli
from bertwright.errors import UserError
from bertwright.prices import SHIPPED, find_price, load_prices, read_prices, refresh, selected, user_file

HEADER = (
    "cloud,region,machine,accelerator,num_accelerators,num_cpus,memory_gib,usd_per_hour,spot_usd_per_hour,as_of,"
    "source,note"
)
ROW = "here,lab,box,none (CPU: AMX),0,2,24,0.5,,2026-01-02,a bill,"


@pytest.fixture(autouse=True)
def own_settings(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "settings"))


def write(path, *rows, header=HEADER):
    path.write_text("\n".join((header, *rows)) + "\n")
    return path


def test_the_shipped_table_is_sound_and_dated():
    prices, path = load_prices()
    assert path == SHIPPED
    assert len(prices) > 80
    assert all(price.usd_per_hour > 0 and price.source for price in prices)
    assert all(price.spot_usd_per_hour is None or price.spot_usd_per_hour < price.usd_per_hour for price in prices)
    assert sum(bool(price.as_of) for price in prices) > 80
    assert find_price(prices, "aws/p3.2xlarge").usd_per_hour == 3.06
    assert find_price(prices, "p3.2xlarge").accelerator == "NVIDIA V100-16GB"


def test_prices_in_doubt_are_marked_and_explained(capsys):
    doubtful = {price.name for price in load_prices()[0] if price.doubtful}
    assert doubtful == {"gcp/a3-ultragpu-8g", "gcp/a4-highgpu-8g"}

    def listed(*words):
        with pytest.raises(SystemExit):
            cli.main(["prices", "list", "gcp", *words])
        return capsys.readouterr().out

    shown = listed("b200")
    assert "90.216?" in shown
    assert "? a doubtful price: gcp/a4-highgpu-8g: TOTAL added here" in " ".join(shown.split())
    assert "?" not in listed("l4")
    (record,) = json.loads(listed("b200", "--json"))
    assert "DOUBTFUL" in record["note"]


def test_words_select_and_the_cheapest_comes_first():
    found = selected(load_prices()[0], ["gcp", "h100"])
    assert found
    assert {price.cloud for price in found} == {"gcp"}
    assert all("H100" in price.accelerator for price in found)
    assert [price.usd_per_hour for price in found] == sorted(price.usd_per_hour for price in found)


def test_a_newer_table_takes_the_place_of_the_shipped_one(tmp_path):
    number, path = refresh(write(tmp_path / "new.csv", ROW, ROW.replace("box", "bigger").replace("24,0.5", ",1")))
    assert (number, path) == (2, user_file())
    prices, found = load_prices()
    assert found == path
    assert [price.name for price in prices] == ["here/box", "here/bigger"]
    assert prices[0].num_cpus == 2
    assert prices[1].memory_gib is None
    assert read_prices(path) == prices
    with pytest.raises(UserError, match="no such machine"):
        find_price(prices, "p3.2xlarge")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "column cloud is missing"),
        (HEADER, "no prices in it"),
        (HEADER.replace(",machine", "") + "\n", "column machine is missing"),
        (f"{HEADER}\n{ROW}\n{ROW}\n", "line 3: here/box in lab is there twice"),
        (f"{HEADER}\n{ROW},more\n", "line 2: found another number of values"),
        (f"{HEADER}\nhere,lab\n", "line 2: found another number of values"),
        (f"{HEADER}\n{ROW.replace('0.5', '-1')}\n", "usd_per_hour is '-1', expected a number of 0 or more"),
        (f"{HEADER}\n{ROW.replace('0.5', 'nan')}\n", "usd_per_hour is 'nan'"),
        (f"{HEADER}\n{ROW.replace('0.5', '')}\n", "usd_per_hour is empty"),
        (f"{HEADER}\n{ROW.replace(',0,2', ',0.5,2')}\n", "num_accelerators is '0.5', expected a whole number"),
        (f"{HEADER}\n{ROW.replace('2026-01-02', 'May')}\n", "as_of is 'May', expected YYYY-MM-DD"),
        (f"{HEADER}\n{ROW.replace('here', ' ')}\n", "cloud is empty"),
        (f'{HEADER}\n"{ROW}\n', "cannot be read as csv"),
        ("\0" * 40, "column cloud is missing"),
    ],
)
def test_a_bad_table_is_refused_with_its_line_and_the_one_before_stays(tmp_path, text, message):
    (tmp_path / "bad.csv").write_text(text)
    with pytest.raises(UserError, match=message.replace("(", r"\(")):
        refresh(tmp_path / "bad.csv")
    assert load_prices()[1] == SHIPPED


def test_what_is_no_text_or_not_there_is_refused(tmp_path):
    (tmp_path / "bytes.csv").write_bytes(b"\xff\xfe\x00")
    for name in ("bytes.csv", "nowhere.csv"):
        with pytest.raises(UserError, match="cannot be read"):
            read_prices(tmp_path / name)


def test_near_names_are_offered_and_doubles_named(tmp_path):
    prices = load_prices()[0]
    with pytest.raises(UserError, match=r"did you mean .*p3\.2xlarge"):
        find_price(prices, "p3.2xlrge")
    twice = read_prices(write(tmp_path / "two.csv", ROW, ROW.replace("lab", "attic")))
    with pytest.raises(UserError, match="here/box in lab, here/box in attic"):
        find_price(twice, "box")


def test_the_commands_list_and_refresh_without_torch(tmp_path):
    program = "import sys; sys.modules['torch'] = None\nfrom bertwright.cli import main\nmain(sys.argv[1:])"

    def call(*arguments):
        return subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False)

    listed = call("prices", "list", "V100")
    assert listed.returncode == 0, listed.stderr
    assert "p3.2xlarge" in listed.stdout
    assert "T4" not in listed.stdout
    records = json.loads(call("prices", "list", "T4", "--json").stdout)
    with SHIPPED.open() as file:
        expected = [row for row in csv.DictReader(file) if "T4" in row["accelerator"] or "T4" in row["machine"]]
    assert len(records) == len(expected)
    refreshed = call("prices", "refresh", "--from", str(write(tmp_path / "new.csv", ROW)))
    assert refreshed.returncode == 0, refreshed.stderr
    assert "1 prices" in refreshed.stderr
    assert "box" in call("prices", "list").stdout


def test_no_such_word_is_one_line(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["prices", "list", "abacus"])
    assert ended.value.code == 2
    assert "no machine in" in capsys.readouterr().err
