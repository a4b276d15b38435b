"""The written form of a backend's name."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnkernels.errors import InputError
from nnkernels.names import BackendName, parse_backend, split_names

identifiers = st.from_regex(r"[a-z_][a-z0-9_]{0,8}", fullmatch=True)
kernels = st.builds("{}.{}:{}".format, identifiers, identifiers, identifiers) | identifiers


@st.composite
def names(draw: st.DrawFn) -> BackendName:
    settings = draw(
        st.fixed_dictionaries(
            {}, optional={"threads": st.integers(0, 999), "precision": st.sampled_from(["tf32"])}
        )
    )
    device = draw(st.none() | st.from_regex(r"[0-9]{1,2}", fullmatch=True))
    swaps = draw(st.dictionaries(identifiers, kernels, max_size=3))
    return BackendName(draw(identifiers), device, settings, swaps)


def written(name: BackendName) -> str:
    settings = ",".join(f"{k}={v}" for k, v in name.settings.items())
    swaps = ",".join(f"{k}={v}" for k, v in name.swaps.items())
    return (
        name.base
        + (f":{name.device}" if name.device is not None else "")
        + (f"({settings})" if settings else "")
        + (f"[{swaps}]" if swaps else "")
    )


@given(names())
def test_what_is_written_is_read_back(name):
    assert parse_backend(written(name)) == name


@given(st.lists(names(), min_size=1, max_size=4))
def test_a_list_of_names_is_split_outside_of_brackets(several):
    texts = [written(name) for name in several]
    assert split_names(",".join(texts)) == texts
    assert split_names(" , ".join(texts)) == texts


@given(st.text(max_size=40))
def test_any_text_is_read_or_refused(text):
    try:
        parsed = parse_backend(text)
    except InputError as error:
        assert repr(text) in str(error)
    else:
        assert parsed.base in text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("numpy", BackendName("numpy", None, {}, {})),
        (" numpy ", BackendName("numpy", None, {}, {})),
        ("cupy:1", BackendName("cupy", "1", {}, {})),
        ("my-plugin.v2", BackendName("my-plugin.v2", None, {}, {})),
        ("numpy(threads=2)", BackendName("numpy", None, {"threads": 2}, {})),
        ("numpy( threads = 2 )", BackendName("numpy", None, {"threads": 2}, {})),
        ("numpy()[]", BackendName("numpy", None, {}, {})),
        ("numpy[relu=a.b:c]", BackendName("numpy", None, {}, {"relu": "a.b:c"})),
        (
            "cupy:0(precision=tf32,threads=1)[relu=reference,tanh=m:f]",
            BackendName(
                "cupy",
                "0",
                {"precision": "tf32", "threads": 1},
                {"relu": "reference", "tanh": "m:f"},
            ),
        ),
    ],
)
def test_examples(text, expected):
    assert parse_backend(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "1numpy",
        "numpy:",
        "numpy(threads=1",
        "numpy)threads=1(",
        "numpy[relu=a",
        "numpy[relu=a](threads=1)",
        "numpy[[relu=a]]",
        "numpy,reference",
        "numpy(threads)",
        "numpy(threads=)",
        "numpy(threads=one)",
        "numpy(threads=-1)",
        "numpy(threads=1.5)",
        "numpy(threads=\u00b2)",
        "numpy(threads=" + "9" * 5000 + ")",
        "numpy(threads=1,threads=2)",
        "numpy(cores=2)",
        "numpy[relu]",
        "numpy[relu=]",
        "numpy[relu=a:b,relu=c:d]",
        "numpy\0",
    ],
)
def test_bad_names_are_refused_with_the_text(text):
    with pytest.raises(InputError) as caught:
        parse_backend(text)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize("value", [None, 3, b"numpy", ["numpy"]])
def test_what_is_no_text_is_refused(value):
    with pytest.raises(InputError, match="must be a text"):
        parse_backend(value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        (" , ,", []),
        ("numpy", ["numpy"]),
        ("numpy,numpy[relu=a:b,tanh=c:d]", ["numpy", "numpy[relu=a:b,tanh=c:d]"]),
        (
            "numpy(threads=1,precision=fp32),reference",
            ["numpy(threads=1,precision=fp32)", "reference"],
        ),
    ],
)
def test_splitting(text, expected):
    assert split_names(text) == expected
