from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redteam.errors import BadInput
from redteam.plugins.reference import Reference, chain_text, parse_chain

letters = "abcdefghijklmnopqrstuvwxyz"
words = st.text(letters, min_size=1, max_size=6)
names = st.lists(words, min_size=1, max_size=3).map("-".join)
printable = st.text(st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp")), max_size=12)
paths = printable.map(lambda text: f"{text}.py").filter(lambda text: text.strip() == text)
plugin_names = names | st.tuples(paths, names).map("@".join)
scalars = st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | printable
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(printable, inner, max_size=2), max_leaves=6
)
references = st.builds(Reference, plugin_names, st.dictionaries(words, values, max_size=3))


@given(st.lists(references, min_size=1, max_size=3))
def test_what_is_written_is_read_back(chain: list[Reference]) -> None:
    text = chain_text(tuple(chain))
    read = parse_chain(text)
    assert read == tuple(chain)
    assert [dict(one.settings) for one in read] == [dict(one.settings) for one in chain]
    assert chain_text(read) == text


@given(st.text(max_size=40) | st.text("ab:=,+[]{}'\"@.py1 #", max_size=20))
def test_any_text_is_read_or_refused_in_one_sentence(text: str) -> None:
    try:
        chain = parse_chain(text)
    except BadInput as error:
        sentence = str(error)
        assert sentence.endswith(".")
        assert "\n" not in sentence
    else:
        assert parse_chain(chain_text(chain)) == chain


@given(st.permutations([("a", 1), ("b", "x"), ("c", (1, 2))]))
def test_the_order_of_settings_does_not_matter(items: list[tuple[str, object]]) -> None:
    assert str(Reference("x", dict(items))) == "x:a=1,b=x,c=[1,2]"


@pytest.mark.parametrize(
    ("text", "name", "settings"),
    [
        ("mergelock", "mergelock", {}),
        ("mergelock:scale=[0.01,100]", "mergelock", {"scale": (0.01, 100)}),
        ("mergekit:method=ties", "mergekit", {"method": "ties"}),
        ("few-shot:samples=64", "few-shot", {"samples": 64}),
        ("a:sites=[qk,vo]", "a", {"sites": ("qk", "vo")}),
        ("a:sites=[qk, 'v,o', [1, 2,],]", "a", {"sites": ("qk", "v,o", (1, 2))}),
        ("a:x=1e+5", "a", {"x": 1e5}),
        ("a:x=+5", "a", {"x": 5}),
        ("a:x=true,y='true',z=1.5.2", "a", {"x": True, "y": "true", "z": "1.5.2"}),
        ("a:t='x,y:z+w=1'", "a", {"t": "x,y:z+w=1"}),
        ('a:t="quote \\" and, comma"', "a", {"t": 'quote " and, comma'}),
        ("a:t={k=1,l=[2,3]}", "a", {"t": {"k": 1, "l": (2, 3)}}),
        ("a:learning-rate=1", "a", {"learning_rate": 1}),
        ("a:day=2024-01-01", "a", {"day": "2024-01-01"}),
        ("./dir/my_file.py@my-name:x=1", "./dir/my_file.py@my-name", {"x": 1}),
        ("C:\\dir\\f.py@g:x=1", "C:\\dir\\f.py@g", {"x": 1}),
        ("'odd+dir, here/f.py'@g", "odd+dir, here/f.py@g", {}),
    ],
)
def test_one_reference(text: str, name: str, settings: dict[str, object]) -> None:
    read = Reference.parse(text)
    assert (read.name, read.settings) == (name, settings)
    assert Reference.parse(str(read)) == read


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("a+b+c", ["a", "b", "c"]),
        ("a:x=[1,2]+b", ["a", "b"]),
        ("a:seed=0+b:x='1+b'", ["a", "b"]),
        ("a + b", ["a", "b"]),
        ("a:x=1e+5+./f.py@b", ["a", "./f.py@b"]),
    ],
)
def test_chains(text: str, names: list[str]) -> None:
    assert [one.name for one in parse_chain(text)] == names


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "+a",
        "a+",
        "a++b",
        "a:",
        "a:x",
        "a:x=",
        "a:=1",
        "a:x=1,",
        "a:x=1,x=2",
        "a:x=[1",
        "a:x=1]",
        "a:x='1",
        "a b",
        "a:x=1#c",
        "a:x=b c",
        "a@b",
        "@b",
        "f.py@",
        "f.txt@g",
        "a,b",
        "a:x=1\ny=2",
        "a:x=(1]",
        "-a",
        "a:x={k=}",
    ],
)
def test_what_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(BadInput):
        parse_chain(text)


def test_a_chain_where_one_is_expected_is_refused() -> None:
    with pytest.raises(BadInput, match="chains 2"):
        Reference.parse("a+b")


def test_equality_tells_types_apart() -> None:
    assert Reference("a", {"x": 1}) != Reference("a", {"x": True})
    assert Reference("a", {"x": [1]}) == Reference("a", {"x": (1,)})
    assert len({Reference("a"), Reference("a"), Reference("b")}) == 2


def test_what_is_nothing_is_left_out() -> None:
    assert str(Reference("params", {"seed": None})) == "params"
    assert str(Reference("params", {"prune": 0.5, "seed": None})) == "params:prune=0.5"
    with pytest.raises(BadInput, match="cannot hold"):
        str(Reference("params", {"sites": ["qk", None]}))


def test_paths_of_windows_are_split_where_the_name_begins() -> None:
    chain = parse_chain(r"none+C:\x\y.py@name:scale=0.5+D:/z/q.py@other")
    assert [(link.file, link.plugin) for link in chain] == [
        ("", "none"),
        ("C:\\x\\y.py", "name"),
        ("D:/z/q.py", "other"),
    ]
    assert parse_chain(chain_text(chain)) == chain
